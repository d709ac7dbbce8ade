"""A tenant that serves says so as long as it is so: pods that do not stay up, that fall ill, that are well again."""

from collections.abc import Mapping

import pytest

from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, status

SETTLED_SECONDS = 3
UNSTABLE = {"annotations": {catalog.BEHAVIOUR: "unstable"}, "command": ["sh", "-c", "sleep 0.5; exit 1"]}
"""Ready for half a second, then down for one, again and again; nothing looks whether it is ready."""
GOOD = catalog.workload("auth", route=True)
SHORT_DIP_SECONDS = 3.0


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    return {"STALLED_RETRY": "1s", "DEGRADED_AFTER": f"{SHORT_DIP_SECONDS:g}s"}


def staying(*workloads: Object) -> Object:
    """A plan whose pods have to stay up for some seconds."""
    return catalog.plan("staying", *workloads, minReadySeconds=SETTLED_SECONDS, timeouts={"wait-ready": "12s"})


def deployment(tenant: TenantUnderTest, name: str = "auth") -> Object:
    return tenant.object("deployment", name)


def available(tenant: TenantUnderTest, name: str = "auth") -> int:
    return int(deployment(tenant, name)["status"].get("availableReplicas", 0))


def plays(world: World, tenant: TenantUnderTest, behaviour: str, name: str = "auth") -> None:
    """Have the pods of a workload play a behaviour; with a dash at its end they cease to."""
    change = f"{catalog.BEHAVIOUR}-" if behaviour == "-" else f"{catalog.BEHAVIOUR}={behaviour}"
    selector = f"--selector=app.kubernetes.io/name={name}"
    world.kubectl("annotate", "pods", selector, f"--namespace={tenant.namespace}", "--overwrite", change)


def falls_ill(world: World, tenant: TenantUnderTest, name: str = "auth") -> None:
    plays(world, tenant, "crash-loop", name)
    until(lambda: available(tenant, name) == 0, f"no pod of {name} is available")


def ready(version: Object) -> tuple[str, str]:
    said = condition(version, "Ready")
    return said.get("status", ""), said.get("reason", "")


@pytest.mark.parametrize(
    "workloads",
    [(GOOD | UNSTABLE,), (GOOD, catalog.workload("worker", ports=[], **UNSTABLE))],
    ids=["the only one", "beside a good one"],
)
def test_a_workload_that_does_not_stay_up_makes_no_tenant(world: World, workloads: tuple[Object, ...]) -> None:
    """It is ready for an instant, again and again; an instant proves nothing."""
    world.offer(staying(*workloads))
    tenant = world.tenant("flickers", "staying")
    failed = tenant.settles("Failed")

    assert failed["run"]["failedActivity"] == "wait-ready"
    assert "exit code 1" in failed["run"]["error"]
    assert tenant.mails() == []
    assert {status(each).get("state") for each in tenant.versions} & {"Active"} == set()


def test_a_rollout_to_pods_that_do_not_stay_up_takes_no_pod_that_serves(world: World) -> None:
    world.offer(staying(GOOD))
    tenant = world.tenant("keeps-its-pods", "staying")
    before = tenant.settles("Active")
    world.offer(staying(GOOD | UNSTABLE))

    def tells(version: Object) -> bool:
        said = condition(version, "WorkloadsReady")
        return said["reason"] == "RollingOut" and "exit code 1" in said["message"]

    heard = len(tenant.versions)
    tenant.wait(tells, "tells why it does not get on")
    assert available(tenant) == 1
    assert deployment(tenant)["status"]["updatedReplicas"] == 1
    assert {ready(each) for each in tenant.versions[heard:]} == {("True", "Active")}
    assert "RolledOut" not in {each["reason"] for each in tenant.events()}

    world.offer(staying(GOOD | {"image": "docker.io/library/busybox:1.36"}))
    tenant.event("RolledOut")
    assert status(tenant.newest())["run"] == before["run"]


