"""The last word on the tenant limit: said when the order of creation is certain, by all who were created."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tenant_operator.provisioning.activities.allocate_namespace import AllocateNamespace
from tenant_operator.provisioning.activities.mark_active import MarkActive
from tenant_operator.provisioning.activity import Context
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.step import Done, NotYet
from tests.unit.provisioning.cluster_world import World, a_plan, a_tenant


async def created(world: World, uid: str, seconds_ago: float) -> Context:
    """A tenant of a plan for one, created some seconds ago; the catalogue knows it, its namespace is there."""
    moment = world.clock.now() - timedelta(seconds=seconds_ago)
    tenant = a_tenant(uid, slug=f"t-{uid}")
    tenant = tenant.model_copy(
        update={"metadata": tenant.metadata.model_copy(update={"creation_timestamp": moment.replace(microsecond=0)})}
    )
    world.catalog.tenants.append(tenant)
    context = world.context(uid, slug=f"t-{uid}", tenant=tenant, plan=a_plan(limits={"tenants": 1}))
    assert isinstance(await AllocateNamespace().run(context), Done)
    return context


async def test_nothing_is_said_while_the_second_of_creation_lasts() -> None:
    world = World()
    progress = await MarkActive().run(await created(world, "a", 0.0))

    assert isinstance(progress, NotYet)
    assert 0 < progress.recheck_seconds <= 1.25


async def test_nothing_is_said_while_a_tenant_is_unheard_of() -> None:
    world = World()
    world.catalog.unheard = 1
    progress = await MarkActive().run(await created(world, "a", 5))

    assert isinstance(progress, NotYet)
    assert "catalogue is behind" in progress.cause


async def test_of_two_in_the_same_second_the_one_with_the_lesser_uid_stays() -> None:
    world = World()
    later, earlier = await created(world, "b", 5), await created(world, "a", 5)

    with pytest.raises(Rejected, match="limit is 1 per organization"):
        await MarkActive().run(later)
    assert isinstance(await MarkActive().run(earlier), Done)


async def test_a_plan_without_a_limit_asks_nobody() -> None:
    world = World()
    world.catalog.unheard = 1
    limited = await created(world, "a", 0)
    assert isinstance(await MarkActive().run(replace(limited, plan=a_plan())), Done)
