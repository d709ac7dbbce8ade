"""What the operator hears of objects that carry a tenant's labels and lie elsewhere: it wakes nobody."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr

from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.app import Operator
from tenant_operator.needs import Needs
from tenant_operator.provisioning.activity import Ports
from tenant_operator.settings import Settings
from tests.fakes.platform_store import FakePlatformStore
from tests.simulation.virtual_time import run
from tests.simulation.world import ORGANIZATION, PLAN, TENANT, Life, World

Object = dict[str, Any]
Story = Callable[[Operator, World], None]


def effects_of(story: Story, folder: Path) -> list[tuple[str, str]]:
    """What an operator does that finds a serving tenant, and then hears a story."""

    async def told() -> list[tuple[str, str]]:
        world = World()
        world.store.apply(TENANT)
        life = Life(world)
        assert await life.settle()
        await life.end()
        effects: list[tuple[str, str]] = []

        async def note(operation: str, name: str) -> None:
            effects.append((operation, name))

        async def nothing(operation: str, name: str) -> None:
            return None

        for port in (world.store, world.cluster, world.storage, world.mailer, world.audit):
            port.before, port.after = note, nothing
        operator = an_operator(world, folder)
        tenant = world.tenant
        assert tenant is not None
        operator.tenant_changed(None, tenant.to_wire())
        await asyncio.sleep(60)
        assert effects == []
        story(operator, world)
        await asyncio.sleep(60)
        return effects

    return run(told())


def an_operator(world: World, folder: Path) -> Operator:
    """The whole of it, over what outlives it."""
    catalog = WatchedCatalog()
    catalog.observe_plan(None, PLAN.to_wire())
    catalog.observe_organization(None, ORGANIZATION.to_wire())
    ports = Ports(world.cluster, world.storage, world.mailer, world.prober, catalog, world.store, world.clock)
    settings = Settings(database_url=SecretStr("postgresql://nowhere"))
    return Operator(
        settings,
        ports,
        store=cast(Any, world.store),
        platform_store=FakePlatformStore(world.cluster),
        catalog=catalog,
        notifier=cast(Any, world.notifier),
        audit=world.audit,
        needs=Needs(world.storage, {}),
    )


def own(world: World, kind: str) -> Object:
    """An object of the tenant's, as a watch tells of it."""
    found = next(each for each in world.cluster.objects(kind) if each["metadata"]["labels"])
    return {**found, "metadata": {**found["metadata"], "uid": f"uid-{kind}", "generation": 1, "managedFields": []}}


def patched(body: Object, generation: int, **metadata: Any) -> Object:
    """The same after another hand has changed it."""
    hand = {"manager": "kubectl", "time": "2030-01-01T00:00:00Z"}
    return {**body, "metadata": {**body["metadata"], "generation": generation, "managedFields": [hand], **metadata}}


def fifteen_patches(kind: str, **metadata: Any) -> Story:
    def story(operator: Operator, world: World) -> None:
        body = own(world, kind)
        for generation in range(1, 17):
            operator.child_changed("ADDED" if generation == 1 else "MODIFIED", patched(body, generation, **metadata))
        operator.child_changed("DELETED", patched(body, 17, **metadata))

    return story


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "Ingress"])
def test_fifteen_patches_of_a_copy_elsewhere_are_no_drift(kind: str, tmp_path: Path) -> None:
    assert effects_of(fifteen_patches(kind, namespace="elsewhere"), tmp_path) == []


def test_an_own_object_that_is_patched_is_put_right(tmp_path: Path) -> None:
    """Or else the others would prove nothing."""
    applied = [name for operation, name in effects_of(fifteen_patches("Deployment"), tmp_path) if operation == "apply"]

    assert any(name.startswith("Deployment tenant-") for name in applied)


def test_what_is_put_into_the_tenants_namespace_is_no_part_of_it(tmp_path: Path) -> None:
    assert effects_of(fifteen_patches("Deployment", name="miner"), tmp_path) == []


def test_a_namespace_that_looks_like_the_tenants_is_not_missed(tmp_path: Path) -> None:
    def story(operator: Operator, world: World) -> None:
        lookalike = patched(own(world, "Namespace"), 1, name="lookalike")
        operator.namespace_changed("ADDED", lookalike)
        operator.namespace_changed("DELETED", lookalike)

    assert effects_of(story, tmp_path) == []


def test_the_tenants_own_namespace_is_missed(tmp_path: Path) -> None:
    def story(operator: Operator, world: World) -> None:
        operator.namespace_changed("DELETED", own(world, "Namespace"))

    assert ("apply", "Namespace tenant-banking-cymmetri") in effects_of(story, tmp_path)
