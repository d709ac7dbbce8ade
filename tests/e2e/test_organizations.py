"""Organizations and Plans: members get their roles and keep them, and the status tells how things are."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Environment, add_user
from tenant_operator.api.names import API_VERSION
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import World, condition, status

GUILD = "e2e-guild"
ELSEWHERE = "e2e-guild-elsewhere"
OWNER, ADMIN, VIEWER, STRANGER = "ann@guild.example", "bob@guild.example", "cid@guild.example", "eve@other.example"
ENGINEERS = "guild:engineers"
VERBS = {
    OWNER: {"get", "create", "patch", "delete", "provision", "cancel", "retry", "reset", "suspend", "decommission"},
    ADMIN: {"get", "create", "patch", "provision", "cancel", "retry", "reset", "suspend"},
    VIEWER: {"get"},
    STRANGER: set(),
}
ALL_VERBS = sorted(VERBS[OWNER])
MEMBERS = [
    {"kind": "User", "name": OWNER, "role": "owner"},
    {"kind": "User", "name": ADMIN, "role": "admin"},
    {"kind": "User", "name": VIEWER, "role": "viewer"},
    {"kind": "Group", "name": ENGINEERS, "role": "viewer"},
    {"kind": "ServiceAccount", "name": "argo", "namespace": GUILD, "role": "admin"},
]


def organization(*members: Object, namespace: str = GUILD, **spec: Any) -> Object:
    return {
        "apiVersion": API_VERSION,
        "kind": "Organization",
        "metadata": {"name": GUILD},
        "spec": {"namespace": namespace, "members": list(members), **spec},
    }


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


class Guild:
    """An organisation of its own, its members, and who may do what in it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def apply(self, *members: Object, **spec: Any) -> None:
        self.world.apply(organization(*members, **spec))

    def ready(self, value: str = "True", reason: str = "Reconciled") -> Object:
        """The Ready condition, once it says so of the newest spec."""

        now: Object = {}

        def look() -> bool:
            nonlocal now
            now = self.world.read("organization", GUILD) or {}
            ready = condition(now, "Ready")
            seen = status(now).get("observedGeneration") == now["metadata"]["generation"]
            return seen and (ready.get("status"), ready.get("reason")) == (value, reason)

        until(look, f"Organization {GUILD} is Ready={value} ({reason})", tell=lambda: status(now))
        return condition(now, "Ready")

    def bound(self, where: str = GUILD) -> dict[str, list[str]]:
        """The names of the subjects, by the name of the RoleBinding."""
        bindings = self.world.listed("rolebindings", f"--namespace={where}")
        return {each["metadata"]["name"]: [one["name"] for one in each.get("subjects", [])] for each in bindings}

    def labels(self, binding: str) -> dict[str, str]:
        found = self.world.read("rolebinding", binding, GUILD) or {"metadata": {}}
        labels: dict[str, str] = found["metadata"].get("labels") or {}
        return labels

    def becomes(self, bound: dict[str, list[str]], where: str = GUILD, seconds: float = 60.0) -> None:
        until(lambda: self.bound(where) == bound, f"the RoleBindings in {where} are {bound}", seconds)

    def may(self, user: str, groups: Sequence[str] = ()) -> set[str]:
        """What the user may do with Tenants here, as the API server sees it."""
        who = _as(self.world.platform, user, groups)
        return {
            verb
            for verb in ALL_VERBS
            if self.world.ask("auth", "can-i", verb, "tenants.intelliauth.io", f"--namespace={GUILD}", *who).out.strip()
            == "yes"
        }

    def asks(self, user: str, *arguments: str, stdin: str = "", groups: Sequence[str] = ()) -> str:
        """What kubectl says to the user; of a refusal, the refusal."""
        answer = self.world.ask(*arguments, *_as(self.world.platform, user, groups), stdin=stdin)
        return answer.out if answer.code == 0 else answer.err


def _as(platform: Environment, user: str, groups: Sequence[str]) -> list[str]:
    """The options that make kubectl that user: a certificate where the cluster is ours, impersonation elsewhere."""
    if Environment.load(platform.state) is not None:
        return [f"--kubeconfig={add_user(platform.state, user, groups)}"]
    return [f"--as={user}", *(f"--as-group={group}" for group in groups)]


@pytest.fixture
def guild(world: World) -> Iterator[Guild]:
    world.apply(namespace(GUILD))
    yield Guild(world)
    world.kubectl("delete", "organization", GUILD, "--ignore-not-found")
    world.kubectl("delete", "namespace", GUILD, ELSEWHERE, "--ignore-not-found")


