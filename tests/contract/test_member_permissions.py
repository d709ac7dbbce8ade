"""The rules that the operator ships with let it give members their roles, without having those roles itself."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from devcluster import Environment
from devcluster.cluster import add_user
from devcluster.platform import OPERATOR, installed
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.platform_store import KubernetesPlatformStore
from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.names import API_VERSION
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog.platform_reconciler import RESYNC_SECONDS, PlatformKey, PlatformReconciler
from tenant_operator.provisioning.options import Options
from tenant_operator.replicas.alone import Alone

RBAC = "rbac.authorization.k8s.io"
ROLES = installed("ClusterRole")
(RULES,) = (each["rules"] for each in ROLES if each["metadata"]["name"] == OPERATOR)


class Platform:
    """An Organization and a Plan in a real cluster, and a reconciler that is no more than its rules allow."""

    def __init__(self, environment: Environment, client: KubernetesClient, name: str) -> None:
        self.name = name
        self._environment = environment
        self._catalog = WatchedCatalog()
        self._reconciler = PlatformReconciler(
            KubernetesPlatformStore(client), KubernetesCluster(client), self._catalog, SystemClock(), Options(), Alone()
        )

    def apply(self, *manifests: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "--filename=-", stdin=text)

    def allow(self, rules: Sequence[dict[str, Any]]) -> None:
        """Let the operator's user do just this."""
        metadata = {"name": self.name}
        subjects = [{"apiGroup": RBAC, "kind": "User", "name": self.name}]
        role_ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": self.name}
        self.apply(
            {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": list(rules)},
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": metadata,
                "roleRef": role_ref,
                "subjects": subjects,
            },
        )

    def organization(self, *members: dict[str, str]) -> None:
        spec = {"namespace": self.name, "members": members}
        self.apply(self._object("Organization", spec))

    def plan(self) -> None:
        workload = {"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}
        self.apply(self._object("Plan", {"workloads": [workload]}))

    async def reconcile(self, kind: type[Organization] | type[Plan]) -> float | None:
        body = json.loads(self.kubectl("get", kind.definition.plural, self.name, "--output=json"))
        (self._catalog.observe_plan if kind is Plan else self._catalog.observe_organization)(None, body)
        return await self._reconciler.reconcile(PlatformKey(kind, self.name), asyncio.Event())

    def ready(self) -> str:
        body = json.loads(self.kubectl("get", "organization", self.name, "--output=json"))
        ready = find_condition(Organization.model_validate(body).status.conditions, ConditionType.READY)
        return "" if ready is None else f"{ready.status.value} {ready.reason} {ready.message}"

    def bound(self) -> dict[str, list[str]]:
        listed = json.loads(self.kubectl("get", "rolebindings", f"--namespace={self.name}", "--output=json"))
        return {each["metadata"]["name"]: [one["name"] for one in each["subjects"]] for each in listed["items"]}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        command = [str(self._environment.kubectl), f"--kubeconfig={self._environment.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _object(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": self.name}, "spec": spec}


@pytest.fixture
async def platform(devcluster: Environment) -> AsyncIterator[Platform]:
    name = f"contract-{uuid4().hex[:8]}"
    async with await KubernetesClient.connect(Connection(add_user(devcluster.state, name))) as client:
        platform = Platform(devcluster, client, name)
        platform.apply(*ROLES)
        platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield platform


async def test_the_rules_are_enough(platform: Platform) -> None:
    platform.allow(RULES)
    members = [{"kind": "User", "name": role, "role": role} for role in ("owner", "admin", "viewer")]
    platform.organization(*members)
    platform.plan()

    assert await platform.reconcile(Organization) == RESYNC_SECONDS
    assert await platform.reconcile(Plan) == RESYNC_SECONDS
    assert platform.bound() == {f"intelliauth-{role}": [role] for role in ("owner", "admin", "viewer")}

    platform.organization({"kind": "Group", "name": "all", "role": "owner"})
    assert await platform.reconcile(Organization) == RESYNC_SECONDS
    assert platform.bound() == {"intelliauth-owner": ["all"]}
    assert platform.ready().startswith("True Reconciled")


async def test_without_leave_to_bind_it_says_so(platform: Platform) -> None:
    """It cannot give away what it does not have: the API server sees to that."""
    platform.allow([rule for rule in RULES if "bind" not in rule["verbs"]])
    platform.organization({"kind": "User", "name": "ann", "role": "owner"})

    await platform.reconcile(Organization)

    assert platform.bound() == {}
    assert platform.ready().startswith(f"False RoleBindingFailed RoleBinding {platform.name}/intelliauth-owner: ")
    assert "attempting to grant RBAC permissions not currently held" in platform.ready()
