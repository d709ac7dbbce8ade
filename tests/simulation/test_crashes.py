"""The process dies before or after every single write and effect, in both directions: the next life goes on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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


def rejected(when: str, operation: str, name: str) -> Exception | str | None:
    """The database refuses a migration."""
    return Rejected("no") if (when, operation) == ("before", "apply_migration") else None


@dataclass(frozen=True)
class Story:
    """What is done, what goes wrong besides, and how it ends."""

    tell: Callable[[World], Awaitable[None]]
    ends: TenantState | None
    otherwise: Fault = no_fault

    def told(self, fault: Fault) -> World:
        """The world at its end."""

        async def tell() -> World:
            world = World(fault)
            await self.tell(world)
            return world

        return run(tell())


STORIES = {
    "provision": Story(provision, TenantState.ACTIVE),
    "fail": Story(fail_and_roll_back, TenantState.FAILED),
    "delete": Story(provision_and_delete, None),
    "rejected": Story(provision, TenantState.FAILED, rejected),
}
PASSED = {name: story.told(story.otherwise).points for name, story in STORIES.items()}
POINTS = [
    pytest.param(STORIES[name], point, id=f"{name}-{point}: {what}")
    for name, points in PASSED.items()
    for point, what in enumerate(points)
]


def test_the_stories_are_long() -> None:
    assert all(len(points) > 80 for points in PASSED.values())


@pytest.mark.parametrize(("story", "point"), POINTS)
def test_a_crash_at_any_point_changes_nothing_in_the_end(story: Story, point: int) -> None:
    world = story.told(crash_at(point, story.otherwise))
    assert (world.tenant.status.state if world.tenant else None) is story.ends
    assert broken_promises(world) == []
