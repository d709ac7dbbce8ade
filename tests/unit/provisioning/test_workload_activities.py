"""Deploying a plan's workloads, waiting for them, and removing them."""

import re
from datetime import timedelta

import pytest

from tenant_operator.ports import ObjectRef
from tenant_operator.provisioning.activities.allocate_namespace import AllocateNamespace
from tenant_operator.provisioning.activities.deploy_workloads import DeployWorkloads
from tenant_operator.provisioning.activities.wait_ready import WaitReady
from tenant_operator.provisioning.contents import Deployed
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.saga.step import Done, NotYet
from tests.fakes.cluster import FakeCluster, stuck
from tests.unit.provisioning.cluster_world import NAMESPACE, World, a_plan, done, not_yet, released

PROBE = "http://auth.{{ namespace }}.svc:8080/healthz"
PROBED = f"http://auth.{NAMESPACE}.svc:8080/healthz"


async def test_workloads_are_deployed_and_removed(bounded: World) -> None:
    before = bounded.cluster.objects()

    deployed = await done(DeployWorkloads(), bounded.context())
    assert deployed.detail == "2 workloads of plan starter applied"
    assert isinstance(deployed.output, Deployed)
    made = {
        f"{each['kind']} {each['metadata']['name']}"
        for each in bounded.cluster.objects()
        if each not in before and each["kind"] != "Pod"
    }
    assert made == {
        "Deployment auth",
        "Deployment worker",
        "PodDisruptionBudget auth",
        "Service auth",
    }

    await released(DeployWorkloads(), bounded.context(plan=None, organization=None))
    assert bounded.cluster.objects() == before


async def test_the_closed_backend_outlives_the_workloads(bounded: World) -> None:
    await done(DeployWorkloads(), bounded.context())

    await released(DeployWorkloads(), bounded.context())

    assert [each["metadata"]["name"] for each in bounded.cluster.objects("Service")] == ["paused"]


class LingeringCluster(FakeCluster):
    """A cluster in which Deployments wait for their pods to end."""

    async def delete(self, ref: ObjectRef) -> bool:
        return ref.kind != "Deployment" and await super().delete(ref)


async def test_workloads_that_are_still_going_are_waited_for() -> None:
    world = World()
    world.cluster = LingeringCluster(world.clock)
    await done(AllocateNamespace(), world.context())
    await done(DeployWorkloads(), world.context())

    progress = await DeployWorkloads().compensate(world.context())

    assert progress == NotYet(f"still being deleted: Deployment {NAMESPACE}/auth, Deployment {NAMESPACE}/worker")


async def test_one_deletion_that_fails_does_not_hold_up_the_others(bounded: World) -> None:
    await done(DeployWorkloads(), bounded.context())

    async def interrupted(operation: str, name: str) -> None:
        if operation == "delete" and "Deployment" in name:
            raise Unavailable(f"{name}: try again")

    bounded.cluster.before = interrupted
    with pytest.raises(Unavailable, match="Deployment"):
        await DeployWorkloads().compensate(bounded.context())

    assert bounded.cluster.objects("PodDisruptionBudget") == []


async def test_a_tenant_is_ready_when_everything_has_rolled_out(bounded: World) -> None:
    await done(DeployWorkloads(), bounded.context())

    assert await done(WaitReady(), bounded.context()) == Done("2 workloads ready, 3 pods")


async def test_a_workload_that_is_missing_is_not_ready(bounded: World) -> None:
    await done(DeployWorkloads(), bounded.context())
    more = a_plan(workloads=[*(each.to_wire() for each in a_plan().spec.workloads), {"name": "new", "image": "new:1"}])
    context = bounded.context(plan=more)
    rolled_out = context.digest(more)
    tenant = context.tenant.model_copy(
        update={"status": context.tenant.status.model_copy(update={"workloads_hash": rolled_out})}
    )

    waiting = await not_yet(WaitReady(), bounded.context(plan=more, tenant=tenant))

    assert waiting.cause == "Deployment new is missing"


async def test_what_the_plan_has_got_since_is_applied_before_it_is_waited_for(bounded: World) -> None:
    await done(DeployWorkloads(), bounded.context())
    more = a_plan(workloads=[*(each.to_wire() for each in a_plan().spec.workloads), {"name": "new", "image": "new:1"}])

    await done(WaitReady(), bounded.context(plan=more))

    assert "Deployment new" in bounded.kinds()


async def test_the_cause_is_told_while_workloads_are_not_ready(bounded: World) -> None:
    bounded.cluster.rollout = stuck("CrashLoopBackOff")
    await done(DeployWorkloads(), bounded.context())
    bounded.clock.moment += timedelta(seconds=5)

    waiting = await not_yet(WaitReady(), bounded.context())

    assert re.fullmatch(
        r"Deployment auth: 0 of 2 ready; Pod auth-\S+: CrashLoopBackOff \(3 restarts\)\. "
        r"Deployment worker: 0 of 1 ready; Pod worker-\S+: CrashLoopBackOff \(3 restarts\)",
        waiting.cause,
    )
    assert waiting.progress == 0
    assert waiting.recheck_seconds == 5.0, "the watch tells when it is over"


async def test_pods_are_not_asked_for_what_would_not_be_told(bounded: World) -> None:
    bounded.is_awaited = False
    bounded.cluster.rollout = stuck("ContainerCreating")
    await done(DeployWorkloads(), bounded.context())

    waiting = await not_yet(WaitReady(), bounded.context())

    assert waiting.cause == "Deployment auth: 0 of 2 ready. Deployment worker: 0 of 1 ready"


async def test_workloads_that_recover_become_ready(bounded: World) -> None:
    healthy = bounded.cluster.rollout
    bounded.cluster.rollout = stuck("ImagePullBackOff")
    await done(DeployWorkloads(), bounded.context())
    await not_yet(WaitReady(), bounded.context())

    bounded.cluster.rollout = healthy
    bounded.cluster.roll_out()

    await done(WaitReady(), bounded.context())


async def test_the_probe_of_the_plan_must_pass(bounded: World) -> None:
    plan = a_plan(readiness={"url": PROBE})
    await done(DeployWorkloads(), bounded.context(plan=plan))

    refused = await not_yet(WaitReady(), bounded.context(plan=plan))
    assert refused.cause == f"readiness probe: GET {PROBED}: connection refused"

    bounded.prober.answers = {PROBED: 503}
    unwanted = await not_yet(WaitReady(), bounded.context(plan=plan))
    assert unwanted.cause == f"readiness probe: GET {PROBED} answered 503, expected 200"

    bounded.prober.answers = {PROBED: 200}
    await done(WaitReady(), bounded.context(plan=plan))


async def test_the_probe_is_not_asked_before_the_workloads_are_ready(bounded: World) -> None:
    plan = a_plan(readiness={"url": PROBE})
    bounded.cluster.rollout = stuck()
    await done(DeployWorkloads(), bounded.context(plan=plan))

    await not_yet(WaitReady(), bounded.context(plan=plan))

    assert bounded.prober.asked == []


async def test_a_broken_probe_url_is_refused_with_its_place(bounded: World) -> None:
    plan = a_plan(readiness={"url": "http://{{ hostt }}/"})
    await done(DeployWorkloads(), bounded.context(plan=plan))

    with pytest.raises(Rejected, match="plan starter, readiness URL: 'hostt' is undefined"):
        await WaitReady().run(bounded.context(plan=plan))
