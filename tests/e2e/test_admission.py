"""A bad request is refused by the API server at once, with words that help; and who asked cannot be forged."""

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devcluster import Environment
from devcluster.platform import Webhook, install_webhook
from tenant_operator.adapters.kubernetes.client import MERGE_PATCH, Answer, Connection, KubernetesClient
from tenant_operator.api.names import (
    ANNOTATION_ACTION,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUESTED_BY,
    API_VERSION,
    FINALIZER,
)
from tests.e2e import catalog, webhook
from tests.e2e.feed import Object, TenantFeed
from tests.e2e.waiting import until
from tests.e2e.webhook import OWNER, PAIR, GatedWorld, refusal
from tests.e2e.world import World, condition, status

DENIED = "denied the request: "
DRY = "--dry-run=server"
WHERE = f"--namespace={catalog.NAMESPACE}"


@pytest.fixture(scope="module")
def module_world(
    platform: Environment, tenant_feed: TenantFeed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with webhook.gated_world(platform, tenant_feed, tmp_path_factory.mktemp("admission")) as world:
        yield world


def create(gate: GatedWorld, tenant: Object, *options: str) -> tuple[int, str, str]:
    answer = gate.ask_as(OWNER, "create", "--filename=-", *options, stdin=json.dumps(tenant))
    return answer.code, answer.out, answer.err


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no-such-plan": (
        "gold",
        {},
        "spec.plan 'gold': there is no such Plan; Organization acme may use bottomless, crash-loop",
    ),
    "not-entitled": (
        catalog.FORBIDDEN_PLAN,
        {},
        f"spec.plan '{catalog.FORBIDDEN_PLAN}': Organization acme is not entitled to this plan; it may use bottomless,",
    ),
    "region": (
        "small",
        {"region": "mars"},
        "spec.region 'mars': plan small does not offer this region; it offers eu-1",
    ),
    "no-such-organization": (
        "small",
        {"organization": "nobody"},
        f"spec.organization 'nobody': no Organization of this name has its Tenants in namespace {catalog.NAMESPACE}",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_at_once_and_leaves_nothing(gate: GatedWorld, case: str) -> None:
    plan, spec, says = BAD[case]
    before = len(gate.audit())

    code, _, refused = create(gate, catalog.tenant("bad", plan, **spec))

    assert code != 0
    assert DENIED + says in refused
    assert gate.read("tenant", "bad", catalog.NAMESPACE) is None
    assert len(gate.audit()) == before


@pytest.mark.parametrize("case", BAD)
def test_without_admission_the_saga_refuses_the_same(gate: GatedWorld, case: str) -> None:
    plan, spec, says = BAD[case]
    gate.unguard()
    try:
        tenant = gate.tenant(f"bypass-{case}", plan, **spec)
        failed = tenant.settles("Failed")
    finally:
        gate.guard()

    assert says in failed["run"]["error"]
    tenant.holds_nothing()


def _is_known(tenant: Object) -> bool:
    """To those who admit other tenants, too: they hear of it before its run is journalled."""
    return bool(status(tenant).get("run"))


def test_a_host_is_taken_and_its_holder_named(gate: GatedWorld) -> None:
    holder = gate.tenant("holder")
    holder.wait(_is_known, "is known to the operator")

    _, _, refused = create(gate, catalog.tenant("another", "small", slug="holder"))

    assert f"host {holder.host} is taken by Tenant {catalog.NAMESPACE}/holder of Organization acme" in refused


def test_a_tenant_lives_in_the_namespace_of_its_organization(gate: GatedWorld) -> None:
    tenant = catalog.tenant("elsewhere", "small")
    tenant["metadata"]["namespace"] = "default"

    refused = gate.ask("create", "--filename=-", stdin=json.dumps(tenant)).err

    assert "spec.organization 'acme': no Organization of this name has its Tenants in namespace default" in refused


def test_what_is_applied_in_one_go_with_its_plan_is_not_refused(gate: GatedWorld) -> None:
    documents = [catalog.plan("delayed"), catalog.tenant("together", "delayed")]

    gate.apply(*documents)

    gate.kubectl("delete", "tenant", "together", WHERE)


def test_the_limit_of_a_plan_holds_when_many_are_created_at_once(gate: GatedWorld) -> None:
    gate.kubectl("delete", "tenants", "--all", WHERE)  # all of an organisation's tenants count
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda n: create(gate, catalog.tenant(f"pair-{n}", PAIR)), range(10)))
    refused = [err for code, _, err in answers if code != 0]
    created = [f"pair-{n}" for n, (code, _, _) in enumerate(answers) if code == 0]

    def states() -> dict[str, str]:
        found = {each["metadata"]["name"]: each.get("status", {}) for each in gate.listed("tenants", WHERE)}
        over = {name: found[name].get("state", "") for name in created}
        return over if all(state in ("Active", "Failed") for state in over.values()) else {}

    ended = until(states, "all that were admitted have come to an end", 60)
    assert sorted(ended.values()).count("Active") == 2
    assert len(refused) == 10 - len(created)
    assert all("the plan's limit is 2 per organization" in each for each in refused)
    _, _, late = create(gate, catalog.tenant("pair-late", PAIR))
    assert "decommission one, or choose a larger plan" in late
    gate.kubectl("delete", "tenant", *created, WHERE)