def test_members_may_do_what_their_role_says_and_others_nothing(guild: Guild) -> None:
    guild.apply(*MEMBERS)
    guild.ready()

    assert {user: guild.may(user) for user in VERBS} == VERBS
    assert guild.may("dan@guild.example", [ENGINEERS]) == VERBS[VIEWER]
    service_account = f"system:serviceaccount:{GUILD}:argo"
    assert guild.may(service_account, ["system:serviceaccounts"]) == VERBS[ADMIN]

    tenant = catalog.tenant("forged", "small")
    tenant["metadata"]["namespace"] = GUILD
    create = ("create", "--dry-run=server", "--filename=-")
    assert "forbidden" in guild.asks(VIEWER, *create, stdin=json.dumps(tenant))
    assert "forbidden" in guild.asks(STRANGER, "get", "tenants", f"--namespace={GUILD}")
    assert (
        "No resources found"
        in guild.world.ask("get", "tenants", f"--namespace={GUILD}", *_as(guild.world.platform, VIEWER, ())).err
    )
    # Membership is of one organisation. The customers are nobody's business, and neither are the plans by themselves.
    assert "forbidden" in guild.asks(OWNER, "get", "tenants", f"--namespace={catalog.NAMESPACE}")
    assert "forbidden" in guild.asks(OWNER, "get", "organizations")
    assert "forbidden" in guild.asks(OWNER, "get", "plans")
    assert "forbidden" in guild.asks(STRANGER, "get", "plans")


def test_roles_follow_the_members(guild: Guild) -> None:
    guild.apply(*MEMBERS)
    guild.ready()

    guild.apply({"kind": "User", "name": ADMIN, "role": "owner"}, {"kind": "User", "name": VIEWER, "role": "viewer"})

    guild.becomes({"intelliauth-owner": [ADMIN], "intelliauth-viewer": [VIEWER]})
    assert guild.may(ADMIN) == VERBS[OWNER]
    assert guild.may(OWNER) == set()


def test_who_edits_or_deletes_a_role_binding_edits_in_vain(guild: Guild) -> None:
    guild.apply(*MEMBERS)
    guild.ready()
    was = guild.bound()
    where = f"--namespace={GUILD}"

    guild.world.kubectl("delete", "rolebinding", "intelliauth-owner", "intelliauth-viewer", where)
    guild.becomes(was)
    guild.world.kubectl("set", "subject", "rolebinding", "intelliauth-owner", where, f"--user={STRANGER}")
    guild.becomes(was)
    assert guild.may(STRANGER) == set()
    another = ("intelliauth.io/organization=other", "app.kubernetes.io/managed-by-")
    guild.world.kubectl("label", "--overwrite", "rolebinding", "intelliauth-admin", where, *another)
    until(
        lambda: (
            guild.labels("intelliauth-admin")
            == {"intelliauth.io/organization": GUILD, "app.kubernetes.io/managed-by": "tenant-operator"}
        ),
        "its labels are what they were",
    )
    assert guild.bound() == was


def test_a_role_binding_of_that_name_made_by_hand_is_left_alone(guild: Guild) -> None:
    where = f"--namespace={GUILD}"
    by_hand = ("create", "rolebinding", "intelliauth-owner", where, "--clusterrole=view", f"--user={STRANGER}")
    guild.world.kubectl(*by_hand)
    guild.apply(*MEMBERS[:3])

    told = guild.ready("False", "RoleBindingTaken")
    assert told["message"].startswith(f"RoleBinding {GUILD}/intelliauth-owner is not kept by the operator")
    assert guild.bound() == {
        "intelliauth-owner": [STRANGER],
        "intelliauth-admin": [ADMIN],
        "intelliauth-viewer": [VIEWER],
    }

    guild.world.kubectl("delete", "rolebinding", "intelliauth-owner", where)
    guild.ready()
    assert guild.bound()["intelliauth-owner"] == [OWNER]


def test_a_namespace_may_come_later_and_roles_move_with_it(guild: Guild) -> None:
    guild.apply(MEMBERS[0])
    guild.ready()

    guild.apply(MEMBERS[0], namespace=ELSEWHERE)
    told = guild.ready("False", "NamespaceNotFound")
    assert told["message"] == f"namespace {ELSEWHERE} does not exist; create it"
    assert guild.bound() == {}

    guild.world.apply(namespace(ELSEWHERE))
    guild.ready()
    assert guild.bound(ELSEWHERE) == {"intelliauth-owner": [OWNER]}


