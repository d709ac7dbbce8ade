"""A serving tenant follows its plan and is kept as it should be; an idle one costs nothing."""

import asyncio

import pytest

from tenant_operator.api.organization import Organization
from tenant_operator.api.states import TenantState
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.fakes.cluster import healthy, stuck
from tests.simulation.test_crashes import crash_at, provision
from tests.simulation.virtual_time import run
from tests.simulation.world import (
    KEY,
    ORGANIZATION,
    PLAN,
    TENANT,
    Fault,
    Life,
    World,
    broken_promises,
    no_fault,
    plan_of,
    survive,
)


async def active(world: World) -> Life:
    """A tenant that serves, and the life that made it."""
    life = Life(world)
    world.store.apply(TENANT)
    assert await life.settle()
    assert world.tenant is not None
    assert world.tenant.status.state is TenantState.ACTIVE
    return life


def images(world: World) -> dict[str, str]:
    """The image of each Deployment."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]["image"]
        for each in world.cluster.objects("Deployment")
    }


def test_an_idle_tenant_costs_no_write_not_even_over_a_restart() -> None:
    async def story() -> tuple[int, int]:
        world = World()
        life = await active(world)
        before = (world.store.writes, len(world.points))
        life.queue.wake(KEY)
        assert await life.settle()
        await life.end()
        life = Life(world)
        assert await life.settle()
        await life.end()
        assert (world.store.writes, len(world.points)) == before
        return before

    run(story())


def test_a_changed_plan_rolls_out_in_place() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        assert world.tenant is not None
        runs = world.tenant.status.run
        newer = PLAN.spec.workloads[0].model_copy(update={"name": "auth2", "image": "registry.example/auth:2.0"})
        world.offer(plan_of(newer))
        life.queue.wake(KEY)
        assert await life.settle()
        await life.end()
        assert world.tenant.status.run == runs
        return world

    world = run(story())
    assert images(world) == {"auth2": "registry.example/auth:2.0"}
    assert world.tenant is not None
    assert world.tenant.status.state is TenantState.ACTIVE
    conditions = {each.type: each.status for each in world.tenant.status.conditions}
    assert conditions["WorkloadsReady"] == conditions["Ready"] == "True"
    assert broken_promises(world) == []


def test_drift_is_put_right() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        await world.cluster.delete(next(iter(world.refs("Deployment"))))
        life.drifted("Deployment", "auth")
        life.queue.wake(KEY)
        assert await life.settle()
        await life.end()
        return world

    assert images(run(story())) == {"auth": "registry.example/auth:1.0"}


def test_an_edit_that_asks_nothing_is_observed_by_one_write() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        before = world.store.writes
        world.store.patch_spec(KEY, displayName="retail-banking")
        assert await life.settle()
        await life.end()
        assert world.store.writes == before + 1
        return world

    tenant = run(story()).tenant
    assert tenant is not None
    assert tenant.status.observed_generation == tenant.metadata.generation == 2


def test_a_moved_port_moves_the_route_once_the_workloads_are_ready() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        workload = PLAN.spec.workloads[0]
        moved = workload.model_copy(update={"ports": (workload.ports[0].model_copy(update={"container_port": 9191}),)})
        world.offer(plan_of(moved))
        life.queue.wake(KEY)
        assert await life.settle()
        await life.end()
        return world

    (ingress,) = run(story()).cluster.objects("Ingress")
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"]["number"] == 9191


def test_a_plan_edited_while_workloads_are_awaited_is_what_is_waited_for() -> None:
    async def story() -> World:
        world = World()
        world.cluster.rollout = stuck()
        life = Life(world)
        world.store.apply(TENANT)
        await asyncio.sleep(5)
        newer = PLAN.spec.workloads[0].model_copy(update={"image": "registry.example/auth:2.0"})
        world.cluster.rollout = healthy
        world.offer(plan_of(newer))
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert images(world) == {"auth": "registry.example/auth:2.0"}
    assert world.tenant is not None
    assert world.tenant.status.state is TenantState.ACTIVE
    assert broken_promises(world) == []


def test_a_tenant_is_released_under_its_old_names_when_its_organization_is_gone() -> None:
    async def story() -> World:
        world = World()
        spec = ORGANIZATION.spec.model_copy(update={"slug": "cym"})
        world.offer(ORGANIZATION.model_copy(update={"spec": spec}))
        life = await active(world)
        world.platform.delete(Organization, "cymmetri")
        world.store.delete(KEY)
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert world.tenant is None
    assert world.leftovers() == []


def refuses_routes(when: str, operation: str, name: str) -> Exception | None:
    """The API server says no, and will go on saying so."""
    return Rejected(f"{name} is forbidden") if (when, operation) == ("before", "apply") and "Ingress" in name else None


def has_lost_routes(when: str, operation: str, name: str) -> Exception | None:
    """The API server does not answer."""
    return Unavailable("no answer in 30 s") if refuses_routes(when, operation, name) else None


def told(world: World) -> dict[str, tuple[str, str]]:
    """The conditions that clients look at: status and reason."""
    assert world.tenant is not None
    looked_at = ("Ready", "Reconciling", "Stalled")
    return {each.type: (each.status, each.reason) for each in world.tenant.status.conditions if each.type in looked_at}


@pytest.mark.parametrize(
    ("fault", "verdict"), [(refuses_routes, "Stalled"), (has_lost_routes, "Reconciling")], ids=["for-good", "for-now"]
)
def test_a_tenant_that_cannot_be_suspended_says_so_once_and_is_suspended_when_it_can(
    fault: Fault, verdict: str
) -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        before = world.store.writes
        world.fault = fault
        world.store.patch_spec(KEY, desiredState="Suspended")
        assert not await life.settle(within=3600)
        assert told(world) == {"Ready": ("True", "Active"), verdict: ("True", "UpkeepFailed")}
        assert world.tenant is not None
        assert world.tenant.status.observed_generation == world.tenant.metadata.generation
        assert world.store.writes == before + 2  # the intent, and that it failed
        world.fault = no_fault
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert world.tenant is not None
    assert world.tenant.status.state is TenantState.SUSPENDED
    assert told(world) == {}
    assert world.notifier.reasons(KEY)[-2:] == ["Suspended", "UpkeepRecovered"]
    assert broken_promises(world) == []


def test_a_plan_that_the_api_server_refuses_leaves_the_tenant_serving_and_stalled() -> None:
    def refuses(when: str, operation: str, name: str) -> Exception | None:
        is_deployment = (when, operation) == ("before", "apply") and name.startswith("Deployment")
        return Rejected("Deployment auth is invalid: spec.template: too much") if is_deployment else None

    async def story() -> World:
        world = World()
        life = await active(world)
        world.fault = refuses
        newer = PLAN.spec.workloads[0].model_copy(update={"image": "registry.example/auth:2.0"})
        world.offer(plan_of(newer))
        life.queue.wake(KEY)
        assert not await life.settle(within=60)
        assert told(world) == {"Ready": ("True", "Active"), "Stalled": ("True", "UpkeepFailed")}
        world.fault = no_fault
        world.offer(PLAN)  # a person takes it back
        life.queue.wake(KEY)
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert told(world) == {"Ready": ("True", "Active")}
    assert images(world) == {"auth": "registry.example/auth:1.0"}


def test_a_correction_that_failed_is_made_by_the_next_process() -> None:
    """Which knows nothing of the drift, only that something was left undone."""

    async def story() -> World:
        world = World()
        life = await active(world)
        (deployment,) = world.refs("Deployment")
        await world.cluster.delete(deployment)
        world.fault = lambda when, operation, name: Rejected("no") if (when, operation) == ("before", "apply") else None
        life.drifted("Deployment", "auth")
        life.queue.wake(KEY)
        assert not await life.settle(within=60)
        await life.end()
        assert images(world) == {}
        world.fault = no_fault
        life = Life(world)
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert images(world) == {"auth": "registry.example/auth:1.0"}
    assert told(world) == {"Ready": ("True", "Active")}


def test_what_keeps_a_tenant_from_following_is_forgotten_when_it_is_released() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        world.fault = refuses_routes
        world.store.patch_spec(KEY, desiredState="Suspended")
        assert not await life.settle(within=60)
        world.fault = no_fault
        world.store.patch_spec(KEY, desiredState="Decommissioned")
        assert await life.settle()
        world.store.patch_spec(KEY, desiredState="Active")
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert told(world) == {"Ready": ("True", "Active")}
    assert "UpkeepRecovered" not in world.notifier.reasons(KEY)
    assert broken_promises(world) == []


async def suspend(world: World) -> None:
    world.store.patch_spec(KEY, desiredState="Suspended")


async def resume(world: World) -> None:
    world.store.patch_spec(KEY, desiredState="Suspended")
    assert await survive(world)
    world.store.patch_spec(KEY, desiredState="Active")


async def change_plan(world: World) -> None:
    aux = PLAN.spec.workloads[0].model_copy(update={"name": "aux"})
    auth = PLAN.spec.workloads[0].model_copy(update={"image": "registry.example/auth:2.0"})
    world.offer(plan_of(auth, aux))


def take_back(world: World, desired: str) -> None:
    world.store.patch_spec(KEY, desiredState=desired)
    world.offer(PLAN)


CHANGES = {
    "suspend": (suspend, "Active"),
    "resume": (resume, "Suspended"),
    "change-plan": (change_plan, "Active"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_taken_back_after_a_crash_at_any_point_leaves_nothing_behind(name: str) -> None:
    """The process dies in the middle of a change; somebody takes the change back before the next life."""
    change, before = CHANGES[name]

    async def tell(point: int | None) -> tuple[World, int]:
        world = World()
        await provision(world)
        await change(world)
        first = len(world.points)
        world.fault = no_fault if point is None else crash_at(point)
        life = Life(world)
        await life.settle()
        await life.end()
        world.fault = no_fault
        points = len(world.points) - first
        take_back(world, before)
        assert await survive(world)
        return world, points

    _, points = run(tell(None))
    assert points > 4
    for point in range(points):
        world, _ = run(tell(point))
        assert world.tenant is not None
        found = (world.tenant.status.state.value, images(world), broken_promises(world))
        assert found == (before, {"auth": "registry.example/auth:1.0"}, []), f"crash at point {point} of {points}"
        assert "Reconciling" not in told(world)


@pytest.mark.parametrize(("before", "after"), [("Active", "Suspended"), ("Suspended", "Active")])
def test_a_change_of_mind_while_the_route_is_switched_is_followed(before: str, after: str) -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        world.store.patch_spec(KEY, desiredState=before)
        assert await life.settle()
        minds = iter([before])

        def change_mind(when: str, operation: str, name: str) -> None:
            if (when, operation) == ("after", "apply") and "Ingress" in name and (mind := next(minds, None)):
                world.store.patch_spec(KEY, desiredState=mind)

        world.fault = change_mind
        world.store.patch_spec(KEY, desiredState=after)
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert world.tenant is not None
    assert world.tenant.status.state.value == before
    assert broken_promises(world) == []


def renamed(world: World) -> None:
    """The plan's workload is another one, whose pods never get ready."""
    world.cluster.rollout = stuck()
    newer = PLAN.spec.workloads[0].model_copy(update={"name": "auth2"})
    world.offer(plan_of(newer))


