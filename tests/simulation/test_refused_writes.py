"""The API server does not take the journal: that is told, and it ends well."""

import asyncio

import pytest

from tenant_operator.api.states import TenantState
from tenant_operator.ports import WriteRefused
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, TENANT, Life, World, broken_promises

WRITES = 9
"""Of the life of a tenant with which all goes well."""
TOO_LARGE = "Tenant cymmetri/banking: etcdserver: request is too large"


def refused_from(point: int, seconds: float) -> World:
    """A tenant none of whose writes is taken for so long, from its `point`th on (counted from 0); it is asked to try
    again if it failed by that."""

    async def story() -> World:
        writes, until = 0, 0.0

        def fault(when: str, operation: str, name: str) -> Exception | None:
            nonlocal writes, until
            if when != "before" or operation not in ("write_status", "write_metadata"):
                return None
            writes += 1
            if writes == point + 1:
                until = asyncio.get_running_loop().time() + seconds
            return WriteRefused(TOO_LARGE) if asyncio.get_running_loop().time() < until else None

        world = World(fault)
        world.store.apply(TENANT)
        life = Life(world)
        assert await life.settle()
        assert world.tenant is not None
        if world.tenant.status.state is TenantState.FAILED:
            assert world.leftovers() == []
            world.store.annotate(KEY, action="retry")
            assert await life.settle()
        await life.end()
        return world

    return run(story())


@pytest.mark.parametrize("seconds", [3, 300])
@pytest.mark.parametrize("point", range(WRITES))
def test_it_is_told_and_ends_well(point: int, seconds: float) -> None:
    world = refused_from(point, seconds)

    assert world.tenant is not None
    assert (world.tenant.status.state, broken_promises(world)) == (TenantState.ACTIVE, [])
    told = [each for each in world.notifier.published if each.reason == "WriteRefused"]
    assert told
    assert all(each.warning and TOO_LARGE in each.message for each in told)
    assert len(told) <= 6 + seconds / 30, "not more often than it is tried"
    assert len(world.mailer.mails) <= 12, "what is done again and again ends"