def test_roles_go_with_the_organization(guild: Guild) -> None:
    guild.apply(*MEMBERS)
    guild.ready()

    guild.world.kubectl("delete", "organization", GUILD)

    # The garbage collector of a new cluster takes half a minute to learn of new kinds.
    guild.becomes({}, seconds=90)
    assert guild.may(OWNER) == set()


def test_plans_that_do_not_exist_are_named_until_they_do(guild: Guild) -> None:
    guild.apply(plans=["small", "promised"])
    assert guild.ready("False", "PlanNotFound")["message"].startswith("plan promised does not exist")

    guild.world.apply(catalog.plan("promised"))
    guild.ready()
    guild.world.kubectl("delete", "plan", "promised")
    guild.ready("False", "PlanNotFound")


def test_a_plan_that_no_tenant_could_be_made_of_says_so(world: World) -> None:
    def says(value: str) -> Object:
        def look() -> Object:
            now = world.read("plan", "forgetful") or {}
            seen = status(now).get("observedGeneration") == now["metadata"]["generation"]
            return condition(now, "Ready") if seen and condition(now, "Ready")["status"] == value else {}

        return until(look, f"plan forgetful is Ready={value}")

    world.apply(catalog.plan("forgetful", readiness={"url": "https://{{ hots }}/healthz"}))
    assert says("False")["message"].startswith("plan forgetful, readiness URL: 'hots' is undefined")

    world.apply(catalog.plan("forgetful"))
    assert says("True")["reason"] == "Reconciled"


class Versions:
    """Every version of one object that there is while this is open, as kubectl tells of them."""

    def __init__(self, platform: Environment, kind: str, name: str, folder: Path) -> None:
        self._command = [
            str(platform.kubectl),
            f"--kubeconfig={platform.kubeconfig}",
            *("get", kind, name, "--watch", "--output=name"),
        ]
        self._log = folder / f"{kind}-{name}"

    def __enter__(self) -> "Versions":
        self._output = self._log.open("wb")
        self._process = subprocess.Popen(self._command, stdout=self._output)  # noqa: S603
        until(lambda: self.count, "the watch has begun")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._output.close()

    @property
    def count(self) -> int:
        return len(self._log.read_text().splitlines())


def test_tenants_are_counted_with_few_writes(world: World, tmp_path: Path) -> None:
    names = [f"counted-{number}" for number in range(12)]
    began = time.monotonic()
    with (
        Versions(world.platform, "organization", catalog.ORGANIZATION, tmp_path) as organizations,
        Versions(world.platform, "plan", "small", tmp_path) as plans,
    ):
        for tenant in world.tenants(names):
            tenant.settles("Active")
        _counted(world, active=len(names))
        seconds = time.monotonic() - began
        # Each tenant goes through two states, and each watch begins with the version that was there before.
        most = 2 + seconds / 2
        assert organizations.count - 1 <= most
        assert plans.count - 1 <= most

    world.clean_up()
    _counted(world, active=0)


def _counted(world: World, *, active: int) -> None:
    def look() -> bool:
        counts = status(world.read("organization", catalog.ORGANIZATION) or {}).get("tenants") or {}
        using = status(world.read("plan", "small") or {}).get("tenants", 0)
        return counts == ({"Active": active} if active else {}) and using == active

    until(look, f"{active} tenants are counted", 150)


def test_a_restart_with_nothing_new_writes_nothing(guild: Guild) -> None:
    guild.apply(*MEMBERS)
    guild.ready()
    before = guild.world.read("organization", GUILD)
    bindings = guild.world.listed("rolebindings", f"--namespace={GUILD}")
    assert guild.world.operator.stop() == 0
    guild.world.operator.start()

    # It is looked at once more, along with everything else: a witness that comes after it has had its turn.
    witness = {**organization(namespace="e2e-nowhere"), "metadata": {"name": "e2e-witness"}}
    guild.world.apply(witness)
    until(lambda: condition(guild.world.read("organization", "e2e-witness") or {}, "Ready"), "the witness is seen")
    guild.world.kubectl("delete", "organization", "e2e-witness")

    assert guild.world.read("organization", GUILD) == before
    assert guild.world.listed("rolebindings", f"--namespace={GUILD}") == bindings
