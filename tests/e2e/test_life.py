"""The life of a tenant after it was made: paused and resumed, decommissioned, recreated, deleted in the midst of it."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from devcluster import ports
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, connect, status, timeline

(PAUSED_PORT,) = ports.choose(1)
LOOPBACK = "127.0.0.1"
OF_TRAFFIC = ("Ready", "TrafficEnabled")
PERSON, PROGRAM = "text/html,application/xhtml+xml,*/*;q=0.8", "application/json"


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    return {"STALLED_RETRY": "1s", "PAUSED_PORT": str(PAUSED_PORT)}


@dataclass(frozen=True)
class Reply:
    """What a visitor of a tenant's host gets. `by` is the Service that the ingress controller hands the request to."""

    by: str
    status: int = 0
    headers: Mapping[str, str] | None = None
    body: str = ""


def visit(tenant: TenantUnderTest, accept: str = PERSON) -> Reply:
    """Do what an ingress controller does: look up the backend of the host, and for the closed one ask the responder."""
    (rule,) = tenant.object("ingress", "tenant")["spec"]["rules"]
    assert rule["host"] == tenant.host
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = tenant.object("service", backend["name"])
    assert backend["port"]["number"] in {port["port"] for port in service["spec"]["ports"]}
    if backend["name"] != "paused":
        return Reply(backend["name"])
    assert service["spec"]["externalName"] == "tenant-operator-paused.tenant-operator.svc.cluster.local"
    connection = http.client.HTTPConnection(LOOPBACK, PAUSED_PORT, timeout=5)
    try:
        connection.request("GET", "/login?next=home", headers={"Host": tenant.host, "Accept": accept})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply("paused", response.status, headers, response.read().decode())
    finally:
        connection.close()


def desire(world: World, state: str, *tenants: TenantUnderTest) -> None:
    """Set `desiredState`, as a merge from Git would."""
    patch = json.dumps({"spec": {"desiredState": state}})
    names = [each.name for each in tenants]
    world.kubectl("patch", "tenant", *names, tenants[0].where, "--type=merge", f"--patch={patch}")


def workloads(world: World, tenant: TenantUnderTest) -> dict[str, tuple[str, int]]:
    """UID and generation of each Deployment, by name."""
    found = world.listed("deployments", f"--namespace={tenant.namespace}")
    return {each["metadata"]["name"]: (each["metadata"]["uid"], each["metadata"]["generation"]) for each in found}


def version_of(tenant: TenantUnderTest) -> str:
    version: str = tenant.newest()["metadata"]["resourceVersion"]
    return version


def waits_for_its_namespace(tenant: Object) -> bool:
    """Whether the namespace is what the rollback or the release is at."""
    rows = {row["activity"]: row["state"] for row in timeline(tenant)}
    return rows.get("allocate-namespace") == "Compensating"


def test_suspended_tenant_is_paused_and_kept(world: World) -> None:
    tenant = world.tenant("quiet", "standard")
    tenant.settles("Active")
    assert visit(tenant) == Reply("auth")
    before = workloads(world, tenant)
    assert set(before) == {"auth", "worker"}
    uri = tenant.secret("database-credentials")["uri"]
    with connect(uri) as session:
        session.execute("CREATE TABLE diary (entry text)")
        session.execute("INSERT INTO diary VALUES ('still here')")

    desire(world, "Suspended", tenant)
    now = tenant.settles("Suspended")
    assert now["run"]["outcome"] == "Completed"
    assert {row["state"] for row in now["allocations"]} == {"Allocated"}
    newest = tenant.newest()
    assert condition(newest, "TrafficEnabled")["reason"] == "Suspended"
    # It is as it was asked to be: neither ready nor on its way to that.
    assert condition(newest, "Ready") == condition(newest, "Stalled") == condition(newest, "Reconciling") == {}
    assert (condition(newest, "WorkloadsReady")["status"], condition(newest, "ResourcesHeld")["status"]) == (
        "True",
        "True",
    )
    tenant.event("Suspended")

    page = visit(tenant)
    assert (page.by, page.status) == ("paused", 503)
    assert page.headers is not None and int(page.headers["retry-after"]) > 0
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-type"].startswith("text/html")
    assert "paused" in page.body
    answer = visit(tenant, PROGRAM)
    assert answer.status == 503
    assert answer.headers is not None and answer.headers["content-type"].startswith("application/json")
    assert json.loads(answer.body)["error"] == "paused"

    # The same wish again, and a new life of the operator, change nothing.
    settled_at = version_of(tenant)
    desire(world, "Suspended", tenant)
    assert world.operator.stop() == 0
    world.operator.start()
    witness = world.tenant("quiet-witness")
    witness.settles("Active")
    assert version_of(tenant) == settled_at
    assert visit(tenant).by == "paused"

    desire(world, "Active", tenant)
    tenant.settles("Active")
    assert visit(tenant) == Reply("auth")
    assert condition(tenant.newest(), "Ready")["status"] == "True"
    tenant.event("Resumed")
    assert workloads(world, tenant) == before
    with connect(uri) as session:
        assert session.execute("SELECT entry FROM diary").fetchall() == [("still here",)]
    told = [event["type"] for event in tenant.feed()]
    assert [type_ for type_ in told if type_ in ("tenant.suspended", "tenant.resumed")] == [
        "tenant.suspended",
        "tenant.resumed",
    ]
    assert status(tenant.newest())["attempt"] == told.count("tenant.provisioning.started") == 1


