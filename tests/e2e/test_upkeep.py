"""A serving tenant stays what its plan says: changes roll out in place, drift is put right, and idleness is free."""

import json
from typing import Any

from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, has_rolled_out, settled, status

DRIFT_SECONDS = 60.0
CLOSE = '--patch={"spec":{"desiredState":"Suspended"}}'
BACKEND = "/spec/rules/0/http/paths/0/backend/service"


def rolling(image: str = "1.36", *more: Object, **spec: Any) -> Object:
    """The plan that the tests change. Rolled out means: each pod is of the newest kind."""
    auth = catalog.workload("auth", route=True, **{"image": f"docker.io/library/busybox:{image}", **spec})
    return catalog.plan("rolling", auth, *more)


def deployment(tenant: TenantUnderTest, name: str = "auth") -> Object:
    return tenant.object("deployment", name)


def container(tenant: TenantUnderTest) -> Object:
    (found,) = deployment(tenant)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def backend(tenant: TenantUnderTest) -> str:
    (rule,) = tenant.object("ingress", "tenant")["spec"]["rules"]
    name: str = rule["http"]["paths"][0]["backend"]["service"]["name"]
    return name


def test_changed_plan_rolls_out_in_place(world: World) -> None:
    """Open and closed tenants follow their plan, without a run; the open one is Ready all the time."""
    world.offer(rolling("1.36", catalog.workload("extra")))
    open_, closed = world.tenants(["rolls", "rolls-closed"], "rolling")
    open_.settles("Active")
    closed.settles("Active")
    world.kubectl("patch", "tenant", closed.name, closed.where, "--type=merge", CLOSE)
    closed.settles("Suspended")
    uids = {each.name: deployment(each)["metadata"]["uid"] for each in (open_, closed)}
    before = {each.name: status(each.newest()) for each in (open_, closed)}
    heard = len(open_.versions)

    environment = [{"name": "GREETING", "value": "hello {{ host }}"}]
    world.apply(rolling("1.37", catalog.workload("another"), replicas=2, env=environment))
    for tenant, state in ((open_, "Active"), (closed, "Suspended")):
        old = before[tenant.name]
        tenant.wait(lambda each, old=old: has_rolled_out(each, old["workloadsHash"]), "has rolled out")  # type: ignore[misc]
        now = tenant.settles(state)
        assert (now["run"], now["attempt"], now["timeline"]) == (old["run"], old["attempt"], old["timeline"])
        assert container(tenant)["image"].endswith(":1.37")
        assert {"name": "GREETING", "value": f"hello {tenant.host}"} in container(tenant)["env"]
        assert deployment(tenant)["spec"]["replicas"] == deployment(tenant)["status"]["availableReplicas"] == 2
        assert deployment(tenant)["metadata"]["uid"] == uids[tenant.name]
        for kind in ("deployments", "services"):
            assert {"auth", "another"} <= tenant.names(kind)
            assert "extra" not in tenant.names(kind)
        tenant.event("RollingOut")
        tenant.event("RolledOut")

    since = open_.versions[heard:]
    assert {condition(each, "Ready")["status"] for each in since} == {"True"}
    assert {condition(each, "TrafficEnabled")["status"] for each in since} == {"True"}
    told = [
        (condition(each, "WorkloadsReady")["status"], condition(each, "WorkloadsReady")["reason"]) for each in since
    ]
    assert ("False", "RollingOut") in told
    assert told[-1] == ("True", "Completed")
    assert (backend(open_), backend(closed)) == ("auth", "paused")
    assert len(open_.told("tenant.provisioning.started")) == 1


def test_rollout_that_gets_stuck_says_so_and_goes_on_with_a_better_plan(world: World) -> None:
    """The tenant serves on with what it has; the cause is told; nothing is rolled back."""
    world.offer(rolling("1.36"))
    tenant = world.tenant("rolls-badly", "rolling")
    before = tenant.settles("Active")
    world.apply(rolling("1.37", annotations={catalog.BEHAVIOUR: "crash-loop"}, command=["sh", "-c", "exit 1"]))

    def tells(version: Object) -> bool:
        ready = condition(version, "WorkloadsReady")
        return ready["reason"] == "RollingOut" and "CrashLoopBackOff" in ready["message"]

    version = tenant.wait(tells, "tells why it does not get on").tenant
    assert condition(version, "Ready")["status"] == "True"
    assert status(version)["run"] == before["run"]
    world.apply(rolling("1.37"))
    now = status(tenant.wait(lambda each: has_rolled_out(each, before["workloadsHash"]), "has rolled out").tenant)
    assert (now["state"], now["run"]) == ("Active", before["run"])


