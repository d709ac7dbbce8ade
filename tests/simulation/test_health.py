"""What a tenant that serves says of its workloads, and what it costs."""

import asyncio

from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.states import DesiredState
from tests.fakes.cluster import healthy, stuck
from tests.simulation.test_upkeep import active
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, PLAN, Life, World, broken_promises, plan_of

DAMPING = 30.0


def becomes(world: World, life: Life, *, well: bool) -> None:
    """Every pod is well from now on, or none is, and the watch tells it."""
    world.cluster.rollout = healthy if well else stuck()
    world.cluster.roll_out()
    life.hears_of_deployments()


def ready(world: World) -> str:
    """How Ready stands, and why."""
    assert world.tenant is not None
    said = find_condition(world.tenant.status.conditions, ConditionType.READY)
    return "" if said is None else f"{said.status} {said.reason}"


def test_a_dip_is_told_when_it_lasts_and_ends_at_once() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        becomes(world, life, well=False)
        await asyncio.sleep(DAMPING - 1)
        assert ready(world) == "True Active"
        await asyncio.sleep(2)
        assert ready(world) == "False Degraded"
        becomes(world, life, well=True)
        await asyncio.sleep(1)
        assert ready(world) == "True Active"
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert [each.type for each in world.events][-2:] == ["tenant.degraded", "tenant.recovered"]
    assert world.events[-1].data == {"object": "Deployment auth", "seconds": 1}
    assert broken_promises(world) == []


def test_short_dips_one_after_the_other_are_not_told() -> None:
    async def story() -> None:
        world = World()
        life = await active(world)
        before = world.store.writes
        for _ in range(10):
            becomes(world, life, well=False)
            await asyncio.sleep(DAMPING / 2)
            becomes(world, life, well=True)
            await asyncio.sleep(1)
        assert await life.settle()
        assert world.store.writes == before
        await life.end()

    run(story())


def test_a_cause_that_stays_the_same_is_written_once_however_long_it_lasts() -> None:
    async def story() -> None:
        world = World()
        life = await active(world)
        becomes(world, life, well=False)
        await asyncio.sleep(DAMPING + 1)
        before = world.store.writes
        await asyncio.sleep(24 * 3600)
        assert world.store.writes == before
        becomes(world, life, well=True)
        assert await life.settle()
        assert ready(world) == "True Active"
        await life.end()

    run(story())


def test_a_new_cause_takes_the_place_of_the_last_one() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        becomes(world, life, well=False)
        await asyncio.sleep(DAMPING + 1)
        world.cluster.rollout = stuck("Unschedulable", "0/3 nodes are available")
        world.cluster.roll_out()
        await asyncio.sleep(DAMPING)
        await life.end()
        return world

    world = run(story())
    assert world.tenant is not None
    said = find_condition(world.tenant.status.conditions, ConditionType.READY)
    assert said is not None
    assert "0/3 nodes are available" in said.message
    assert [each.type for each in world.events].count("tenant.degraded") == 1


def test_a_better_plan_ends_it() -> None:
    """The rollout and the trouble are told beside each other."""

    async def story() -> World:
        world = World()
        life = await active(world)
        becomes(world, life, well=False)
        await asyncio.sleep(DAMPING + 1)
        newer = PLAN.spec.workloads[0].model_copy(update={"image": "registry.example/auth:2.0"})
        world.offer(plan_of(newer))
        await asyncio.sleep(1)
        assert world.tenant is not None
        workloads = find_condition(world.tenant.status.conditions, ConditionType.WORKLOADS_READY)
        assert workloads is not None
        assert (workloads.reason, ready(world)) == ("RollingOut", "False Degraded")
        becomes(world, life, well=True)
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert ready(world) == "True Active"
    assert [each.type for each in world.events][-1] == "tenant.recovered"


def test_a_tenant_that_is_ill_can_be_paused_resumed_and_released() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        becomes(world, life, well=False)
        await asyncio.sleep(DAMPING + 1)
        world.store.patch_spec(KEY, desiredState=DesiredState.SUSPENDED.value)
        await asyncio.sleep(1)
        assert ready(world) == ""
        world.store.patch_spec(KEY, desiredState=DesiredState.ACTIVE.value)
        await asyncio.sleep(1)
        assert ready(world) == "False Degraded"
        world.store.patch_spec(KEY, desiredState=DesiredState.DECOMMISSIONED.value)
        assert await life.settle()
        await life.end()
        return world

    assert broken_promises(run(story())) == []
