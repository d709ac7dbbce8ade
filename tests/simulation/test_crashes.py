"""The process dies before or after every single write and effect, in both directions: the next life goes on."""

import pytest

from tenant_operator.api.states import TenantState
from tenant_operator.saga.errors import Rejected
from tests.fakes.cluster import stuck
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, TENANT, Fault, World, broken_promises, no_fault, survive


def crash_at(point: int, otherwise: Fault = no_fault) -> Fault:
    """The process dies at the given point of its story, counted from 0."""
    passed = -1

    def fault(when: str, operation: str, name: str) -> Exception | str | None:
        nonlocal passed
        passed += 1
        return "crash" if passed == point else otherwise(when, operation, name)

    return fault


async def provision(world: World) -> None:
    """A tenant is asked for."""
    world.store.apply(TENANT)
    assert await survive(world)


async def fail_and_roll_back(world: World) -> None:
    """A tenant whose workloads never get ready."""
    world.cluster.rollout = stuck()
    world.store.apply(TENANT)
    assert await survive(world)


async def provision_and_delete(world: World) -> None:
    """A tenant that is deleted once it serves."""
    await provision(world)
    world.store.delete(KEY)
    assert await survive(world)


STORIES = {
    "provision": (provision, TenantState.ACTIVE),
    "fail": (fail_and_roll_back, TenantState.FAILED),
    "delete": (provision_and_delete, None),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_crash_at_any_point_changes_nothing_in_the_end(name: str) -> None:
    story, expected = STORIES[name]

    async def tell(fault: Fault) -> World:
        world = World(fault)
        await story(world)
        return world

    points = run(tell(no_fault)).points
    assert points > 80
    for point in range(points):
        world = run(tell(crash_at(point)))
        state = world.tenant.status.state if world.tenant else None
        assert (state, broken_promises(world)) == (expected, []), f"crash at point {point} of {points}"


def test_a_crash_during_the_rollback_of_a_rejected_step() -> None:
    def rejected(when: str, operation: str, name: str) -> Exception | str | None:
        return Rejected("no") if (when, operation) == ("before", "apply_migration") else None

    async def tell(fault: Fault) -> World:
        world = World(fault)
        await provision(world)
        return world

    points = run(tell(rejected)).points
    for point in range(points):
        world = run(tell(crash_at(point, rejected)))
        assert world.tenant is not None
        assert (world.tenant.status.state, broken_promises(world)) == (TenantState.FAILED, []), f"point {point}"
