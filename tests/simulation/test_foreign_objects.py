"""What the operator hears of objects that carry a tenant's labels and lie elsewhere: it wakes nobody."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tenant_operator.adapters.kubernetes.resources import ref_of
from tenant_operator.api.names import LABEL_TENANT_UID
from tenant_operator.inbox import Inbox
from tests.simulation.virtual_time import run
from tests.simulation.world import TENANT, Life, World

Object = dict[str, Any]
Story = Callable[[Inbox, World], None]


def effects_of(story: Story) -> list[tuple[str, str]]:
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
        next_life = Life(world)
        await asyncio.sleep(60)
        assert effects == []
        story(next_life.inbox, world)
        await asyncio.sleep(60)
        await next_life.end()
        return effects

    return run(told())


def own(world: World, kind: str) -> Object:
    """An object of the tenant's, as a watch tells of it."""
    found = next(each for each in world.cluster.objects(kind) if each["metadata"]["labels"])
    return {**found, "metadata": {**found["metadata"], "uid": f"uid-{kind}", "generation": 1, "managedFields": []}}


def vanishes(inbox: Inbox, world: World, kind: str) -> None:
    """Somebody deletes an object of the tenant's, and a watch tells of it."""
    body = own(world, kind)
    world.cluster.vanish(ref_of(body))
    (inbox.namespace_changed if kind == "Namespace" else inbox.child_changed)("DELETED", body)


def patched(body: Object, generation: int, **metadata: Any) -> Object:
    """The same after another hand has changed it."""
    hand = {"manager": "kubectl", "time": "2030-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:x": {}}}}
    return {**body, "metadata": {**body["metadata"], "generation": generation, "managedFields": [hand], **metadata}}


def fifteen_patches(kind: str, **metadata: Any) -> Story:
    def story(inbox: Inbox, world: World) -> None:
        body = own(world, kind)
        for generation in range(1, 17):
            inbox.child_changed("ADDED" if generation == 1 else "MODIFIED", patched(body, generation, **metadata))
        inbox.child_changed("DELETED", patched(body, 17, **metadata))

    return story


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "Ingress"])
def test_fifteen_patches_of_a_copy_elsewhere_are_no_drift(kind: str) -> None:
    assert effects_of(fifteen_patches(kind, namespace="elsewhere")) == []


@pytest.mark.parametrize("kind", ["Deployment", "NetworkPolicy", "Service", "Namespace"])
def test_an_own_object_that_is_deleted_is_made_again(kind: str) -> None:
    """Or else the others would prove nothing."""
    effects = effects_of(lambda inbox, world: vanishes(inbox, world, kind))

    assert [
        name for operation, name in effects if operation in ("apply", "create") and name.startswith(f"{kind} tenant-")
    ]


def test_an_own_object_whose_label_is_taken_away_is_still_the_tenants() -> None:
    def story(inbox: Inbox, world: World) -> None:
        body = own(world, "NetworkPolicy")
        inbox.child_changed("ADDED", body)
        world.cluster.edit(ref_of(body), {"metadata": {"labels": {LABEL_TENANT_UID: None}}})
        inbox.child_changed("MODIFIED", patched(body, 1, labels={}))

    assert ("apply", "NetworkPolicy tenant-banking-cymmetri/default-deny") in effects_of(story)


def test_an_own_object_that_is_as_it_should_be_is_left_alone() -> None:
    """Whatever a watch makes one suspect."""
    assert effects_of(fifteen_patches("Deployment")) == []


def test_what_is_put_into_the_tenants_namespace_is_no_part_of_it() -> None:
    assert effects_of(fifteen_patches("Deployment", name="miner")) == []


def test_a_namespace_that_looks_like_the_tenants_is_not_missed() -> None:
    def story(inbox: Inbox, world: World) -> None:
        lookalike = patched(own(world, "Namespace"), 1, name="lookalike")
        inbox.namespace_changed("ADDED", lookalike)
        inbox.namespace_changed("DELETED", lookalike)

    assert effects_of(story) == []
