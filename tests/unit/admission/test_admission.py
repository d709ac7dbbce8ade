"""What the API server is told about a write, given what the platform knows and what it can look up."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from devcluster.platform import installed
from tenant_operator.admission.judge import Admission
from tenant_operator.admission.reviews import CHECK_TENANT, STAMP_TENANT, Webhooks
from tenant_operator.admission.rules import CONFLICT, FORBIDDEN, INVALID, Verb
from tenant_operator.api.names import (
    ANNOTATION_ACTION,
    ANNOTATION_RECORD,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUESTED_BY,
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
from tenant_operator.ports import AccessReview, Caller, TenantKey
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import Unavailable
from tenant_operator.settings import WEBHOOK_TOKEN_PLACEHOLDER, SettingsError, load
from tests.fakes.access import FakeAccess
from tests.fakes.catalog import FakeCatalog, FakeOffers
from tests.fakes.cluster import FakeCluster
from tests.fakes.store import FakeTenantStore
from tests.simulation.virtual_time import VirtualClock

WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
A = TenantKey("c", "a")
ALICE, OPERATOR = Caller("alice"), Caller("operator")
AUTH = {"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}


def a_plan(name: str, limit: int | None = None) -> Plan:
    limits = {} if limit is None else {"tenants": limit}
    return Plan.model_validate(
        {"metadata": {"name": name}, "spec": {"limits": limits, "workloads": [AUTH], "regions": ["eu-1"]}}
    )


def an_organization(name: str, *, hour: int = 0, **spec: Any) -> Organization:
    """One that was created at that hour of a day."""
    found = {"namespace": name, "plans": ["starter", "pair", "new"], **spec}
    metadata = {"name": name, "uid": name, "creationTimestamp": datetime(2020, 1, 1, hour, tzinfo=UTC)}
    return Organization.model_validate({"metadata": metadata, "spec": found})


class World:
    """A platform in which alice may do everything in the namespaces of both organisations."""

    def __init__(self, access: AccessReview | None = None) -> None:
        self.clock = VirtualClock()
        self.store = FakeTenantStore(self.clock)
        self.cluster = FakeCluster(self.clock)
        self.access = FakeAccess()
        plans, organizations = (a_plan("starter"), a_plan("pair", 2)), (an_organization("c"), an_organization("d"))
        self.catalog = FakeCatalog(self.store, plans, organizations)
        self.offers = FakeOffers(plans, organizations)
        self.admission = Admission(
            operator=OPERATOR.name,
            options=Options(),
            catalog=self.catalog,
            offers=self.offers,
            access=access or self.access,
            cluster=self.cluster,
            store=self.store,
            clock=self.clock,
        )
        for verb in Verb:
            for namespace in ("c", "d"):
                self.access.grant("alice", verb, namespace)

    def there_comes(self, *organizations: Organization) -> None:
        """Organizations that no admission has seen."""
        for each in organizations:
            self.catalog.by_name[each.metadata.name] = self.offers.by_name[each.metadata.name] = each

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
async def test_a_host_is_taken_and_its_holder_of_the_same_organization_is_named(world: World, state: str) -> None:
    await world.there_is("a", state)

    refusal = await world.admission.write(None, a_tenant("b", slug="a"), ALICE)

    assert refusal is not None
    assert refusal.code == CONFLICT
    assert refusal.message == (
        "spec.slug 'a': host a-c.tenants.example is taken by Tenant c/a of Organization c; choose another slug"
    )


@pytest.mark.parametrize("state", ["Failed", "Decommissioned"])
async def test_a_host_that_was_given_back_is_free(world: World, state: str) -> None:
    await world.there_is("a", state)

    assert await world.admission.write(None, a_tenant("b", slug="a"), ALICE) is None


async def test_a_host_is_taken_by_whatever_has_its_namespace(world: World) -> None:
    metadata = {"name": "tenant-a-c", "labels": {LABEL_TENANT_UID: "someone"}}
    await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    refusal = await world.admission.write(None, a_tenant("a"), ALICE)

    assert refusal is not None
    assert refusal.code == CONFLICT
    assert refusal.message == "spec.slug 'a': host a-c.tenants.example is taken; choose another slug"


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
    stale = await world.there_is("a", "Active")
    world.catalog.tenants_with_slug = lambda slug: [stale] if slug == "a" else []  # type: ignore[method-assign]
    await world.store.write_status(
        stale.model_copy(update={"status": stale.status.model_copy(update={"state": TenantState.DECOMMISSIONED})})
    )

    assert await world.admission.write(None, a_tenant("b", slug="a"), ALICE) is None


async def test_the_limit_of_the_plan_counts_all_that_are_there(world: World) -> None:
    await world.there_is("one", "Active", plan="pair")
    assert await world.admission.write(None, a_tenant("three", plan="pair"), ALICE) is None
    await world.there_is("two", "Failed", plan="pair")

    refusal = await world.admission.write(None, a_tenant("three", plan="pair"), ALICE)

    assert refusal is not None
    assert "limit is 2 per organization" in refusal.message


async def test_the_catalogue_alone_does_not_say_that_the_limit_is_reached(world: World) -> None:
    stale = [await world.there_is(name, "Active", plan="pair") for name in ("one", "two")]
    world.catalog.tenants_of = lambda organization: stale  # type: ignore[method-assign]
    world.store.delete(TenantKey("c", "two"))

    assert await world.admission.write(None, a_tenant("three", plan="pair"), ALICE) is None


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
    assert await world.admission.removal(A, "c", OPERATOR) is None
    assert world.admission.stamps(None, manifest("a"), OPERATOR) == {}


async def test_a_deletion_takes_the_verb_that_releases(world: World) -> None:
    assert await world.admission.removal(A, "c", ALICE) is None
    refusal = await world.admission.removal(A, "c", Caller("bob"))
    assert refusal is not None
    assert (refusal.code, world.access.asked[-1]) == (FORBIDDEN, ("bob", "decommission", "c", "a"))


async def test_a_deleted_namespace_takes_its_tenants_with_it(world: World) -> None:
    controller = Caller(
        "system:serviceaccount:kube-system:namespace-controller", ("system:serviceaccounts:kube-system",)
    )

    assert await world.admission.removal(A, "c", controller) is None


async def test_plans_and_organizations_in_use_stay(world: World) -> None:
    await world.there_is("old", "Active")

    plan, organization = (
        await world.admission.removal_of_plan("starter", ALICE),
        await world.admission.removal_of_organization("c", ALICE),
    )

    assert plan is not None
    assert organization is not None
    assert "c/old" not in plan.message + organization.message
    world.access.let_see("alice", "tenants")
    plan, organization = (
        await world.admission.removal_of_plan("starter", ALICE),
        await world.admission.removal_of_organization("c", ALICE),
    )
    assert plan is not None and "c/old" in plan.message
    assert organization is not None and "c/old" in organization.message
    assert await world.admission.removal_of_plan("pair", ALICE) is None
    assert await world.admission.removal_of_organization("d", ALICE) is None


# A role counts for the organisation that the Tenant names.


async def test_of_an_organization_elsewhere_nothing_is_told(world: World) -> None:
    """A stranger learns neither whether it exists, nor where it lives, nor what it may, nor how much it has."""
    for name in ("one", "two"):
        await world.there_is(name, "Active", plan="pair")

    def refused(organization: str) -> Tenant:
        return Tenant.model_validate({**a_tenant("a", "d").to_wire(), "spec": {**spec, "organization": organization}})

    spec = a_tenant("a", "d", plan="pair").to_wire()["spec"]
    there, not_there = [await world.admission.write(None, refused(name), ALICE) for name in ("c", "z")]

    assert there is not None and not_there is not None
    assert there.message == not_there.message.replace("'z'", "'c'")
    assert there.message == (
        "spec.organization 'c': no Organization of this name has its Tenants in namespace d; correct the name, or "
        "create the Tenant in the Organization's namespace"
    )


STRAYED_ASKS: dict[str, dict[str, Any]] = {
    "suspend": {"spec": {"desiredState": "Suspended"}},
    "decommission": {"spec": {"desiredState": "Decommissioned"}},
    "reset": {"metadata": {"annotations": {ANNOTATION_ACTION: "reset"}}},
}


@pytest.mark.parametrize("verb", STRAYED_ASKS)
async def test_a_tenant_that_names_an_organization_elsewhere_takes_a_role_there(world: World, verb: str) -> None:
    """However it came to be: dora is owner in d, and the Tenant there says that it is one of c."""
    world.store.apply({**manifest("stray", "c"), "metadata": {"name": "stray", "namespace": "d"}})
    old = world.store.peek(TenantKey("d", "stray"))
    assert old is not None
    wire, change = old.to_wire(), STRAYED_ASKS[verb]
    new = Tenant.model_validate({**wire, **{part: {**wire[part], **change[part]} for part in change}})
    dora = Caller("dora")
    for each in Verb:
        world.access.grant("dora", each, "d")

    refusal = await world.admission.write(old, new, dora)
    removal = await world.admission.removal(TenantKey("d", "stray"), "c", dora)

    for refused, lacking in ((refusal, verb), (removal, "decommission")):
        assert refused is not None
        assert refused.code == FORBIDDEN
        assert f"lacks the verb '{lacking}' on tenants.intelliauth.io where Organization c" in refused.message
    world.access.grant("dora", verb, "c")
    world.access.grant("dora", "decommission", "c")
    now = await world.admission.write(old, new, dora)
    assert now is None or now.code != FORBIDDEN
    assert await world.admission.removal(TenantKey("d", "stray"), "c", dora) is None


@pytest.mark.parametrize("edit", [{"organization": "d"}, {"slug": "other"}])
async def test_whose_it_is_and_where_it_serves_never_changes(world: World, edit: dict[str, str]) -> None:
    """The CRD says so, too; the webhook does not rely on it."""
    old = await world.there_is("old", "Active")
    new = Tenant.model_validate({**old.to_wire(), "spec": {**old.to_wire()["spec"], **edit}})

    refusal = await world.admission.write(old, new, ALICE)

    assert refusal is not None
    assert refusal.code == INVALID
    assert "is immutable" in refusal.message


# Organizations that cannot stand beside each other.


@pytest.mark.parametrize(
    ("new", "code", "says"),
    [
        (
            an_organization("my-c"),
            CONFLICT,
            "spec.slug 'my-c': the hosts of its tenants could be those of Organization c",
        ),
        (an_organization("e", slug="c"), CONFLICT, "could be those of Organization c, whose slug is 'c'"),
        (an_organization("e", namespace="d"), CONFLICT, "spec.namespace 'd': is the namespace of Organization d; give"),
        (an_organization("e", namespace="kube-system"), INVALID, "'kube-system': is one of the cluster's own (kube-*)"),
        (an_organization("e", namespace="tenant-operator"), INVALID, "is where the operator lives"),
        (an_organization("e", namespace="tenant-a-c"), INVALID, "is, or could become, a tenant's own (tenant-*)"),
        (an_organization("e", slug="xn--e"), INVALID, "spec.slug 'xn--e': has '--' in its third and fourth place"),
    ],
)
async def test_an_organization_that_would_meet_another_is_refused(
    world: World, new: Organization, code: int, says: str
) -> None:
    world.access.let_see("alice", "organizations")

    refusal = await world.admission.write_of_organization(None, new, ALICE)

    assert refusal is not None
    assert refusal.code == code
    assert says in refusal.message


async def test_whoever_may_not_see_organizations_is_told_of_none(world: World) -> None:
    for new in (an_organization("my-c"), an_organization("e", namespace="d")):
        refusal = await world.admission.write_of_organization(None, new, ALICE)

        assert refusal is not None
        assert "another Organization" in refusal.message
        assert "Organization c" not in refusal.message and "Organization d" not in refusal.message


async def test_an_organization_of_which_the_catalogue_has_not_heard_is_met_all_the_same(world: World) -> None:
    world.offers.by_name["e"] = an_organization("e")

    assert await world.admission.write_of_organization(None, an_organization("my-e"), ALICE) is not None


async def test_an_organization_by_itself_is_admitted(world: World) -> None:
    assert await world.admission.write_of_organization(None, an_organization("e"), ALICE) is None
    old = an_organization("c")
    assert await world.admission.write_of_organization(old, an_organization("c", plans=[]), ALICE) is None
    assert await world.admission.write_of_organization(old, an_organization("c", namespace="free"), ALICE) is None


async def test_an_organization_moves_only_while_it_has_no_tenants(world: World) -> None:
    await world.there_is("gone", "Decommissioned")

    refusal = await world.admission.write_of_organization(
        an_organization("c"), an_organization("c", namespace="e"), ALICE
    )

    assert refusal is not None
    assert refusal.message == (
        "spec.namespace 'e': 1 Tenant lives in namespace c, where no member could reach them; keep c, or delete them "
        "first"
    )


async def test_the_slug_of_an_organization_never_changes(world: World) -> None:
    refusal = await world.admission.write_of_organization(an_organization("c"), an_organization("c", slug="e"), ALICE)

    assert refusal is not None
    assert "is immutable: it is 'c'" in refusal.message


async def test_the_later_of_two_that_clash_gets_no_new_tenants_and_the_earlier_is_not_harmed(world: World) -> None:
    world.there_comes(an_organization("my-c", hour=1))
    world.access.grant("mallory", "provision", "my-c")

    refusal = await world.admission.write(None, a_tenant("portal", "my-c"), Caller("mallory"))

    assert refusal is not None
    assert refusal.code == INVALID
    assert refusal.message.startswith(
        "spec.organization 'my-c': the Organization gets no new tenants: spec.slug 'my-c': the hosts of its tenants "
        "could be those of another Organization"
    )
    assert await world.admission.write(None, a_tenant("portal-my"), ALICE) is None


async def test_a_newcomer_of_which_the_catalogue_has_not_heard_gets_no_tenants_either(world: World) -> None:
    world.offers.by_name["my-c"] = an_organization("my-c", hour=1)
    world.access.grant("mallory", "provision", "my-c")

    refusal = await world.admission.write(None, a_tenant("portal", "my-c"), Caller("mallory"))

    assert refusal is not None
    assert "gets no new tenants" in refusal.message


async def test_a_clash_that_is_over_turns_nobody_away(world: World) -> None:
    """The catalogue has not heard yet that the other one is gone."""
    world.there_comes(an_organization("my-c", hour=1))
    del world.offers.by_name["c"]
    world.access.grant("mallory", "provision", "my-c")

    assert await world.admission.write(None, a_tenant("portal", "my-c"), Caller("mallory")) is None


async def test_the_tenants_that_serve_go_on_whatever_became_of_their_organization(world: World) -> None:
    world.there_comes(an_organization("my-c", hour=1))
    old = await world.there_is("portal", "Active", "my-c")
    for verb in Verb:
        world.access.grant("mallory", verb, "my-c")

    def edited(**spec: Any) -> Tenant:
        return Tenant.model_validate({**old.to_wire(), "spec": {**old.to_wire()["spec"], **spec}})

    for change in ({"desiredState": "Suspended"}, {"desiredState": "Decommissioned"}, {"plan": "pair"}):
        assert await world.admission.write(old, edited(**change), Caller("mallory")) is None


# As the API server asks.


def webhooks(world: World, seconds: float = 5) -> Webhooks:
    return Webhooks(world.admission, asyncio.get_running_loop(), seconds=seconds)


def review(operation: str, old: Any, new: Any, *, user: str = "alice", **more: Any) -> dict[str, Any]:
    request = {
        "uid": "0f",
        "operation": operation,
        "name": "a",
        "namespace": "c",
        "userInfo": {"username": user, "groups": ["system:authenticated"], "extra": {"scopes": ["all"]}},
        "oldObject": old,
        "object": new,
        "options": None,
        **more,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def ask(hooks: Webhooks, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The response to an AdmissionReview."""
    status, answer = await hooks.routes("")[f"/{name}"](json.dumps(asked).encode())
    assert status == 200, answer
    told: dict[str, Any] = json.loads(answer)
    assert (told["apiVersion"], told["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert told["response"].pop("uid") == "0f"
    response: dict[str, Any] = told["response"]
    return response


async def test_each_handler_is_configured_for_what_it_handles(world: World) -> None:
    configured = {
        webhook["clientConfig"]["service"]["path"].rpartition("/")[2]: (
            configuration["kind"],
            [rule for each in webhook["rules"] for rule in (each["operations"], each["resources"])],
        )
        for configuration in installed(*WEBHOOKS)
        for webhook in configuration["webhooks"]
    }
    kinds = {True: "MutatingWebhookConfiguration", False: "ValidatingWebhookConfiguration"}

    assert configured == {
        name: (kinds[webhook.mutates], [list(webhook.operations), [webhook.plural]])
        for name, webhook in webhooks(world).by_name.items()
    }


def test_a_tenant_is_never_admitted_unseen() -> None:
    for configuration in installed(*WEBHOOKS):
        for webhook in configuration["webhooks"]:
            assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Fail", "None")
            assert webhook["timeoutSeconds"] == 5


async def test_the_token_is_in_every_path(world: World) -> None:
    assert set(webhooks(world).routes("s3cret")) == {
        "/s3cret/stamp-tenant",
        "/s3cret/check-tenant",
        "/s3cret/check-plan",
        "/s3cret/check-organization",
    }


async def test_what_is_admitted_and_what_is_refused(world: World) -> None:
    new = a_tenant("a").to_wire()
    await world.there_is("old", "Active")

    assert await ask(webhooks(world), CHECK_TENANT, review("CREATE", None, new)) == {"allowed": True}
    refused = await ask(webhooks(world), CHECK_TENANT, review("CREATE", None, new, user="bob"))
    assert refused["allowed"] is False
    assert refused["status"]["code"] == FORBIDDEN
    assert "user 'bob' lacks the verb 'provision'" in refused["status"]["message"]
    removal = review("DELETE", new, None, user="bob")
    assert (await ask(webhooks(world), CHECK_TENANT, removal))["status"]["code"] == FORBIDDEN
    assert world.access.asked[-1] == ("bob", "decommission", "c", "a")
    for webhook, name in (("check-plan", "starter"), ("check-organization", "c")):
        told = await ask(webhooks(world), webhook, review("DELETE", {}, None, name=name, namespace=""))
        assert told["status"]["code"] == CONFLICT


async def test_an_object_that_cannot_be_read_is_refused_with_what_is_wrong(world: World) -> None:
    new = {"metadata": {"name": "a", "namespace": "c"}, "spec": {"organization": 5}}

    refused = await ask(webhooks(world), CHECK_TENANT, review("CREATE", None, new))

    assert refused["status"]["code"] == INVALID
    assert "spec.organization: Input should be a valid string" in refused["status"]["message"]


async def test_stamps_are_a_patch_that_fits_the_object(world: World) -> None:
    def stamped(response: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        assert response["patchType"] == "JSONPatch"
        found: dict[str, Any] = jsonpatch.apply_patch(body, json.loads(base64.b64decode(response["patch"])))
        return found

    bare = manifest("a")
    forged = manifest("a")
    forged["metadata"]["annotations"] = {ANNOTATION_REQUESTED_BY: "mallory", ANNOTATION_REQUEST: "1", "a~b/c": "d"}
    forged["metadata"]["finalizers"] = ["other"]

    for body in (bare, forged):
        response = await ask(webhooks(world), STAMP_TENANT, review("CREATE", None, body))
        metadata = stamped(response, body)["metadata"]
        others = {"a~b/c": "d"} if body is forged else {}
        assert metadata["annotations"] == {ANNOTATION_REQUESTED_BY: "alice", **others}
        assert metadata["finalizers"] == [*(body["metadata"].get("finalizers") or []), FINALIZER]
        settled = {**body, "metadata": metadata}
        again = await ask(webhooks(world), STAMP_TENANT, review("UPDATE", settled, settled))
        assert again == {"allowed": True}


DEEP = b'{"request": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b'"\xff"',
    "a list": b"[]",
    "too deep": DEEP,
    "a huge number": b"1" * 100_000,
    "another kind": json.dumps({**review("CREATE", None, {}), "kind": "Status"}).encode(),
    "another version": json.dumps({**review("CREATE", None, {}), "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    "no request": json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).encode(),
    "no object": json.dumps(review("CREATE", None, None)).encode(),
    "no old object": json.dumps(review("UPDATE", None, {})).encode(),
    "a connection": json.dumps(review("CONNECT", None, {})).encode(),
    "a text in place of an object": json.dumps(review("CREATE", None, "a")).encode(),
    "a user that is none": json.dumps(review("CREATE", None, {}, userInfo="alice")).encode(),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("name", [CHECK_TENANT, STAMP_TENANT])
async def test_what_is_no_review_is_a_bad_request(
    world: World, case: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, answer = await webhooks(world).routes("")[f"/{name}"](BODIES[case])

    assert status == 400
    assert json.loads(answer)["error"].startswith("no admission.k8s.io/v1 AdmissionReview: ")
    assert len(answer) < 600
    assert caplog.records == []


async def test_a_webhook_answers_for_its_own_operations_only(world: World) -> None:
    status, answer = await webhooks(world).routes("")["/check-plan"](json.dumps(review("CREATE", None, {})).encode())

    assert (status, json.loads(answer)["error"].rpartition(": ")[2]) == (400, "nobody asks about CREATE here")


@pytest.mark.parametrize(
    ("failure", "code", "says"),
    [
        (Unavailable("the SubjectAccessReview: HTTP 503"), 503, "try again: the SubjectAccessReview: HTTP 503"),
        (RuntimeError("a defect"), 500, "checking Tenant c/a went wrong in the operator; its log says why"),
    ],
)
async def test_no_answer_is_a_no(world: World, failure: Any, code: int, says: str) -> None:
    world.access.failure = failure

    refused = await ask(webhooks(world), CHECK_TENANT, review("CREATE", None, a_tenant("a").to_wire()))

    assert refused["allowed"] is False
    assert refused["status"]["code"] == code
    assert says in refused["status"]["message"]
    assert "a defect" not in refused["status"]["message"]


class NoAnswer:
    """`ports.AccessReview` that never answers."""

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        return await asyncio.Event().wait()

    async def may_list(self, caller: Caller, plural: str) -> bool:
        return await asyncio.Event().wait()


async def test_what_takes_too_long_is_a_no_before_the_api_server_gives_up() -> None:
    hooks = webhooks(World(NoAnswer()), seconds=0.01)

    refused = await ask(hooks, CHECK_TENANT, review("CREATE", None, a_tenant("a").to_wire()))

    assert refused["status"]["code"] == 503
    assert "could not be checked within 0.01 s" in refused["status"]["message"]


def test_an_operator_that_is_hung_or_gone_says_no(world: World) -> None:
    """The server has a loop of its own: it answers although nobody judges."""
    silent = asyncio.new_event_loop()
    asked = review("CREATE", None, a_tenant("a").to_wire())

    hung = asyncio.run(ask(Webhooks(world.admission, silent, seconds=0.01), CHECK_TENANT, asked))
    silent.run_until_complete(asyncio.sleep(0))  # what was asked of it is given up
    silent.close()
    gone = asyncio.run(ask(Webhooks(world.admission, silent), CHECK_TENANT, asked))

    assert "could not be checked within 0.01 s" in hung["status"]["message"]
    assert "the operator is ending; try again" in gone["status"]["message"]


WORKABLE = {
    "TENANT_OPERATOR_DATABASE_URL": "postgresql://localhost",
    "TENANT_OPERATOR_WEBHOOK_CERTIFICATE": "/tls.crt",
    "TENANT_OPERATOR_WEBHOOK_KEY": "/tls.key",
}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"WEBHOOK_TOKEN": "x" * 24, "WEBHOOK_KEY": None}, "go together"),
        ({"WEBHOOK_TOKEN": "x" * 24, "WEBHOOK_CERTIFICATE": None}, "go together"),
        ({}, "needs TENANT_OPERATOR_WEBHOOK_TOKEN, or TENANT_OPERATOR_WEBHOOK_CLIENT_CA"),
        ({"WEBHOOK_TOKEN": "x" * 23}, "24 or more lowercase letters"),
        ({"WEBHOOK_TOKEN": "../" * 24}, "24 or more lowercase letters"),
        ({"WEBHOOK_TOKEN": WEBHOOK_TOKEN_PLACEHOLDER}, "which everybody knows"),
        ({"WEBHOOK_TOKEN": "x" * 24, "WEBHOOK_CLIENT_NAMES": '["a"]'}, "needs TENANT_OPERATOR_WEBHOOK_CLIENT_CA"),
    ],
)
def test_webhooks_that_could_not_tell_the_api_server_from_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str | None], says: str
) -> None:
    for name, value in {**WORKABLE, **{f"TENANT_OPERATOR_{name}": value for name, value in settings.items()}}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=says) as refused:
        load()

    assert "x" * 23 not in str(refused.value)


@pytest.mark.parametrize("settings", [{"WEBHOOK_TOKEN": "x" * 24}, {"WEBHOOK_CLIENT_CA": "/ca.crt"}])
def test_a_token_or_a_client_certificate_is_enough(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name, value in {**WORKABLE, **{f"TENANT_OPERATOR_{name}": value for name, value in settings.items()}}.items():
        monkeypatch.setenv(name, value)

    assert load().webhook_certificate == Path("/tls.crt")