def test_illegal_requests_and_edits_are_refused_in_place(gate: GatedWorld) -> None:
    tenant = gate.tenant("steady", region=catalog.REGION)
    tenant.settles("Active")

    def refused(*arguments: str) -> str:
        answer = gate.ask_about("steady", *arguments, user=OWNER)
        assert answer.code != 0
        return answer.err

    assert "'cancel': cancel is possible in Provisioning only; the tenant is Active. Allowed now: " in refused(
        "annotate", f"{ANNOTATION_ACTION}=cancel"
    )
    assert "'explode': there is no such action; use cancel, retry, reset" in refused(
        "annotate", f"{ANNOTATION_ACTION}=explode"
    )
    assert "while resources are held; set desiredState: Decommissioned" in refused(*edited(region="eu-2"))
    assert "is not entitled to this plan" in refused(*edited(plan=catalog.FORBIDDEN_PLAN))
    assert "there is no such Plan" in refused(*edited(plan="unheard-of"))
    assert condition(tenant.newest(), "Ready")["status"] == "True"
    assert condition(tenant.newest(), "Stalled") == {}


def edited(**spec: str) -> tuple[str, ...]:
    """What of kubectl changes these fields of a Tenant."""
    return ("patch", "--type=merge", f"--patch={json.dumps({'spec': spec})}")


def test_whoever_changes_the_plan_is_who_is_told_to_have(gate: GatedWorld) -> None:
    tenant = gate.tenant("upgraded")
    tenant.settles("Active")
    answer = gate.ask_about("upgraded", *edited(plan="patient-with-postgres"), user=OWNER)
    assert answer.code == 0, answer.err
    tenant.event("PlanChanged", says="from small to patient-with-postgres")
    (told,) = until(lambda: tenant.told("tenant.plan.changed"), "the feed tells it")
    assert (told["actor_id"], told["data"]) == (OWNER, {"from": "small", "to": "patient-with-postgres"})
    tenant.wait(lambda each: condition(each, "WorkloadsReady").get("status") == "True", "has rolled out")


def test_what_is_in_use_is_not_removed(gate: GatedWorld) -> None:
    gate.tenant("user", "standard").wait(_is_known, "is known to the operator")

    plan, organization = gate.ask("delete", "plan", "standard"), gate.ask("delete", "organization", "acme")

    assert f"Plan 'standard' is used by 1 Tenant: {catalog.NAMESPACE}/user; decommission them first" in plan.err
    assert "Organization 'acme' is used by " in organization.err
    assert f"{catalog.NAMESPACE}/user" in organization.err


def test_whoever_deletes_a_namespace_takes_its_tenants_with_it(gate: GatedWorld) -> None:
    name = "e2e-passing"
    organization = catalog.organization()
    organization["metadata"]["name"], organization["spec"]["namespace"] = name, name
    tenant = catalog.tenant("last", "small", organization=name)
    tenant["metadata"]["namespace"] = name
    gate.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, organization, tenant)
    gate.kubectl("wait", "tenant/last", f"--namespace={name}", "--for=condition=Ready", "--timeout=30s")

    gate.kubectl("delete", "namespace", name, "--timeout=120s")

    assert gate.read("namespace", f"tenant-last-{name}") is None
    gate.kubectl("delete", "organization", name)  # nobody uses it any more


