"""The main job without faults, in both directions."""

from tenant_operator.api.names import FINALIZER, ActivityName
from tenant_operator.api.states import TenantState
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, TENANT, World, broken_promises, survive


def test_a_tenant_is_provisioned_step_by_step() -> None:
    async def story() -> World:
        world = World()
        world.store.apply(TENANT)
        assert await survive(world)
        return world

    world = run(story())
    assert world.tenant is not None
    status = world.tenant.status
    assert status.state is TenantState.ACTIVE, status
    assert [row.activity for row in status.timeline] == [*ActivityName]
    assert {row.state for row in status.timeline} == {"Completed"}
    assert len(world.mailer.mails) == 3
    assert broken_promises(world) == []


def test_provisioning_costs_at_most_fourteen_writes() -> None:
    """Where admission has put the finalizer on the Tenant; one more where it has not."""

    async def story() -> World:
        world = World()
        world.store.apply({**TENANT, "metadata": {**TENANT["metadata"], "finalizers": [FINALIZER]}})
        assert await survive(world)
        return world

    assert run(story()).store.writes <= 14


def test_deleting_an_active_tenant_releases_everything_and_lets_it_go() -> None:
    async def story() -> World:
        world = World()
        world.store.apply(TENANT)
        assert await survive(world)
        world.store.delete(KEY)
        assert await survive(world)
        return world

    world = run(story())
    assert world.tenant is None
    assert world.leftovers() == []
    assert world.events[-1].type == "tenant.deleted"
    assert broken_promises(world) == []