def test_suspension_outlives_a_crash_in_its_middle(world: World) -> None:
    """Killed as soon as the wish is there, the operator carries it out in its next life, and tells it once."""
    tenant = world.tenant("abrupt")
    tenant.settles("Active")
    desire(world, "Suspended", tenant)
    world.operator.kill()
    world.operator.start()
    tenant.settles("Suspended")
    assert visit(tenant).by == "paused"
    desire(world, "Active", tenant)
    world.operator.kill()
    world.operator.start()
    tenant.settles("Active")
    assert visit(tenant).by == "auth"
    assert (len(tenant.told("tenant.suspended")), len(tenant.told("tenant.resumed"))) == (1, 1)


def test_created_suspended_is_never_open(world: World) -> None:
    tenant = world.tenant("shy", desiredState="Suspended")
    tenant.settles("Suspended")
    assert visit(tenant).status == 503
    # The spec of the route is the one it was made with: it was never another in between.
    assert tenant.object("ingress", "tenant")["metadata"]["generation"] == 1
    assert "Active" not in {status(each).get("state") for each in tenant.versions}
    assert "True" not in {condition(each, type_).get("status") for each in tenant.versions for type_ in OF_TRAFFIC}
    assert len(tenant.mails()) == 3
    desire(world, "Active", tenant)
    tenant.settles("Active")
    assert visit(tenant) == Reply("auth")


def test_decommissioned_from_any_state(world: World) -> None:
    """Everything is released; the record and its history stay, and the slug is free again."""
    active, suspended = world.tenants(["ended-active", "ended-suspended"])
    (failed,) = world.tenants(["ended-failed"], "unheard-of")
    (cancelled,) = world.tenants(["ended-cancelled"], "endless")
    cancelled.runs("wait-ready")
    cancelled.act("cancel")
    cancelled.settles("Pending")
    active.settles("Active")
    failed.settles("Failed")
    suspended.settles("Active")
    desire(world, "Suspended", suspended)
    suspended.settles("Suspended")

    ended = [active, suspended, failed, cancelled]
    histories = {each.name: status(each.newest()).get("history", []) for each in ended}
    desire(world, "Decommissioned", *ended)
    for tenant in ended:
        now = tenant.settles("Decommissioned")
        assert now["decommissionedAt"]
        assert now["attempt"] == 1
        assert now.get("allocations", []) == []
        assert condition(tenant.newest(), "ResourcesHeld")["status"] == "False"
        assert condition(tenant.newest(), "TrafficEnabled")["reason"] == "Decommissioned"
        assert condition(tenant.newest(), "Ready") == condition(tenant.newest(), "Stalled") == {}
        assert histories[tenant.name], "there is a history to keep"
        assert now["history"][: len(histories[tenant.name])] == histories[tenant.name]
        tenant.holds_nothing()
        ends = [event["type"] for event in tenant.feed() if event["type"].startswith("tenant.deprovisioning")]
        assert ends[-1] == "tenant.deprovisioning.completed"
        if tenant is cancelled:
            # From Pending straight to Decommissioned: one change of state, one event.
            assert len(ends) == 1
        else:
            assert ends[0] == "tenant.deprovisioning.started"
            steps = {"tenant.deprovisioning.step_completed"} if tenant is not failed else set()
            assert set(ends[1:-1]) == steps
        tenant.event("Decommissioned")

    heirs = [world.tenant(f"heir-of-{each.name}", slug=each.name) for each in ended]
    for heir, ancestor in zip(heirs, ended, strict=True):
        assert heir.settles("Active")["url"] == f"https://{ancestor.host}"
        assert status(ancestor.newest())["state"] == "Decommissioned"

    # Who comes back finds the slug taken, and takes nothing from its new holder.
    desire(world, "Active", active)
    assert active.settles("Failed")["attempt"] == 2
    message = condition(active.newest(), "Ready")["message"]
    assert f"host {active.host} is taken" in message
    assert heirs[0].uid in message
    assert heirs[0].namespaces() == [active.namespace]
    active.holds_nothing()


