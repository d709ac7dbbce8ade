"""One replica over fakes, from what it learns to its drain: nothing that it needs may end without a word."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.replica import PartEnded, Replica
from tenant_operator.saga.evolve import Worker
from tenant_operator.wiring import assemble
from tests.simulation.virtual_time import VirtualClock, run
from tests.simulation.world import KEY, MIGRATIONS, TENANT, World

RESYNC_SECONDS = 300.0


class Process:
    """A replica whose watches tell nothing: what it knows, it has learnt or found out by itself."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.told_to_end = asyncio.Event()
        options, clock = Options(), VirtualClock()
        world.life = self  # type: ignore[assignment]
        world.worker = "replica"
        self.crashed = asyncio.Event()
        numbers = iter(range(10**6))
        outside = world.outside(clock, world.mailer)
        self.parts = assemble(
            outside,
            provisioning_steps(options, MIGRATIONS),
            options,
            Worker("replica", 0, clock.now()),
            new_id=lambda: f"01{next(numbers):024d}",
            concurrency=4,
        )
        self.replica = Replica(
            self.parts,
            outside.catalog,
            self.listing,
            compare_seconds=3600.0,
            resync_seconds=RESYNC_SECONDS,
            drain_seconds=10.0,
        )

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        body, kind = self.world.store.body(KEY), Plan if plural == "plans" else Organization
        for each in ([] if body is None else [body]) if plural == "tenants" else self.world.platform.bodies(kind):
            yield each

    async def until(self, state: TenantState) -> None:
        """Until the tenant is in that state."""
        async with asyncio.timeout(3600):
            while self.world.tenant is None or self.world.tenant.status.state is not state:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


def unannounced(world: World) -> World:
    """Who is at work is not told here: whether effects are announced is for others to test."""
    world._intent_was_journalled = lambda operation, name: None  # type: ignore[method-assign]
    return world


def test_it_learns_works_finds_what_the_watches_missed_and_drains() -> None:
    async def story() -> list[str]:
        world = unannounced(World())
        world.store.apply(TENANT)
        process = Process(world)
        said = [process.replica.not_working]
        await process.replica.learn()
        task = asyncio.create_task(process.replica.work(process.told_to_end, {}))
        await process.until(TenantState.ACTIVE)
        said.append(process.replica.not_working)
        world.store.patch_spec(KEY, desiredState="Suspended")  # no watch tells
        begun = asyncio.get_running_loop().time()
        await process.until(TenantState.SUSPENDED)
        assert asyncio.get_running_loop().time() - begun <= RESYNC_SECONDS + 10
        process.told_to_end.set()
        await task
        assert process.parts.queue.active == 0
        return [*said, process.replica.not_working]

    assert run(story()) == ["starting", "", "ending"]


def test_a_deletion_that_no_watch_told_leaves_nothing_in_memory() -> None:
    async def story() -> None:
        world = unannounced(World())
        world.store.apply(TENANT)
        process = Process(world)
        await process.replica.learn()
        task = asyncio.create_task(process.replica.work(process.told_to_end, {}))
        await process.until(TenantState.ACTIVE)
        tenant = world.tenant
        assert tenant is not None
        # Somebody takes the finalizer away by force.
        world.store.delete(KEY)
        marked = world.tenant
        assert marked is not None
        metadata = marked.metadata.model_copy(update={"finalizers": ()})
        await world.store.write_metadata(marked.model_copy(update={"metadata": metadata}))
        assert world.tenant is None
        await asyncio.sleep(RESYNC_SECONDS + 10)
        assert len(process.parts.memory) == 0
        assert process.parts.memory.key_of_identity(tenant.metadata.uid) is None
        assert process.parts.queue.idle
        process.told_to_end.set()
        await task

    run(story())


@pytest.mark.parametrize("failure", [None, RuntimeError("broken")])
def test_a_part_that_ends_by_itself_ends_the_replica_after_a_drain(failure: Exception | None) -> None:
    async def part() -> None:
        await asyncio.sleep(5)
        if failure is not None:
            raise failure

    async def story() -> None:
        process = Process(World())
        await process.replica.learn()
        with pytest.raises(PartEnded, match="the watches ended by itself") as raised:
            await process.replica.work(process.told_to_end, {"watches": part()})
        assert raised.value.__cause__ is failure
        assert process.replica.not_working == "ending"
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run(story())


def test_the_courier_and_the_resync_are_watched_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(name: str) -> None:
        process = Process(World())

        async def ends(*_: object) -> None:
            await asyncio.sleep(1)

        part = process.parts.courier if name == "audit courier" else process.replica._resync
        monkeypatch.setattr(part, "run", ends)
        with pytest.raises(PartEnded, match=f"the {name} ended by itself"):
            await process.replica.work(process.told_to_end, {})

    for name in ("audit courier", "resync"):
        run(story(name))


def test_what_ends_because_it_was_told_to_is_no_failure() -> None:
    async def story() -> None:
        process = Process(World())

        async def part() -> None:
            await process.told_to_end.wait()

        asyncio.get_running_loop().call_later(3.0, process.told_to_end.set)
        await process.replica.work(process.told_to_end, {"watches": part()})

    run(story())
