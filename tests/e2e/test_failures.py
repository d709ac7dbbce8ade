"""What goes wrong for real: each tenant ends in Failed, says why, and leaves nothing behind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from devcluster import Environment
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.world import TenantUnderTest, World, condition, status, timeline


@dataclass(frozen=True)
class Case:
    """A tenant that cannot be, the activity at which it fails, and what people have to be told."""

    name: str
    plan: str
    activity: str
    says: tuple[str, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)


CASES = (
    Case("crashes", "crash-loop", "wait-ready", ("timed out after 15 s", "Deployment auth", "CrashLoopBackOff")),
    Case(
        "imageless", "image-pull", "wait-ready", ("timed out", "ImagePullBackOff", "images.invalid/nobody/has-it:1.0")
    ),
    Case("homeless", "unschedulable", "wait-ready", ("timed out", "Unschedulable", "Insufficient cpu")),
    Case("roomless", "no-room", "wait-ready", ("timed out", "exceeded quota: tenant-quota", "pods=0")),
    Case("planless", "unheard-of", "validate-request", ("spec.plan 'unheard-of'", "no such Plan")),
    Case("greedy", catalog.FORBIDDEN_PLAN, "validate-request", ("not entitled to this plan",)),
    Case("remote", "small", "validate-request", ("does not offer this region", "eu-1"), {"region": "mars-1"}),
    Case("orphan", "small", "validate-request", ("no Organization of this name",), {"organization": "nobody"}),
    Case("taken", "small", "validate-request", ("tenant-taken-acme", "belongs to no tenant")),
)


@pytest.fixture(scope="module")
def foreign(module_world: World) -> Iterator[Object]:
    """A namespace of somebody else, called as that of the tenant `taken` would be."""
    name = "tenant-taken-acme"
    mine = {"name": name, "labels": {"team": "somebody-else"}}
    module_world.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": mine})
    module_world.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "precious", "namespace": name},
            "data": {"work": "of years"},
        }
    )
    found = module_world.read("namespace", name)
    assert found is not None
    yield found
    module_world.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def doomed(module_world: World, foreign: Object) -> dict[str, TenantUnderTest]:
    """All the tenants that cannot be, applied one after the other without waiting."""
    tenants = {case.name: module_world.tenant(case.name, case.plan, **case.spec) for case in CASES}
    module_world.applied.clear()
    return tenants


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fails_and_says_why(world: World, doomed: dict[str, TenantUnderTest], case: Case) -> None:
    tenant = doomed[case.name]
    now = tenant.settles("Failed")
    run = now["run"]
    assert (run["outcome"], run["failedActivity"], now["attempt"]) == ("Failed", case.activity, 1)
    ready = condition(tenant.newest(), "Ready")
    (failed,) = tenant.told("tenant.provisioning.failed")
    for phrase in case.says:
        for message in (run["error"], ready["message"], failed["data"]["error"]):
            assert phrase in message
    assert case.activity in ready["message"]
    assert "intelliauth.io/action=retry" in ready["message"]
    assert condition(tenant.newest(), "Stalled")["status"] == "True"
    assert condition(tenant.newest(), "Reconciling") == {}
    assert failed["data"]["failed_activity"] == case.activity
    assert tenant.event("Failed", says=case.says[-1])["type"] == "Warning"
    assert now["history"][-1]["failedActivity"] == case.activity
    assert tenant.mails() == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_leaves_nothing(world: World, doomed: dict[str, TenantUnderTest], case: Case) -> None:
    """Every activity that was started is rolled back, last first, each once; then nothing is held."""
    tenant = doomed[case.name]
    now = tenant.settles("Failed")
    started = [row["activity"] for row in now["timeline"] if row["state"] != "Pending"]
    rolled_back = [event["data"]["step"] for event in tenant.told("tenant.provisioning.compensated")]
    assert rolled_back == started[::-1]
    assert {row["state"] for row in now["timeline"]} <= {"Compensated", "Pending"}
    assert now.get("allocations", []) == []
    assert condition(tenant.newest(), "ResourcesHeld")["status"] == "False"
    tenant.holds_nothing()
    assert tenant.feed()[-1]["type"] == "tenant.provisioning.failed"


def test_foreign_namespace_is_left_alone(world: World, doomed: dict[str, TenantUnderTest], foreign: Object) -> None:
    doomed["taken"].settles("Failed")
    assert world.read("namespace", "tenant-taken-acme") == foreign
    precious = world.read("configmap", "precious", "tenant-taken-acme")
    assert precious is not None
    assert precious["data"] == {"work": "of years"}


def test_failed_tenant_stays_failed(world: World, doomed: dict[str, TenantUnderTest]) -> None:
    """Neither a change elsewhere in it nor a restart of the operator starts it again."""
    tenant = doomed["greedy"]
    tenant.settles("Failed")
    events = len(tenant.feed())
    world.kubectl("label", "tenant", tenant.name, tenant.where, "reviewed=yes")
    patch = '{"spec":{"displayName":"still-greedy"}}'
    world.kubectl("patch", "tenant", tenant.name, tenant.where, "--type=merge", f"--patch={patch}")
    assert world.operator.stop() == 0
    world.operator.start()
    world.tenant("bystander").settles("Active")
    now = status(tenant.newest())
    assert (now["state"], now["attempt"], len(tenant.feed())) == ("Failed", 1, events)


def test_cause_is_shown_while_it_lasts(world: World) -> None:
    """Not ready is no failure until the timeout: the tenant goes on trying, and tells what is in the way."""
    world.offer(catalog.failing("stuck", "crash-loop", 300, command=["sh", "-c", "exit 1"]))
    tenant = world.tenant("stuck", "stuck")

    def tells(version: Object) -> bool:
        return "CrashLoopBackOff" in condition(version, "Ready").get("message", "")

    version = tenant.wait(tells, "tells why it is not ready").tenant
    assert status(version)["state"] == "Provisioning"
    assert condition(version, "Reconciling")["status"] == "True"
    assert "wait-ready" in condition(version, "Ready")["message"]
    assert "Deployment auth: 0 of 1 ready" in condition(version, "WorkloadsReady")["message"]
    assert "CrashLoopBackOff" in status(version)["run"]["heartbeat"]["detail"]
    assert "wait-ready" in world.kubectl("get", "tenant", "stuck", tenant.where)


class Answer(BaseHTTPRequestHandler):
    """Answers every GET with the server's status."""

    server: "Endpoint"

    def do_GET(self) -> None:  # the name is the protocol's
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test keeps what was asked."""


class Endpoint(ThreadingHTTPServer):
    """A tenant's health endpoint, healthy or not, where the operator reaches it."""

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Answer)
        self.url = f"http://{host}:{self.server_port}"
        self.status = HTTPStatus.SERVICE_UNAVAILABLE
        self.asked: list[str] = []