def test_recreated_from_nothing(world: World) -> None:
    tenant = world.tenant("phoenix")
    tenant.settles("Active")
    keys = {name: tenant.secret(name) for name in ("database-credentials", "identity-credentials")}
    signing_key = tenant.secret("identity-signing-key")
    with connect(keys["database-credentials"]["uri"]) as session:
        session.execute("CREATE TABLE diary (entry text)")
    desire(world, "Decommissioned", tenant)
    tenant.settles("Decommissioned")
    # A request is no way around the wish.
    tenant.act("retry")
    assert "desiredState: Active" in tenant.answer("retry", "Refused")["message"]

    desire(world, "Active", tenant)
    now = tenant.settles("Active")
    assert now["attempt"] == 2
    assert "decommissionedAt" not in now
    assert now["tenantId"] == tenant.uid
    assert visit(tenant) == Reply("auth")
    for name, old in keys.items():
        assert tenant.secret(name)["password"] != old["password"]
    assert tenant.secret("identity-signing-key")["private-key.pem"] != signing_key["private-key.pem"]
    with connect(tenant.secret("database-credentials")["uri"]) as session:
        assert session.execute("SELECT to_regclass('diary')").fetchall() == [(None,)]
    assert len(tenant.databases()) == 1
    starts = [event["data"]["attempt_number"] for event in tenant.told("tenant.provisioning.started")]
    assert starts == [1, 2]


def test_deleted_in_the_middle_of_a_rollback(world: World) -> None:
    """The record stays until the last thing is gone, and what had been begun is not begun twice."""
    tenant = world.tenant("torn", "endless")
    tenant.runs("wait-ready")
    with world.kept_namespaces(tenant):
        tenant.act("cancel")
        tenant.wait(waits_for_its_namespace, "is at the last part of the rollback")
        world.delete([tenant], wait=False)
        tenant.wait(lambda each: "deletionTimestamp" in each["metadata"], "is being deleted")
        world.tenant("torn-witness").settles("Active")
        assert waits_for_its_namespace(tenant.newest())
        assert [row["kind"] for row in status(tenant.newest())["allocations"]] == ["Namespace"]
    tenant.delete()
    tenant.holds_nothing()
    _was_released_once(tenant)


def test_deleted_in_the_middle_of_a_decommission(world: World) -> None:
    tenant = world.tenant("twice-gone")
    tenant.settles("Active")
    with world.kept_namespaces(tenant):
        desire(world, "Decommissioned", tenant)
        tenant.wait(waits_for_its_namespace, "is at the last part of the release")
        assert status(tenant.newest())["state"] == "Decommissioning"
        world.delete([tenant], wait=False)
        tenant.wait(lambda each: "deletionTimestamp" in each["metadata"], "is being deleted")
    tenant.delete()
    tenant.holds_nothing()
    _was_released_once(tenant)


def _was_released_once(tenant: TenantUnderTest) -> None:
    """The last that is told is the end of the record, and nothing was rolled back or released twice in a run."""
    until(lambda: tenant.feed()[-1]["type"] == "tenant.deleted", f"{tenant.name} is told to be gone", 10)
    feed = tenant.feed()
    ids = [event["id"] for event in feed]
    assert len(set(ids)) == len(ids)
    compensated = [event["data"]["step"] for event in feed if event["type"] == "tenant.provisioning.compensated"]
    assert len(set(compensated)) == len(compensated)
    released = [event["data"]["step"] for event in feed if event["type"] == "tenant.deprovisioning.step_completed"]
    assert len(set(released)) == len(released)
