"""What the API server is told about a write, given what the platform knows and what it can look up."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kopf
import pytest

from devcluster.platform import installed
from tenant_operator.admission import AdmissionServer, CertificateError, install
from tenant_operator.api.names import (
    ANNOTATION_RECORD,
    FINALIZER,
    LABEL_MANAGED_BY,
    LABEL_ORGANIZATION,
    LABEL_TENANT,
    LABEL_TENANT_UID,
)
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.admission import Admission
from tenant_operator.provisioning.admission_rules import CONFLICT, FORBIDDEN, INVALID, Verb
from tenant_operator.provisioning.ports import AccessReview, Caller, TenantKey
from tenant_operator.saga.errors import Unavailable
from tenant_operator.settings import SettingsError, load
from tests.fakes.access import FakeAccess
from tests.fakes.catalog import FakeCatalog, FakeOffers
from tests.fakes.cluster import FakeCluster
from tests.fakes.store import FakeTenantStore
from tests.simulation.virtual_time import VirtualClock

WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
ALICE, OPERATOR = Caller("alice"), Caller("operator")
AUTH = {"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}


def a_plan(name: str, limit: int | None = None) -> Plan:
    limits = {} if limit is None else {"tenants": limit}
    return Plan.model_validate(
        {"metadata": {"name": name}, "spec": {"limits": limits, "workloads": [AUTH], "regions": ["eu-1"]}}
    )


def an_organization(name: str) -> Organization:
    spec = {"namespace": name, "plans": ["starter", "pair", "new"]}
    return Organization.model_validate({"metadata": {"name": name}, "spec": spec})


class World:
    """A platform in which alice may do everything in the namespaces of both organisations."""

    def __init__(self, access: AccessReview | None = None) -> None:
        self.clock = VirtualClock()
        self.store = FakeTenantStore(self.clock)
        self.cluster = FakeCluster(self.clock)
        self.access = FakeAccess()
        plans, organizations = (a_plan("starter"), a_plan("pair", 2)), (an_organization("c"), an_organization("b-c"))
        self.catalog = FakeCatalog(self.store, plans, organizations)
        self.offers = FakeOffers(plans, organizations)
        self.admission = Admission(
            operator=OPERATOR.name,
            base_domain="tenants.example",
            catalog=self.catalog,
            offers=self.offers,
            access=access or self.access,
            cluster=self.cluster,
            store=self.store,
            clock=self.clock,
        )
        for verb in Verb:
            for namespace in ("c", "b-c"):
                self.access.grant("alice", verb, namespace)

    async def there_is(self, name: str, state: str, organization: str = "c", **spec: Any) -> Tenant:
        self.store.apply(manifest(name, organization, **spec))
        stored = self.store.peek(TenantKey(organization, name))
        assert stored is not None
        status = stored.status.model_copy(update={"state": TenantState(state), "attempt": 1})
        return await self.store.write_status(stored.model_copy(update={"status": status}))


def manifest(name: str, organization: str = "c", **spec: Any) -> dict[str, Any]:
    wanted = {"organization": organization, "plan": "starter", "admin": {"email": "a@example.com"}, **spec}
    return {"metadata": {"name": name, "namespace": organization}, "spec": wanted}


def a_tenant(name: str, organization: str = "c", **spec: Any) -> Tenant:
    """As the API server sends it: with a UID and a time of creation, to the second."""
    found = manifest(name, organization, **spec)
    found["metadata"] |= {"uid": "0", "creationTimestamp": datetime(2020, 1, 1, tzinfo=UTC)}
    return Tenant.model_validate(found)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_good_request_is_admitted(world: World) -> None:
    assert await world.admission.write(None, a_tenant("a"), ALICE) is None


async def test_a_bad_request_is_refused_with_all_that_is_wrong(world: World) -> None:
    refusal = await world.admission.write(None, a_tenant("a", plan="gold", displayName="Retail Banking"), ALICE)

    assert refusal is not None
    assert refusal.code == INVALID
    assert "spec.displayName 'Retail Banking'" in refusal.message
    assert "spec.plan 'gold': there is no such Plan; Organization c may use starter, pair, new" in refusal.message


async def test_what_the_catalogue_has_not_heard_of_yet_is_looked_up(world: World) -> None:
    world.offers.plans["new"] = a_plan("new")

    assert await world.admission.write(None, a_tenant("a", plan="new"), ALICE) is None


@pytest.mark.parametrize("state", ["Provisioning", "Active", "Suspended", "Decommissioning"])
async def test_a_host_is_taken_across_organizations_and_the_holder_is_named(world: World, state: str) -> None:
    await world.there_is("a", state, "b-c")

    refusal = await world.admission.write(None, a_tenant("a-b"), ALICE)

    assert refusal is not None
    assert refusal.code == CONFLICT
    assert refusal.message == (
        "spec.slug 'a-b': host a-b-c.tenants.example is taken by Tenant b-c/a of Organization b-c; choose another slug"
    )


@pytest.mark.parametrize("state", ["Failed", "Decommissioned"])
async def test_a_host_that_was_given_back_is_free(world: World, state: str) -> None:
    await world.there_is("a", state, "b-c")

    assert await world.admission.write(None, a_tenant("a-b"), ALICE) is None


async def test_a_host_is_taken_by_whatever_has_its_namespace(world: World) -> None:
    metadata = {"name": "tenant-a-c", "labels": {LABEL_TENANT_UID: "someone"}}
    await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    refusal = await world.admission.write(None, a_tenant("a"), ALICE)

    assert refusal is not None
    assert refusal.code == CONFLICT
    assert "namespace tenant-a-c belongs to tenant" in refusal.message


async def claimed(world: World, uid: str, record: str = "c/a") -> None:
    """The namespace of host a-c, made for the Tenant of that UID and place."""
    labels = {
        LABEL_TENANT_UID: uid,
        LABEL_MANAGED_BY: "tenant-operator",
        LABEL_TENANT: "a",
        LABEL_ORGANIZATION: "c",
    }
    metadata = {"name": "tenant-a-c", "labels": labels, "annotations": {ANNOTATION_RECORD: record}}
    await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


async def test_a_restored_tenant_is_admitted_to_the_namespace_that_was_made_for_it(world: World) -> None:
    await claimed(world, "former")

    assert await world.admission.write(None, a_tenant("a"), ALICE) is None


async def test_a_namespace_that_was_made_for_another_record_is_taken(world: World) -> None:
    await claimed(world, "former", record="c/other")

    refusal = await world.admission.write(None, a_tenant("a"), ALICE)

    assert refusal is not None and refusal.code == CONFLICT


async def test_a_record_whose_ledger_was_lost_is_not_let_go_by_hand(world: World) -> None:
    tenant = await world.there_is("a", "Pending")
    kept = tenant.model_copy(update={"metadata": tenant.metadata.model_copy(update={"finalizers": (FINALIZER,)})})
    assert await world.admission.write(kept, tenant, ALICE) is None
    await claimed(world, tenant.metadata.uid)

    refusal = await world.admission.write(kept, tenant, ALICE)

    assert refusal is not None and refusal.code == INVALID
    assert "still held: namespace tenant-a-c" in refusal.message


async def test_the_catalogue_alone_does_not_say_that_a_host_is_taken(world: World) -> None:
    stale = await world.there_is("a", "Active", "b-c")
    world.catalog.tenants_with_slug = lambda slug: [stale] if slug == "a" else []  # type: ignore[method-assign]
    await world.store.write_status(
        stale.model_copy(update={"status": stale.status.model_copy(update={"state": TenantState.DECOMMISSIONED})})
    )

    assert await world.admission.write(None, a_tenant("a-b"), ALICE) is None


async def test_the_limit_of_the_plan_counts_all_that_are_there(world: World) -> None:
    await world.there_is("one", "Active", plan="pair")
    assert await world.admission.write(None, a_tenant("three", plan="pair"), ALICE) is None
    await world.there_is("two", "Failed", plan="pair")

    refusal = await world.admission.write(None, a_tenant("three", plan="pair"), ALICE)

    assert refusal is not None
    assert "limit is 2 per organization" in refusal.message


async def test_a_recreated_tenant_takes_a_new_place_under_the_limit(world: World) -> None:
    old = await world.there_is("old", "Decommissioned", plan="pair", desiredState="Decommissioned")
    wanted = Tenant.model_validate({**old.to_wire(), "spec": {**old.to_wire()["spec"], "desiredState": "Active"}})
    assert await world.admission.write(old, wanted, ALICE) is None
    for name in ("one", "two"):
        await world.there_is(name, "Active", plan="pair")

    refusal = await world.admission.write(old, wanted, ALICE)

    assert refusal is not None
    assert "limit is 2" in refusal.message


async def test_whoever_changes_their_mind_in_time_keeps_the_place_under_the_limit(world: World) -> None:
    await world.there_is("one", "Active", plan="pair")
    two = await world.there_is("two", "Active", plan="pair", desiredState="Decommissioned")
    back = Tenant.model_validate({**two.to_wire(), "spec": {**two.to_wire()["spec"], "desiredState": "Active"}})

    assert await world.admission.write(two, back, ALICE) is None


async def test_an_edit_answers_for_what_it_changes_only(world: World) -> None:
    old = await world.there_is("old", "Failed", plan="vanished", region="eu-1")

    def edited(**spec: Any) -> Tenant:
        return Tenant.model_validate({**old.to_wire(), "spec": {**old.to_wire()["spec"], **spec}})

    assert await world.admission.write(old, edited(admin={"email": "new@example.com"}), ALICE) is None
    assert await world.admission.write(old, edited(plan="starter"), ALICE) is None
    refusal = await world.admission.write(old, edited(plan="starter", region="mars"), ALICE)
    assert refusal is not None
    assert refusal.message == "spec.region 'mars': plan starter does not offer this region; it offers eu-1"


async def test_the_role_comes_first(world: World) -> None:
    refusal = await world.admission.write(None, a_tenant("a", plan="gold"), Caller("bob"))

    assert refusal is not None
    assert refusal.code == FORBIDDEN
    assert "user 'bob' lacks the verb 'provision'" in refusal.message
    assert world.access.asked == [("bob", "provision", "c", "a")]


async def test_an_update_that_asks_for_nothing_takes_no_role(world: World) -> None:
    old = await world.there_is("old", "Active")
    labelled = old.model_copy(update={"metadata": old.metadata.model_copy(update={"labels": {"a": "b"}})})

    assert await world.admission.write(old, labelled, Caller("bob")) is None
    assert world.access.asked == []


async def test_the_operator_asks_nobody(world: World) -> None:
    assert await world.admission.write(None, a_tenant("a", plan="gold"), OPERATOR) is None
    assert await world.admission.removal("c", "a", OPERATOR) is None
    assert world.admission.stamps(None, manifest("a"), OPERATOR) == {}


async def test_a_deletion_takes_the_verb_that_releases(world: World) -> None:
    assert await world.admission.removal("c", "a", ALICE) is None
    refusal = await world.admission.removal("c", "a", Caller("bob"))
    assert refusal is not None
    assert (refusal.code, world.access.asked[-1]) == (FORBIDDEN, ("bob", "decommission", "c", "a"))


async def test_a_deleted_namespace_takes_its_tenants_with_it(world: World) -> None:
    controller = Caller(
        "system:serviceaccount:kube-system:namespace-controller", ("system:serviceaccounts:kube-system",)
    )

    assert await world.admission.removal("c", "a", controller) is None


async def test_plans_and_organizations_in_use_stay(world: World) -> None:
    await world.there_is("old", "Active")

    plan, organization = (
        await world.admission.removal_of_plan("starter"),
        await world.admission.removal_of_organization("c"),
    )

    assert plan is not None
    assert organization is not None
    assert await world.admission.removal_of_plan("pair") is None
    assert await world.admission.removal_of_organization("b-c") is None


# Over HTTP.


def handlers(world: World, seconds: float = 5) -> dict[str, Any]:
    registry = kopf.OperatorRegistry()
    install(world.admission, object(), registry, kopf.OperatorSettings(), seconds=seconds)  # type: ignore[arg-type]
    return {handler.id: handler for handler in registry._webhooks.get_all_handlers()}


def test_each_handler_is_configured_for_what_it_handles(world: World) -> None:
    configured = {
        webhook["clientConfig"]["service"]["path"]: (
            configuration["kind"],
            [rule for each in webhook["rules"] for rule in (each["operations"], each["resources"])],
        )
        for configuration in installed(*WEBHOOKS)
        for webhook in configuration["webhooks"]
    }
    kinds = {"mutating": "MutatingWebhookConfiguration", "validating": "ValidatingWebhookConfiguration"}

    assert configured == {
        f"/{id_}": (kinds[handler.reason.value], [list(handler.operations), [handler.selector.any_name]])
        for id_, handler in handlers(world).items()
    }


def test_a_tenant_is_never_admitted_unseen() -> None:
    for configuration in installed(*WEBHOOKS):
        for webhook in configuration["webhooks"]:
            assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Fail", "None")
            assert webhook["timeoutSeconds"] == 5


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (Unavailable("the SubjectAccessReview: HTTP 503"), 503, "try again: the SubjectAccessReview: HTTP 503"),
        (RuntimeError("a defect"), 500, "checking Tenant c/a went wrong in the operator; its log says why"),
    ],
)
async def test_no_answer_is_a_no(world: World, failure: Any, code: int, says: str) -> None:
    world.access.failure = failure
    check = handlers(world)["check-tenant"].fn
    user = {"username": "alice", "groups": [], "uid": "", "extra": {}}

    with pytest.raises(kopf.AdmissionError, match=says) as refused:
        await check(name="a", namespace="c", userinfo=user, old=None, new=manifest("a"))

    assert refused.value.code == code
    assert "a defect" not in str(refused.value)


class NoAnswer:
    """`ports.AccessReview` that never answers."""

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        return await asyncio.Event().wait()


async def test_what_takes_too_long_is_a_no_before_the_api_server_gives_up() -> None:
    check = handlers(World(NoAnswer()), seconds=0.01)["check-tenant"].fn
    user = {"username": "alice", "groups": []}

    with pytest.raises(kopf.AdmissionError, match=r"could not be checked within 0\.01 s") as refused:
        await check(name="a", namespace="c", userinfo=user, old=None, new=manifest("a"))

    assert refused.value.code == 503


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    with pytest.raises(CertificateError, match=r"tls\.crt"):
        AdmissionServer("127.0.0.1", 0, certificate, key)
    certificate.write_text("no certificate")
    key.write_text("no key")
    with pytest.raises(CertificateError, match=r"tls\.crt"):
        AdmissionServer("127.0.0.1", 0, certificate, key)


@pytest.mark.parametrize("given", ["WEBHOOK_CERTIFICATE", "WEBHOOK_KEY"])
def test_certificate_and_key_go_together(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TENANT_OPERATOR_DATABASE_URL", "postgresql://localhost")
    monkeypatch.setenv(f"TENANT_OPERATOR_{given}", "/somewhere")

    with pytest.raises(SettingsError, match="go together"):
        load()
