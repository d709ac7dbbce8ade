"""What is gone is made again wherever the process dies meanwhile, what is lost is not, and a race is not run."""

import asyncio
from base64 import b64decode
from collections.abc import Callable

import pytest

from tenant_operator.ports import ObjectRef
from tenant_operator.tenants.standing import standing_of
from tests.fakes.storage import FakeStorage
from tests.simulation.test_crashes import crash_at, provision
from tests.simulation.test_upkeep import active
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, Life, World, broken_promises, no_fault

NAMESPACE = "tenant-banking-cymmetri"
DATABASE = ObjectRef("v1", "Secret", "database-credentials", NAMESPACE)
IDENTITY = ObjectRef("v1", "Secret", "identity-credentials", NAMESPACE)
KEYS = ObjectRef("v1", "ConfigMap", "identity-jwks", NAMESPACE)


async def compared(world: World) -> bool:
    """Another life of the process, which compares; False if it died."""
    life = Life(world)
    life.comparison.begin(KEY)
    settled = await life.settle()
    await life.end()
    return settled


def secret(world: World, ref: ObjectRef) -> dict[str, str]:
    (found,) = (each for each in world.cluster.objects("Secret") if each["metadata"]["name"] == ref.name)
    return {name: b64decode(value).decode() for name, value in found["data"].items()}


def revision(world: World) -> str | None:
    """Of the credentials that the pods have read."""
    (deployment,) = world.cluster.objects("Deployment")
    annotations: dict[str, str] = deployment["spec"]["template"]["metadata"].get("annotations", {})
    return annotations.get("intelliauth.io/credentials")


@pytest.mark.parametrize("gone", [DATABASE, IDENTITY, KEYS], ids=lambda ref: str(ref.name))
def test_a_crash_at_any_point_of_a_repair_leaves_nothing_undone(gone: ObjectRef) -> None:
    async def story(point: int | None) -> tuple[World, int]:
        world = World()
        await provision(world)
        world.cluster.vanish(gone)
        first = len(world.points)
        world.fault = no_fault if point is None else crash_at(point)
        await compared(world)
        world.fault, points = no_fault, len(world.points) - first
        assert await compared(world)
        return world, points

    _, points = run(story(None))
    assert points > 4
    for point in range(points):
        world, _ = run(story(point))
        assert broken_promises(world) == [], f"crash at point {point} of {points}"
        for ref in (DATABASE, IDENTITY):
            login = secret(world, ref)
            assert world.storage.admits(login["database"], login["username"], login["password"])
        assert world.tenant is not None
        standing = standing_of(world.tenant.status)
        assert (standing.repairing, standing.lost, standing.rolling_out, standing.trouble) == ("", "", "", None)
        assert revision(world) == (str(standing.credentials) if standing.credentials else None)
        assert bool(standing.credentials) is (gone is not KEYS)
        assert "tenant.repaired" in [event.type for event in world.events]


def _without_database(storage: FakeStorage) -> Callable[[], None]:
    """Somebody drops the database, with its roles. Returns what restores all of it."""
    databases, roles = dict(storage._databases), dict(storage._roles)
    storage._databases.clear()
    storage._roles.clear()

    def restore() -> None:
        storage._databases.update(databases)
        storage._roles.update(roles)

    return restore


def test_a_lost_database_is_waited_for_and_none_is_made() -> None:
    async def story() -> World:
        world = World()
        life = await active(world)
        restore = _without_database(world.storage)
        life.comparison.begin(KEY)
        await asyncio.sleep(3600)
        assert world.tenant is not None
        assert "PostgresDatabase" in standing_of(world.tenant.status).lost
        assert (dict(world.storage.databases), dict(world.storage.roles)) == ({}, {})
        restore()
        assert await life.settle()
        assert standing_of(world.tenant.status).lost == ""
        await life.end()
        return world

    world = run(story())
    told = [event.type for event in world.events]
    assert told.count("tenant.degraded") == told.count("tenant.recovered") == 1
    assert broken_promises(world) == []


def test_whoever_changes_an_object_back_each_time_is_not_run_a_race_with() -> None:
    async def story() -> int:
        world = World()
        life = await active(world)
        policy = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", "default-deny", NAMESPACE)

        def changes_back() -> None:
            world.cluster.edit(policy, {"spec": {"ingress": [{}]}})
            life.drifted("NetworkPolicy", "default-deny")

        def fault(when: str, operation: str, name: str) -> None:
            if (when, operation, name) == ("after", "apply", str(policy)):
                asyncio.get_running_loop().call_later(1.0, changes_back)

        world.fault = fault
        changes_back()
        await asyncio.sleep(3600)
        corrections = world.notifier.reasons(KEY).count("DriftCorrected")
        await life.end()
        return corrections

    assert 5 < run(story()) < 30