def test_plan_that_the_api_server_refuses_is_told_and_leaves_the_tenant_serving(world: World) -> None:
    """Nothing gets better by itself: clients that wait are told so, until somebody mends the plan."""
    world.offer(rolling("1.36"))
    tenant = world.tenant("refused", "rolling")
    before = tenant.settles("Active")
    resources = {"requests": {"cpu": "200m"}, "limits": {"cpu": "100m"}}
    world.apply(rolling("1.37", resources=resources))

    stalled = condition(tenant.wait(lambda each: bool(condition(each, "Stalled")), "stalls").tenant, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "UpkeepFailed")
    assert "plan rolling" in stalled["message"]
    assert "must be less than or equal to cpu limit" in stalled["message"]
    assert condition(tenant.newest(), "Ready")["status"] == "True"
    assert container(tenant)["image"].endswith(":1.36")
    assert tenant.event("UpkeepFailed")["type"] == "Warning"

    world.apply(rolling("1.37"))
    after = tenant.wait(lambda each: has_rolled_out(each, before["workloadsHash"]), "has rolled out").tenant
    assert not condition(tenant.wait(lambda each: not condition(each, "Stalled"), "recovers").tenant, "Reconciling")
    assert status(after)["run"] == before["run"]
    tenant.event("UpkeepRecovered")


def test_drift_is_put_right(world: World) -> None:
    tenant = world.tenant("drifts", "standard")
    before = tenant.settles("Active")
    where = f"--namespace={tenant.namespace}"
    policies = tenant.names("networkpolicies")
    uid = deployment(tenant, "worker")["metadata"]["uid"]
    assert len(policies) > 1

    world.kubectl("scale", "deployment", "auth", where, "--replicas=5")
    until(lambda: deployment(tenant)["spec"]["replicas"] == 2, "auth is scaled back", DRIFT_SECONDS)

    world.kubectl("delete", "deployment", "worker", where)
    until(lambda: "worker" in tenant.names("deployments"), "worker is there again", DRIFT_SECONDS)
    assert deployment(tenant, "worker")["metadata"]["uid"] != uid

    world.kubectl("delete", "networkpolicy", min(policies), where)
    until(lambda: tenant.names("networkpolicies") == policies, "the policies are complete", DRIFT_SECONDS)

    elsewhere = [{"op": "replace", "path": f"{BACKEND}/name", "value": "elsewhere"}]
    world.kubectl("patch", "ingress", "tenant", where, "--type=json", f"--patch={json.dumps(elsewhere)}")
    until(lambda: backend(tenant) == "auth", "the route leads to auth again", DRIFT_SECONDS)

    tenant.event("DriftCorrected")
    now = tenant.settles("Active")
    assert now["run"] == before["run"]
    assert {condition(each, "Ready")["status"] for each in tenant.versions if _was_active(each)} == {"True"}


def _was_active(version: Object) -> bool:
    return status(version).get("state") == "Active"


def test_route_of_a_suspended_tenant_cannot_be_opened_behind_its_back(world: World) -> None:
    tenant = world.tenant("drifts-closed", desiredState="Suspended")
    tenant.settles("Suspended")
    open_ = [{"op": "replace", "path": f"{BACKEND}/name", "value": "auth"}]
    where = f"--namespace={tenant.namespace}"
    world.kubectl("patch", "ingress", "tenant", where, "--type=json", f"--patch={json.dumps(open_)}")
    until(lambda: backend(tenant) == "paused", "the route is closed again", DRIFT_SECONDS)


def test_idle_tenants_cost_no_writes(world: World) -> None:
    """Neither the tenants nor what they are made of are written to by another life of the operator."""
    tenants = world.tenants([f"idle-{number}" for number in range(3)], "standard")
    world.kubectl("patch", "tenant", tenants[2].name, tenants[2].where, "--type=merge", CLOSE)
    for tenant, state in zip(tenants, ("Active", "Active", "Suspended"), strict=True):
        tenant.settles(state)
    before = _versions(world, tenants)
    assert world.operator.stop() == 0
    world.operator.start()
    witness = world.tenant("idle-witness")
    witness.wait(lambda each: settled(each, "Active"), "is served by the new life")
    assert _versions(world, tenants) == before


def _versions(world: World, tenants: list[TenantUnderTest]) -> dict[tuple[str, str, str], str]:
    """The version of each Tenant and of its children; of a Deployment that of the spec, as others write its status."""
    found = {("tenant", each.name, ""): each.newest()["metadata"]["resourceVersion"] for each in tenants}
    for tenant in tenants:
        for kind in ("deployments", "services", "networkpolicies", "ingresses"):
            for each in world.listed(kind, f"--namespace={tenant.namespace}"):
                version = "generation" if kind == "deployments" else "resourceVersion"
                found[kind, each["metadata"]["name"], tenant.name] = each["metadata"][version]
    return found