# Who asked.


def annotations(gate: GatedWorld, name: str) -> dict[str, str]:
    found = gate.read("tenant", name, catalog.NAMESPACE)
    assert found is not None
    return dict(found["metadata"].get("annotations") or {})


def test_nobody_can_ask_in_the_name_of_another(gate: GatedWorld) -> None:
    forged = catalog.tenant("forged", "small")
    forged["metadata"]["annotations"] = {ANNOTATION_REQUESTED_BY: "mallory", ANNOTATION_REQUEST: '{"id": "1"}'}
    code, _, refused = create(gate, forged)
    assert code == 0, refused
    assert annotations(gate, "forged") == {ANNOTATION_REQUESTED_BY: OWNER}
    tenant = gate.tenant("forged")
    tenant.settles("Active")

    # Another person asks for nothing but to be named, or to have asked for nothing; then for something.
    for change in (f"{ANNOTATION_REQUESTED_BY}=mallory", f"{ANNOTATION_REQUESTED_BY}-"):
        gate.kubectl("annotate", "tenant", "forged", WHERE, "--overwrite", change)
        assert annotations(gate, "forged")[ANNOTATION_REQUESTED_BY] == OWNER
    gate.kubectl("annotate", "tenant", "forged", WHERE, f'{ANNOTATION_REQUEST}={{"id": "2"}}')
    assert ANNOTATION_REQUEST not in annotations(gate, "forged")
    edit = {"spec": {"desiredState": "Decommissioned"}, "metadata": {"annotations": {ANNOTATION_REQUESTED_BY: OWNER}}}
    gate.kubectl("patch", "tenant", "forged", WHERE, "--type=merge", f"--patch={json.dumps(edit)}")
    assert annotations(gate, "forged")[ANNOTATION_REQUESTED_BY] == "admin"

    tenant.settles("Decommissioned")
    (started,) = tenant.told("tenant.provisioning.started")
    (released,) = tenant.told("tenant.deprovisioning.started")
    assert (started["actor_id"], released["actor_id"]) == (OWNER, "admin")


def test_a_dry_run_shows_what_would_be_stored_and_stores_nothing(gate: GatedWorld) -> None:
    code, shown, _ = create(gate, catalog.tenant("dry", "small"), DRY, "--output=json")

    assert code == 0
    metadata = json.loads(shown)["metadata"]
    assert metadata["annotations"][ANNOTATION_REQUESTED_BY] == OWNER
    assert metadata["finalizers"] == [FINALIZER]
    assert gate.read("tenant", "dry", catalog.NAMESPACE) is None


# The server.


def test_what_concerns_nobody_goes_on_without_the_operator(gate: GatedWorld) -> None:
    tenant = gate.tenant("alone")
    tenant.settles("Active")
    gate.operator.kill()
    try:
        gate.kubectl("label", "tenant", "alone", WHERE, "colour=blue")
        refused = gate.ask("create", "--filename=-", stdin=json.dumps(catalog.tenant("unseen", "small"))).err
        # The runbook tells what these words mean.
        assert 'failed calling webhook "stamp-tenant.intelliauth.io": failed to call webhook: Post "https://' in refused
        assert "connect: connection refused" in refused
    finally:
        gate.operator.start()

    assert gate.read("tenant", "unseen", catalog.NAMESPACE) is None


def test_a_renewed_certificate_is_picked_up(gate: GatedWorld, tmp_path_factory: pytest.TempPathFactory) -> None:
    served, renewed = gate.webhook, Webhook.issue(tmp_path_factory.mktemp("renewed") / "webhook", gate.webhook.port)

    def admitted() -> bool:
        return create(gate, catalog.tenant("renewal", "small"), DRY)[0] == 0

    # In the middle of it, certificate and key do not match: the old pair goes on being served.
    served.certificate.write_bytes(renewed.certificate.read_bytes())
    until(lambda: "cannot be used" in gate.operator.output(), "the operator has seen half of a renewal")
    assert admitted()
    served.key.write_bytes(renewed.key.read_bytes())
    served.authority.write_bytes(renewed.authority.read_bytes())

    def is_renewed() -> bool:
        return ssl.get_server_certificate(("127.0.0.1", served.port)) == renewed.certificate.read_text()

    until(is_renewed, "the renewed certificate is served")
    gate.guard()
    until(admitted, "the API server trusts it")