def test_drift_during_a_rollout_does_not_move_the_route_to_pods_that_are_not_ready() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        renamed(world)
        life.queue.wake(KEY)
        assert not await life.settle(within=60)
        life.drifted("NetworkPolicy", "default-deny")
        life.queue.wake(KEY)
        assert not await life.settle(within=60)
        await life.end()
        return world

    assert run(story()).backends() == ["auth"]


def test_a_resumed_tenant_opens_when_somebody_answers() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        world.store.patch_spec(KEY, desiredState="Suspended")
        assert await life.settle()
        renamed(world)
        life.queue.wake(KEY)
        world.store.patch_spec(KEY, desiredState="Active")
        assert not await life.settle(within=60)
        assert world.backends() == ["paused"]
        assert told(world) == {"Ready": ("False", "Resuming"), "Reconciling": ("True", "Resuming")}
        world.cluster.rollout = healthy
        world.cluster.roll_out()
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert world.backends() == ["auth2"]
    assert told(world) == {"Ready": ("True", "Active")}


def test_many_wakes_during_a_short_outage_do_not_make_it_a_long_one() -> None:
    async def story() -> float:
        world = World()
        life = await active(world)
        world.fault = has_lost_routes
        world.store.patch_spec(KEY, desiredState="Suspended")
        for _ in range(8):
            await asyncio.sleep(0.3)
            life.queue.wake(KEY)
        world.fault = no_fault
        over = asyncio.get_running_loop().time()
        assert await life.settle()
        assert broken_promises(world) == []
        await life.end()
        return asyncio.get_running_loop().time() - over

    assert run(story()) < 10