@pytest.fixture
def endpoint(platform: Environment) -> Iterator[Endpoint]:
    # The mail receiver is reached from where the operator runs, too.
    with Endpoint(platform.smtp_host) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_readiness_probe_decides(world: World, endpoint: Endpoint) -> None:
    """The pods are ready, the tenant is not until its endpoint answers as the plan expects."""
    url = f"{endpoint.url}/health/{{{{ host }}}}"
    world.offer(catalog.plan("probed", readiness={"url": url, "expectedStatus": 200, "timeoutSeconds": 2}))
    tenant = world.tenant("probed", "probed")

    def tells(version: Object) -> bool:
        return "answered 503, expected 200" in condition(version, "WorkloadsReady").get("message", "")

    version = tenant.wait(tells, "tells what the probe got").tenant
    assert status(version)["state"] == "Provisioning"
    assert set(endpoint.asked) == {f"/health/{tenant.host}"}
    endpoint.status = HTTPStatus.OK
    tenant.settles("Active")


def test_readiness_probe_that_never_passes_is_named(world: World, endpoint: Endpoint) -> None:
    url = f"{endpoint.url}/health"
    world.offer(catalog.plan("probed-in-vain", readiness={"url": url}, timeouts={"wait-ready": "15s"}))
    tenant = world.tenant("probed-in-vain", "probed-in-vain")
    now = tenant.settles("Failed")
    assert now["run"]["failedActivity"] == "wait-ready"
    assert "answered 503, expected 200" in now["run"]["error"]
    tenant.holds_nothing()


def test_third_failure_is_called_structural(world: World) -> None:
    """A further retry is allowed, but the tenant says what is the way."""
    tenant = world.tenant("hopeless", "unheard-of")
    for attempt in (1, 2, 3):
        tenant.wait(lambda each, n=attempt: _failed(each, n), f"fails attempt {attempt}")  # type: ignore[misc]
        if attempt < 3:
            tenant.act("retry")
    ready = condition(tenant.newest(), "Ready")
    assert ready["reason"] == "StructuralCause"
    assert "escalate" in ready["message"]
    assert tenant.event("StructuralCause")["type"] == "Warning"
    assert [each["attempt"] for each in status(tenant.newest())["history"]] == [1, 2, 3]
    tenant.act("retry")
    tenant.wait(lambda each: status(each)["attempt"] == 4, "takes a fourth attempt")


def _failed(tenant: Object, attempt: int) -> bool:
    now = status(tenant)
    return (now.get("state"), now.get("attempt")) == ("Failed", attempt) and bool(timeline(tenant))