def test_an_api_server_with_another_token_is_told_so(gate: GatedWorld) -> None:
    """As after a new token that the operator does not have yet."""
    before = len(gate.operator.output())
    other = f"{gate.webhook.address}/{'0' * 48}"
    install_webhook(gate.platform, other, gate.webhook.authority.read_bytes())
    try:
        said = until(lambda: refusal(gate.platform).partition("failed calling webhook")[2], "the API server is refused")
        assert "the server could not find the requested resource" in said
        assert "the webhook configurations do not have the token of this operator" in gate.operator.output()[before:]
    finally:
        gate.guard()


# Anything at all.

_WORDS = st.sampled_from(["", "a", "small", "acme", "eu-1", "Active", "Suspended", "cancel", "🦊", "A b", "x" * 70])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=5,
)
_SPECS = st.fixed_dictionaries(
    {},
    optional={
        "organization": st.just("acme") | _JSON,
        "slug": _WORDS | _JSON,
        "displayName": _WORDS | _JSON,
        "plan": st.just("small") | _WORDS | _JSON,
        "region": _WORDS | _JSON,
        "admin": st.just({"email": "a@example.com"}) | st.fixed_dictionaries({"email": _JSON}) | _JSON,
        "desiredState": st.sampled_from(["Active", "Suspended", "Decommissioned"]) | _JSON,
        "unknown": _JSON,
    },
)
_ANNOTATIONS = st.dictionaries(
    st.sampled_from([ANNOTATION_ACTION, ANNOTATION_REQUEST, ANNOTATION_REQUESTED_BY, "example.com/other"]),
    st.sampled_from(["cancel", "retry", "reset"]) | st.text(max_size=20) | _JSON,
    max_size=3,
)
_PATH = f"/apis/{API_VERSION}/namespaces/{catalog.NAMESPACE}/tenants"


@pytest.fixture(scope="module")
def send(module_world: GatedWorld) -> Iterator[Callable[[str, str, Object], Answer]]:
    """Dry runs as the owner, over one connection."""
    with asyncio.Runner() as runner:
        client = runner.run(KubernetesClient.connect(Connection(module_world.users[OWNER])))

        def request(method: str, path: str, body: Object) -> Answer:
            kind = MERGE_PATCH if method == "PATCH" else "application/json"
            return runner.run(
                client.request(
                    method,
                    path,
                    subject="a fuzzed Tenant",
                    query={"dryRun": "All"},
                    body=body,
                    content_type=kind,
                    expected=range(400, 600),
                )
            )

        yield request
        runner.run(client.close())


@pytest.fixture(scope="module")
def fuzzed(module_world: GatedWorld) -> Iterator[str]:
    """A Tenant that edits are tried on."""
    tenant = module_world.tenant("fuzzed")
    module_world.applied.remove(tenant)  # it outlives the tests of this module
    tenant.settles("Active")
    yield "fuzzed"
    tenant.delete()


def answers_clearly(answer: Answer) -> None:
    said = answer.json()
    assert answer.status < 500, said
    if answer.status >= 400:
        assert said["kind"] == "Status"
        assert len(said["message"]) > 10
        assert "Traceback" not in said["message"]


_fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_fuzz
@given(spec=_SPECS | _JSON, annotations=_ANNOTATIONS)
def test_whatever_is_created_is_admitted_or_clearly_refused(
    send: Callable[[str, str, Object], Answer], spec: Any, annotations: Any
) -> None:
    metadata = {"name": "fuzz", "namespace": catalog.NAMESPACE, "annotations": annotations}
    body = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": metadata, "spec": spec}

    answers_clearly(send("POST", _PATH, body))


@_fuzz
@given(spec=_SPECS | _JSON, annotations=_ANNOTATIONS | st.none())
def test_whatever_is_edited_is_admitted_or_clearly_refused(
    send: Callable[[str, str, Object], Answer], fuzzed: str, spec: Any, annotations: Any
) -> None:
    answer = send("PATCH", f"{_PATH}/{fuzzed}", {"spec": spec, "metadata": {"annotations": annotations}})

    answers_clearly(answer)
    if answer.status < 400:
        assert answer.json()["metadata"]["annotations"][ANNOTATION_REQUESTED_BY] in (OWNER, "admin")
