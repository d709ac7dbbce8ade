"""A serving tenant follows its plan and is kept as it should be; an idle one costs nothing."""

import asyncio

from tenant_operator.api.states import TenantState
from tests.fakes.cluster import healthy, stuck
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, ORGANIZATION, PLAN, TENANT, Life, World, broken_promises


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
        before = (world.store.writes, world.points)
        life.queue.wake(KEY)
        assert await life.settle()
        await life.end()
        life = Life(world)
        assert await life.settle()
        await life.end()
        assert (world.store.writes, world.points) == before
        return before

    run(story())


def test_a_changed_plan_rolls_out_in_place() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        assert world.tenant is not None
        runs = world.tenant.status.run
        newer = PLAN.spec.workloads[0].model_copy(update={"name": "auth2", "image": "registry.example/auth:2.0"})
        spec = PLAN.spec.model_copy(update={"workloads": (newer,)})
        world.catalog.plans["starter"] = PLAN.model_copy(update={"spec": spec})
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
        life.upkeep.drifted(KEY, "Deployment", "auth")
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
        spec = PLAN.spec.model_copy(update={"workloads": (moved,)})
        world.catalog.plans["starter"] = PLAN.model_copy(update={"spec": spec})
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
        spec = PLAN.spec.model_copy(update={"workloads": (newer,)})
        world.cluster.rollout = healthy
        world.catalog.plans["starter"] = PLAN.model_copy(update={"spec": spec})
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
        world.catalog.organizations["cymmetri"] = ORGANIZATION.model_copy(update={"spec": spec})
        life = await active(world)
        del world.catalog.organizations["cymmetri"]
        world.store.delete(KEY)
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert world.tenant is None
    assert world.leftovers() == []
