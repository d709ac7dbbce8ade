"""An operator that the API server asks about every write, over TLS, on this machine."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from devcluster import Environment, ports
from devcluster.cluster import add_user
from devcluster.platform import PlatformError, Webhook, install_webhook, kubectl, remove_webhook
from tests.e2e import catalog
from tests.e2e.feed import Object, TenantFeed
from tests.e2e.operator_process import OperatorProcess
from tests.e2e.waiting import until
from tests.e2e.world import Answer, World

PAIR = "pair"
"""A plan of which an organisation may have two tenants."""

OWNER, ADMIN, VIEWER = "olga@acme.example", "adam@acme.example", "vera@acme.example"
EDITOR, STRANGER = "edith@acme.example", "sven@other.example"
"""Edith may write Tenants, as far as Kubernetes' own verbs go; Sven may do nothing."""


def organization() -> Object:
    """The organisation of the tests, with members, and entitled to one more plan."""
    found = catalog.organization()
    members = [
        {"kind": "User", "name": name, "role": role}
        for name, role in ((OWNER, "owner"), (ADMIN, "admin"), (VIEWER, "viewer"))
    ]
    return {**found, "spec": {**found["spec"], "members": members, "plans": [*found["spec"]["plans"], PAIR]}}


def editors() -> list[Object]:
    """What lets Edith write Tenants without a role of the product."""
    group, name = "rbac.authorization.k8s.io", "tenant-editor"
    metadata = {"name": name, "namespace": catalog.NAMESPACE}
    ordinary = ["get", "list", "watch", "create", "update", "patch", "delete"]
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": ["intelliauth.io"], "resources": ["tenants"], "verbs": ordinary}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": EDITOR}],
        },
    ]


def refusal(platform: Environment) -> str:
    """What the API server says to a Tenant that only the webhook refuses; empty if it would take it. It hears of the
    webhook's configuration by a watch."""
    nonsense = json.dumps(catalog.tenant("nonsense", "no-such-plan"))
    try:
        kubectl(platform, "create", "--dry-run=server", "--filename=-", stdin=nonsense)
    except PlatformError as error:
        return str(error)
    return ""


@dataclass
class GatedWorld(World):
    """A world in which people have names, and what they write is judged first."""

    webhook: Webhook = field(kw_only=True)
    users: Mapping[str, Path] = field(kw_only=True)

    def ask_as(self, user: str, *arguments: str, stdin: str = "") -> Answer:
        """Run kubectl as somebody, whatever comes of it."""
        command = [str(self.platform.kubectl), f"--kubeconfig={self.users[user]}", *arguments]
        done = subprocess.run(  # noqa: S603
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def ask_about(self, name: str, verb: str, *arguments: str, user: str, stdin: str = "") -> Answer:
        """Run a kubectl command on a Tenant of the organisation as somebody."""
        return self.ask_as(user, verb, "tenant", name, f"--namespace={catalog.NAMESPACE}", *arguments, stdin=stdin)

    def guard(self) -> None:
        """Have the API server ask."""
        install_webhook(self.platform, self.webhook.url, self.webhook.authority.read_bytes())
        until(lambda: "denied the request" in refusal(self.platform), "the API server asks")

    def unguard(self) -> None:
        """Have it ask nobody."""
        remove_webhook(self.platform)
        until(lambda: not refusal(self.platform), "the API server asks nobody")

    def has_roles(self) -> bool:
        """Whether the members may do what their roles say."""
        return all(
            self.ask_as(user, "auth", "can-i", "get", "tenants", f"--namespace={catalog.NAMESPACE}").code == 0
            for user in (OWNER, ADMIN, VIEWER, EDITOR)
        )


@contextmanager
def gated_world(platform: Environment, feed: TenantFeed, folder: Path, **settings: str) -> Iterator[GatedWorld]:
    """An operator at work behind its webhooks. At the end nothing is left, and it never stumbled."""
    if Environment.load(platform.state) is None:
        pytest.skip("the API server of a foreign cluster does not reach a webhook on this machine")
    webhook = Webhook.issue(folder / "webhook", ports.choose(1)[0])
    operator = OperatorProcess(platform, folder, {"STALLED_RETRY": "1s", **webhook.settings(), **settings})
    users = {name: add_user(platform.state, name) for name in (OWNER, ADMIN, VIEWER, EDITOR, STRANGER)}
    world = GatedWorld(platform, feed, operator, webhook=webhook, users=users)
    pair: dict[str, Any] = catalog.plan(PAIR, limits={"tenants": 2})
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": catalog.NAMESPACE}}
    world.apply(namespace, *catalog.PLANS.values(), pair, organization(), *editors())
    try:
        operator.start()
        world.guard()
        until(world.has_roles, "the operator has given the members their roles")
        yield world
        world.is_clean()
        world.kubectl("delete", "plan", PAIR)
        assert operator.stop() == 0
        assert operator.stumbles() == []
    finally:
        world.unguard()
        if operator.is_running:
            operator.kill()
