"""What of a tenant's own objects a waiting saga is woken by: nothing that it would not act on."""

import asyncio

from tenant_operator.api.states import TenantState
from tests.fakes.cluster import healthy, stuck
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, TENANT, Life, World


def test_a_saga_that_waits_for_pods_is_woken_when_a_deployment_is_complete() -> None:
    async def story() -> None:
        world = World()
        world.cluster.rollout = stuck("ContainerCreating")
        world.store.apply(TENANT)
        life = Life(world)
        await asyncio.sleep(2)  # the next look by itself is due after five seconds
        assert len(world.cluster.objects("Deployment")) > 0
        life.hears_of_deployments()
        await asyncio.sleep(0.5)
        assert state_in(world) is TenantState.PROVISIONING, "they said nothing that the saga waits for"

        world.cluster.rollout = healthy
        world.cluster.roll_out()
        life.hears_of_deployments()
        await asyncio.sleep(0.5)
        assert state_in(world) is TenantState.ACTIVE
        await life.end()

    run(story())


def state_in(world: World) -> TenantState | None:
    (tenant,) = world.store.tenants()
    assert (tenant.metadata.namespace, tenant.metadata.name) == (KEY.namespace, KEY.name)
    return tenant.status.state
