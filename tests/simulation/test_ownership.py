"""What is another replica's is left alone, whatever there is to do; nothing is lost when it comes back."""

import asyncio

from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.saga.errors import Unavailable
from tests.simulation.test_upkeep import active, images
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, PLAN, TENANT, Life, World, broken_promises, no_fault, plan_of


def deeds(world: World) -> tuple[int, int]:
    """What was written, and how often anybody outside was asked for anything."""
    return world.store.writes, len(world.points)


async def left_alone(world: World, life: Life) -> None:
    """The tenant is another's, and whatever wakes it, nothing is done."""
    world.replicas.others.add(KEY)
    before = deeds(world)
    for _ in range(3):
        life.queue.wake(KEY)
        life.requests.wake(KEY)
        await asyncio.sleep(60)
    assert deeds(world) == before


async def given_back(world: World, life: Life) -> None:
    world.replicas.others.clear()
    life.requests.wake(KEY)
    life.queue.wake(KEY)
    assert await life.settle()
    await life.end()
    assert broken_promises(world) == []


def state_of(world: World) -> TenantState | None:
    return world.tenant.status.state if world.tenant is not None else None


def test_a_tenant_that_is_anothers_is_not_begun() -> None:
    async def story() -> World:
        world = World()
        world.replicas.others.add(KEY)
        life = Life(world)
        world.store.apply(TENANT)
        await left_alone(world, life)
        await given_back(world, life)
        return world

    assert state_of(run(story())) is TenantState.ACTIVE


def test_whoever_loses_a_tenant_in_the_middle_begins_nothing_more() -> None:
    async def story() -> World:
        world = World()
        effects: list[str] = []

        def lose(when: str, operation: str, name: str) -> None:
            if world.replicas.others and when == "before" and operation not in ("write_status", "append"):
                effects.append(f"{operation} {name}")
            if (when, operation) == ("after", "create_database"):
                world.replicas.others.add(KEY)

        world.fault = lose
        life = Life(world)
        world.store.apply(TENANT)
        await asyncio.sleep(60)
        assert len(world.storage.databases) == 1
        in_hand, effects[:] = list(effects), []
        await left_alone(world, life)
        assert effects == []
        assert not [each for each in in_hand if each.startswith(("create", "apply"))], "the activity in hand may end"
        await given_back(world, life)
        return world

    assert state_of(run(story())) is TenantState.ACTIVE


def test_a_serving_tenant_that_is_anothers_is_not_tended() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        world.replicas.others.add(KEY)
        before = deeds(world)
        world.offer(plan_of(PLAN.spec.workloads[0].model_copy(update={"image": "registry.example/auth:2.0"})))
        life.drifted("Deployment", PLAN.spec.workloads[0].name)
        await asyncio.sleep(60)
        assert deeds(world) == before
        world.store.patch_spec(KEY, desiredState=DesiredState.SUSPENDED)
        world.store.annotate(KEY, action="retry")
        await left_alone(world, life)
        await given_back(world, life)
        return world

    world = run(story())
    assert state_of(world) is TenantState.SUSPENDED
    assert "registry.example/auth:2.0" in images(world).values()
    assert world.tenant is not None
    assert world.tenant.status.last_action is not None


def test_the_events_of_a_tenant_that_is_anothers_are_left_to_that_one() -> None:
    async def story() -> World:
        world = World()
        world.fault = lambda when, operation, name: Unavailable("full") if operation == "append" else None
        life = Life(world)
        world.store.apply(TENANT)
        await asyncio.sleep(60)
        assert world.tenant is not None
        assert world.tenant.status.outbox
        world.replicas.others.add(KEY)
        world.fault = no_fault
        await asyncio.sleep(60)
        assert world.events == []
        await given_back(world, life)
        return world

    assert state_of(run(story())) is TenantState.ACTIVE
