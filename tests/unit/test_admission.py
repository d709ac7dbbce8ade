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
from tenant_operator.admission import CHECK_TENANT, STAMP_TENANT, Webhooks
from tenant_operator.api.names import ANNOTATION_REQUEST, ANNOTATION_REQUESTED_BY, FINALIZER, LABEL_TENANT_UID
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.admission import Admission
from tenant_operator.provisioning.admission_rules import CONFLICT, FORBIDDEN, INVALID, Verb
from tenant_operator.provisioning.ports import AccessReview, Caller, TenantKey
from tenant_operator.saga.errors import Unavailable
from tenant_operator.settings import WEBHOOK_TOKEN_PLACEHOLDER, SettingsError, load
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
        ({"WEBHOOK_TOKEN": "x" * 23}, "24 or more letters"),
        ({"WEBHOOK_TOKEN": "../" * 24}, "24 or more letters"),
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