def test_a_tenant_whose_pods_fall_ill_says_so_and_says_when_they_are_well(world: World) -> None:
    tenant = world.tenant("falls-ill", "small")
    before = tenant.settles("Active")
    falls_ill(world, tenant)

    version = tenant.wait(lambda each: ready(each) == ("False", "Degraded"), "says that nobody answers").tenant
    said = condition(version, "Ready")["message"]
    assert said.startswith("nobody answers: Deployment auth: 0 of 1 ready; Pod auth-")
    assert "CrashLoopBackOff (exit code 1" in said
    assert condition(version, "WorkloadsReady")["message"] == said
    assert condition(version, "WorkloadsReady")["reason"] == "Unavailable"
    assert (status(version)["state"], status(version)["run"]) == ("Active", before["run"])
    assert tenant.event("Degraded")["type"] == "Warning"
    (degraded,) = until(lambda: tenant.told("tenant.degraded"), "the feed tells it")
    assert degraded["data"] == {"object": "Deployment auth", "cause": said}
    assert degraded["actor_id"] is None

    plays(world, tenant, "-")
    version = tenant.wait(lambda each: ready(each) == ("True", "Active"), "serves again").tenant
    assert condition(version, "WorkloadsReady")["status"] == "True"
    tenant.event("Recovered")
    (recovered,) = until(lambda: tenant.told("tenant.recovered"), "the feed tells it")
    assert recovered["data"]["object"] == "Deployment auth"
    assert recovered["data"]["seconds"] >= 0


def test_a_short_dip_is_not_told(world: World) -> None:
    tenant = world.tenant("dips", "small")
    tenant.settles("Active")
    heard = len(tenant.versions)
    falls_ill(world, tenant)
    plays(world, tenant, "-")
    until(lambda: available(tenant) == 1, "it is well again")
    falls_ill(world, tenant)
    tenant.wait(lambda each: ready(each)[0] == "False", "the second time, which lasts, is told")

    turns = [ready(each)[0] for each in tenant.versions[heard:]]
    assert turns.count("False") >= 1
    assert "True" not in turns[turns.index("False") :]
    assert len(until(lambda: tenant.told("tenant.degraded"), "the feed tells it")) == 1


def test_a_workload_without_traffic_that_falls_ill_leaves_the_tenant_serving(world: World) -> None:
    tenant = world.tenant("half-ill", "standard")
    tenant.settles("Active")
    falls_ill(world, tenant, "worker")

    def tells(version: Object) -> bool:
        return condition(version, "WorkloadsReady").get("reason") == "Degraded"

    version = tenant.wait(tells, "says that pods are missing").tenant
    assert condition(version, "WorkloadsReady")["message"].startswith("Deployment worker: 0 of 1 ready; Pod worker-")
    assert ready(version) == ("True", "Active")
    tenant.event("WorkloadsDegraded")
    plays(world, tenant, "-", "worker")
    tenant.wait(lambda each: condition(each, "WorkloadsReady")["status"] == "True", "all is well")
    tenant.event("WorkloadsRecovered")
    assert tenant.told("tenant.degraded") == tenant.told("tenant.recovered") == []


def test_a_tenant_that_is_resumed_while_nobody_answers_does_not_claim_to_serve(world: World) -> None:
    tenant = world.tenant("resumed-ill", "small", desiredState="Suspended")
    tenant.settles("Suspended")
    falls_ill(world, tenant)
    heard = len(tenant.versions)
    world.kubectl(
        "patch", "tenant", tenant.name, tenant.where, "--type=merge", '--patch={"spec":{"desiredState":"Active"}}'
    )
    version = tenant.wait(lambda each: status(each).get("state") == "Active", "its route is open").tenant

    assert ready(version) == ("False", "Degraded")
    assert "True" not in {ready(each)[0] for each in tenant.versions[heard:]}
    assert "nobody answers" in tenant.event("Resumed")["note"]
    until(lambda: [each["type"] for each in tenant.feed()][-2:] == ["tenant.resumed", "tenant.degraded"], "the feed")
    plays(world, tenant, "-")
    tenant.wait(lambda each: ready(each) == ("True", "Active"), "serves")


def test_another_life_of_the_operator_knows_what_was_told(world: World) -> None:
    """What fell ill while it was down is told; what it told before costs nothing, and what is well is told at once."""
    known, unknown = world.tenants(["ill-before", "ill-meanwhile"], "small")
    for each in (known, unknown):
        each.settles("Active")
    falls_ill(world, known)
    known.wait(lambda each: ready(each)[0] == "False", "is told")
    assert world.operator.stop() == 0
    falls_ill(world, unknown)
    world.operator.start()
    unknown.wait(lambda each: ready(each)[0] == "False", "is told by the new life")
    assert len(known.told("tenant.degraded")) == 1
    for each in (known, unknown):
        plays(world, each, "-")
        each.wait(lambda version: ready(version)[0] == "True", "is well")
