"""Whoever may write Organizations, or is a member of one, tries to get at another's hosts, namespace, members or names.

- Pam is a platform admin of one corner of the platform: she may create, change and delete Organizations and Plans, and
  sees neither the others' Organizations nor anybody's Tenants.
- Olga is owner in the organisation acme, Rita in the organisation rival. Both are known by certificate.
- Where the webhook is bypassed, the attacker got past it (it was away, or failurePolicy is Ignore): then the conditions
  of the Organization and the saga say the same.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from devcluster import Environment
from devcluster import platform as installed
from devcluster.cluster import add_user
from tenant_operator.api.names import ANNOTATION_ACTION, API_VERSION
from tests.e2e import catalog, webhook
from tests.e2e.feed import Object, TenantFeed
from tests.e2e.waiting import until
from tests.e2e.webhook import OWNER, PAIR, GatedWorld
from tests.e2e.world import World, condition, status

PAM, RITA = "pam@platform.example", "rita@rival.example"
RIVAL = "e2e-rival"
"""The name of the rival organisation, and of its namespace."""
GROUP = "rbac.authorization.k8s.io"
OPERATOR = "e2e-platform"
"""Where the operator lives, as far as it is told."""


def organization(name: str, *owners: str, **spec: Any) -> Object:
    members = [{"kind": "User", "name": owner, "role": "owner"} for owner in owners]
    found = {"namespace": name, "plans": ["small", PAIR], "members": members, **spec}
    return {"apiVersion": API_VERSION, "kind": "Organization", "metadata": {"name": name}, "spec": found}


def tenant(name: str, organization: str, namespace: str, plan: str = "small", **spec: Any) -> Object:
    found = catalog.tenant(name, plan, organization=organization, **spec)
    found["metadata"]["namespace"] = namespace
    return found


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _rights_of_pam() -> list[Object]:
    rules = [{"apiGroups": ["intelliauth.io"], "resources": ["organizations", "plans"]}]
    rules[0]["verbs"] = ["create", "patch", "update", "delete", "get"]
    return [
        {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": {"name": "pam"}, "rules": rules},
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "pam"},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "pam"},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": PAM}],
        },
    ]


def _rights_of_the_operator() -> list[Object]:
    """What the chart gives it where it lives: a release looks there for what does not go with a tenant's namespace."""
    metadata = {"name": "operator", "namespace": OPERATOR}
    grants = {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["referencegrants"], "verbs": ["get", "delete"]}
    account = {"kind": "ServiceAccount", "name": installed.OPERATOR, "namespace": installed.OPERATOR}
    reference = {"apiGroup": GROUP, "kind": "Role", "name": "operator"}
    kinds: dict[str, Object] = {
        "Role": {"rules": [grants]},
        "RoleBinding": {"roleRef": reference, "subjects": [account]},
    }
    return [
        namespace(OPERATOR),
        *({"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, **more} for kind, more in kinds.items()),
    ]


RELEASE = '--patch={"spec":{"desiredState":"Decommissioned"}}'


class Attacked(GatedWorld):
    """The world, with the attackers in it."""

    def creates(self, user: str, manifest: Object) -> str:
        """What the API server says to the user who creates that; empty if it took it."""
        answer = self.ask_as(user, "create", "--filename=-", stdin=json.dumps(manifest))
        return answer.err if answer.code else ""

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Nobody asks the webhook."""
        self.unguard()
        try:
            yield
        finally:
            self.guard()

    def says(self, name: str, ready: str, reason: str) -> str:
        """The message of the Organization's Ready, once it says so of its newest spec."""
        now: Object = {}

        def look() -> bool:
            nonlocal now
            now = self.read("organization", name) or {"metadata": {}}
            found = condition(now, "Ready")
            is_seen = status(now).get("observedGeneration") == now["metadata"].get("generation")
            return is_seen and (found.get("status"), found.get("reason")) == (ready, reason)

        until(look, f"Organization {name} is Ready={ready} ({reason})", tell=lambda: status(now))
        message: str = condition(now, "Ready")["message"]
        return message

    def comes_to(self, state: str, name: str, where: str) -> Object:
        """The status of a Tenant once it has come to that state."""

        def look() -> Object:
            now = status(self.read("tenant", name, where) or {})
            return now if now.get("state") == state and not now.get("outbox") else {}

        return until(look, f"Tenant {where}/{name} is {state}", 60)

    def bindings(self, where: str) -> set[str]:
        return {each["metadata"]["name"] for each in self.listed("rolebindings", f"--namespace={where}")}

    def may(self, user: str, verb: str, where: str) -> bool:
        return self.ask_as(user, "auth", "can-i", verb, "tenants.intelliauth.io", f"--namespace={where}").code == 0

    def removes(self, *names: str, tenants_in: str = "") -> None:
        """An Organization, and its Tenants before it."""
        if tenants_in:
            self.kubectl("delete", "tenants", "--all", f"--namespace={tenants_in}", "--timeout=120s")
        until(
            lambda: self.ask("delete", "organizations", *names, "--ignore-not-found").code == 0,
            f"{', '.join(names)} can go",
        )


@pytest.fixture(scope="module")
def module_world(
    platform: Environment, tenant_feed: TenantFeed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("organizations")
    with webhook.gated_world(platform, tenant_feed, folder, RESPONDER_NAMESPACE=OPERATOR) as gated:
        users = {**gated.users, **{name: add_user(platform.state, name) for name in (PAM, RITA)}}
        world = Attacked(gated.platform, gated.feed, gated.operator, webhook=gated.webhook, users=users)
        world.apply(*_rights_of_pam(), *_rights_of_the_operator(), namespace(RIVAL), organization(RIVAL, RITA))
        until(lambda: world.may(RITA, "decommission", RIVAL), "Rita is owner in her organisation")
        until(lambda: world.ask_as(PAM, "auth", "can-i", "create", "organizations.intelliauth.io").code == 0, "Pam may")
        yield world
        world.removes(RIVAL, tenants_in=RIVAL)
        world.kubectl("delete", "namespace", RIVAL, OPERATOR)
        world.kubectl("delete", "clusterrole,clusterrolebinding", "pam")


@pytest.fixture
def world(module_world: World) -> Iterator[Attacked]:
    assert isinstance(module_world, Attacked)
    yield module_world
    module_world.clean_up()
    # All of an organisation's tenants count, those that are on their way out included.
    module_world.kubectl("delete", "tenants", "--all", f"--namespace={catalog.NAMESPACE}", "--timeout=120s")


# Past the webhook there is no way.

_MEETS = "the hosts of its tenants could be those of "
OCCUPIERS: dict[str, tuple[Object, str]] = {
    "ends-another": (organization("my-acme"), f"spec.slug 'my-acme': {_MEETS}"),
    "is-ended": (organization("rival"), f"spec.slug 'rival': {_MEETS}"),
    "same-slug": (organization("double", slug="acme"), f"spec.slug 'acme': {_MEETS}"),
    "shares": (
        organization("cuckoo", namespace=catalog.NAMESPACE),
        f"spec.namespace '{catalog.NAMESPACE}': is another",
    ),
    "cluster": (organization("cuckoo", namespace="kube-system"), "'kube-system' is one of the cluster's own (kube-*)"),
    "operator": (
        organization("cuckoo", namespace=OPERATOR),
        f"spec.namespace '{OPERATOR}': is where the operator lives",
    ),
    "tenant": (organization("cuckoo", namespace="tenant-a-acme"), "is, or could become, a tenant's own (tenant-*)"),
    "encoding": (organization("xn--acme"), "slug 'xn--acme' (spec.slug, or else metadata.name) has '--' in its third"),
}


@pytest.mark.parametrize("case", OCCUPIERS)
def test_nobody_makes_an_organization_that_could_occupy_anothers_place(world: Attacked, case: str) -> None:
    manifest, says = OCCUPIERS[case]

    refused = world.creates(PAM, manifest)

    assert says in refused
    # Whoever may not see the others is not told who they are.
    assert "Organization acme" not in refused and RIVAL not in refused
    assert world.read("organization", manifest["metadata"]["name"]) is None


def test_whoever_may_see_organizations_is_told_which_one_it_is(world: Attacked) -> None:
    refused = world.ask("create", "--filename=-", stdin=json.dumps(OCCUPIERS["ends-another"][0])).err

    assert "could be those of Organization acme, whose slug is 'acme'" in refused


def test_a_namespace_is_not_changed_under_the_feet_of_tenants(world: Attacked) -> None:
    world.tenant("rooted").settles("Active")
    move = json.dumps({"spec": {"namespace": "e2e-elsewhere"}})

    refused = world.ask_as(PAM, "patch", "organization", "acme", "--type=merge", f"--patch={move}")

    assert refused.code != 0
    assert f"live in namespace {catalog.NAMESPACE}, where no member could reach them" in refused.err.replace(
        "lives", "live"
    )
    assert "rooted" not in refused.err


def test_nobody_moves_in_with_another(world: Attacked) -> None:
    move = json.dumps({"spec": {"namespace": catalog.NAMESPACE}})

    refused = world.ask_as(PAM, "patch", "organization", RIVAL, "--type=merge", f"--patch={move}")

    assert f"spec.namespace '{catalog.NAMESPACE}': is another Organization's" in refused.err


def test_of_those_that_are_made_at_once_one_is_ready_at_most(world: Attacked) -> None:
    twins = [organization(name) for name in ("twin", "a-twin", "b-a-twin", "c-b-a-twin")]
    world.apply(*(namespace(each["metadata"]["name"]) for each in twins))
    with ThreadPoolExecutor(len(twins)) as pool:
        answers = list(pool.map(lambda twin: world.creates(PAM, twin), twins))
    made = [each["metadata"]["name"] for each, refused in zip(twins, answers, strict=True) if not refused]

    def is_judged() -> dict[str, str]:
        found = {name: condition(world.read("organization", name) or {}, "Ready").get("reason", "") for name in made}
        sound = [name for name, reason in found.items() if reason == "Reconciled"]
        clashing = [name for name, reason in found.items() if reason == "SlugTaken"]
        return found if (len(sound), len(clashing)) == (1, len(made) - 1) else {}

    try:
        assert made
        until(is_judged, "one of those that were let in is Ready, and no other")
    finally:
        world.removes(*made)
        world.kubectl("delete", "namespaces", *(each["metadata"]["name"] for each in twins), "--wait=false")


def test_a_member_is_put_out_while_the_operator_is_away(world: Attacked) -> None:
    """What keeps organisations apart must not keep the platform team from closing a door."""
    none = json.dumps({"spec": {"members": []}})
    world.operator.kill()
    try:
        answer = world.ask_as(PAM, "patch", "organization", RIVAL, "--type=merge", f"--patch={none}")
        unseen = world.creates(PAM, organization("e2e-unseen"))
    finally:
        world.operator.start()
    assert answer.code == 0, answer.err
    assert "failed calling webhook" in unseen

    until(lambda: not world.may(RITA, "get", RIVAL), "Rita is out")
    world.apply(organization(RIVAL, RITA))
    until(lambda: world.may(RITA, "decommission", RIVAL), "Rita is back")


# What a member learns of others.


def test_a_member_probes_for_organizations_and_learns_nothing(world: Attacked) -> None:
    """Whether it exists, where it lives, what it may have, how many tenants it has: one answer for all."""
    for each in world.tenants(["probed", "probed-too"], PAIR):
        each.settles("Active")

    for plan in (PAIR, catalog.FORBIDDEN_PLAN):
        there, nowhere = (world.creates(RITA, tenant("probed", name, RIVAL, plan)) for name in ("acme", "nobody"))
        assert "no Organization of this name has its Tenants in namespace e2e-rival" in nowhere
        assert there.replace("'acme'", "'nobody'") == nowhere


def test_a_plan_and_an_organization_in_use_do_not_tell_by_whom(world: Attacked) -> None:
    held = world.tenant("unnamed", PAIR)
    held.settles("Active")

    for kind, name in (("plan", PAIR), ("organization", "acme")):
        discreet = world.ask_as(PAM, "delete", kind, name).err
        assert f"'{name}' is used by 1 Tenant; " in discreet
        assert held.name not in discreet and catalog.NAMESPACE not in discreet
        assert f"{catalog.NAMESPACE}/{held.name}" in world.ask("delete", kind, name).err


# A role counts for the organisation that the Tenant names.


def test_an_owner_of_one_organization_is_nobody_in_another(world: Attacked) -> None:
    """A Tenant in Rita's namespace says that it is one of acme: it got there past the webhook."""
    with world.bypassed():
        world.apply(tenant("stray", "acme", RIVAL))
        failed = world.comes_to("Failed", "stray", RIVAL)
    assert "no Organization of this name has its Tenants in namespace e2e-rival" in failed["run"]["error"]
    assert catalog.NAMESPACE not in failed["run"]["error"]
    where = f"--namespace={RIVAL}"

    for verb, *command in (
        ("decommission", "delete", "tenant", "stray", "--wait=false"),
        ("reset", "annotate", "tenant", "stray", f"{ANNOTATION_ACTION}=reset"),
        (
            "decommission",
            "patch",
            "tenant",
            "stray",
            "--type=merge",
            RELEASE,
        ),
    ):
        refused = world.ask_as(RITA, *command, where)
        assert refused.code != 0
        assert f"user '{RITA}' lacks the verb '{verb}' on tenants.intelliauth.io where Organization acme" in refused.err
    retry = world.ask("annotate", "tenant", "stray", f"{ANNOTATION_ACTION}=retry", where)
    assert "no Organization of this name has its Tenants in namespace e2e-rival" in retry.err
    world.kubectl("delete", "tenant", "stray", where)


def test_tenants_planted_elsewhere_use_up_nobodys_limit(world: Attacked) -> None:
    """acme may have two tenants of the plan. Two that only say that they are acme's were there before."""
    with world.bypassed():
        world.apply(*(tenant(f"planted-{n}", "acme", RIVAL, PAIR) for n in range(2)))
        for n in range(2):
            world.comes_to("Failed", f"planted-{n}", RIVAL)

    answers = [world.creates(OWNER, tenant(f"own-{n}", "acme", catalog.NAMESPACE, PAIR)) for n in range(2)]

    assert answers == ["", ""]
    for own in world.tenants(["own-0", "own-1"], PAIR):
        own.settles("Active")
    assert (status(world.read("organization", "acme") or {})["namespace"]) == catalog.NAMESPACE
    world.kubectl("delete", "tenant", "planted-0", "planted-1", f"--namespace={RIVAL}")


# Past the webhook the conditions and the saga say the same.


def test_without_the_webhook_a_newcomer_occupies_no_host(world: Attacked) -> None:
    """`portal-my` of acme and `portal` of my-acme are one host."""
    squatter = organization("my-acme", RITA)
    with world.bypassed():
        world.apply(namespace("my-acme"), squatter)
        told = world.says("my-acme", "False", "SlugTaken")
        world.apply(tenant("portal", "my-acme", "my-acme"))
        failed = world.comes_to("Failed", "portal", "my-acme")
    owners = world.tenant("portal-my")
    owners.settles("Active")

    assert "could be those of Organization acme, whose slug is 'acme'" in told
    assert (
        "the Organization gets no new tenants: spec.slug 'my-acme': the hosts of its tenants could be"
        in (failed["run"]["error"])
    )
    # Rita reads this, and may know nothing of acme.
    assert "Organization acme" not in failed["run"]["error"]
    assert world.says("acme", "False", "PlanNotFound").startswith("plans ")  # as ever: nothing else is wrong with it
    (holder,) = owners.namespaces()
    assert holder == "tenant-portal-my-acme"
    # With the webhook the members of the newcomer are told at once.
    until(lambda: world.may(RITA, "provision", "my-acme"), "Rita is owner in the newcomer, too")
    assert "the Organization gets no new tenants: spec.slug 'my-acme'" in world.creates(
        RITA, tenant("again", "my-acme", "my-acme")
    )
    world.removes("my-acme", tenants_in="my-acme")
    world.kubectl("delete", "namespace", "my-acme")


def test_without_the_webhook_a_cuckoo_gets_no_role(world: Attacked) -> None:
    """Its members would be owners of all Tenants there. Viewers, too: acme has owner, admin and viewer already."""
    own = world.bindings(catalog.NAMESPACE)
    with world.bypassed():
        world.apply(organization("cuckoo", RITA, namespace=catalog.NAMESPACE))
        told = world.says("cuckoo", "False", "NamespaceTaken")
        world.apply(tenant("egg", "cuckoo", catalog.NAMESPACE))
        failed = world.comes_to("Failed", "egg", catalog.NAMESPACE)

    assert "is the namespace of Organization acme; give each Organization a namespace of its own" in told
    assert f"spec.namespace '{catalog.NAMESPACE}': is another Organization's" in failed["run"]["error"]
    assert world.bindings(catalog.NAMESPACE) == own
    assert not any(world.may(RITA, verb, catalog.NAMESPACE) for verb in ("get", "list", "decommission"))
    assert world.says("acme", "False", "PlanNotFound").startswith("plans ")  # as ever: nothing else is wrong with it
    world.kubectl("delete", "tenant", "egg", f"--namespace={catalog.NAMESPACE}")
    world.removes("cuckoo")


def test_without_the_webhook_nobody_gets_a_role_where_the_operator_lives(world: Attacked) -> None:
    with world.bypassed():
        world.apply(namespace(OPERATOR), organization("cuckoo", RITA, namespace=OPERATOR))
        told = world.says("cuckoo", "False", "NamespaceReserved")
        world.apply(tenant("egg", "cuckoo", OPERATOR))
        failed = world.comes_to("Failed", "egg", OPERATOR)

    assert told.startswith(
        f"spec.namespace '{OPERATOR}': is where the operator lives; give the Organization a namespace"
    )
    assert told in failed["run"]["error"]
    assert world.bindings(OPERATOR) == {"operator"}
    world.removes("cuckoo", tenants_in=OPERATOR)


def test_without_the_webhook_who_moves_away_from_tenants_is_told_and_its_roles_go(world: Attacked) -> None:
    """And who wants the namespace that it has not left yet does not get it."""
    old, new = "e2e-former", "e2e-latter"
    world.apply(namespace(old), namespace(new), organization("mover", RITA, namespace=old))
    world.says("mover", "True", "Reconciled")
    world.apply(tenant("record", "mover", old))
    world.comes_to("Active", "record", old)

    with world.bypassed():
        world.apply(organization("mover", RITA, namespace=new), organization("heir", OWNER, namespace=old))
        told = world.says("mover", "False", "TenantsLeftBehind")
        world.says("heir", "False", "NamespaceTaken")
        world.apply(tenant("another", "mover", new))
        failed = world.comes_to("Failed", "another", new)

    assert told.startswith(f"spec.namespace '{new}': 1 Tenant lives in namespace {old}")
    assert f"1 Tenant lives in namespace {old}" in failed["run"]["error"]
    assert (world.bindings(old), world.bindings(new)) == (set(), {"intelliauth-owner"})
    assert not world.may(OWNER, "get", old)
    assert condition(world.read("tenant", "record", old) or {}, "Ready")["status"] == "True"  # it goes on

    world.removes("heir")
    for where in (old, new):
        world.kubectl("delete", "tenants", "--all", f"--namespace={where}", "--timeout=120s")
    world.says("mover", "True", "Reconciled")
    world.removes("mover")
    world.kubectl("delete", "namespaces", old, new)
