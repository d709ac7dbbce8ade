"""A server that all tenants share goes away for a while: nothing fails for good, and it is left in peace meanwhile."""

import asyncio
from datetime import timedelta

import pytest

from tenant_operator.adapters.circuit import Circuit
from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import ActivityState, TenantState
from tenant_operator.saga.errors import Outage
from tenant_operator.saga.facts import TryFailed
from tenant_operator.saga.host import Pulse
from tenant_operator.saga.model import Outcome
from tenant_operator.saga.queue import WorkQueue
from tenant_operator.saga.step import Done, Progress
from tests.simulation.virtual_time import VirtualClock, run
from tests.simulation.world import KEY, TENANT, Life, World, broken_promises
from tests.unit.saga.test_runner import FIRST, MemoryHost, outcome

STORAGE = ActivityName.ALLOCATE_STORAGE


async def outage(world: World, server: str, seconds: float) -> None:
    """The server is away for so long, from now on."""
    world.away.add(server)
    await asyncio.sleep(seconds)
    world.away.discard(server)


def is_over(world: World) -> bool:
    """Whether the run has come to its end."""
    run = world.tenant.status.run if world.tenant else None
    return run is not None and run.finished_at is not None


@pytest.mark.parametrize("seconds", [0.1, 1, 5, 16, 25])
@pytest.mark.parametrize("server", ["database", "mail"])
def test_a_short_outage_fails_nothing(server: str, seconds: float) -> None:
    async def story() -> tuple[World, float]:
        world = World()
        away = asyncio.create_task(outage(world, server, seconds))
        world.store.apply(TENANT)
        life = Life(world)
        await away
        back = asyncio.get_running_loop().time()
        while not is_over(world):  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.1)
        took = asyncio.get_running_loop().time() - back
        assert await life.settle()
        await life.end()
        return world, took

    world, took = run(story())
    assert world.tenant is not None
    assert (world.tenant.status.state, broken_promises(world)) == (TenantState.ACTIVE, [])
    assert world.tenant.status.attempt == 1
    assert len(world.mailer.mails) == 3
    assert took <= 2 + 2, "work goes on as soon as the server is back"
    assert world.knocks[server] <= 6 + seconds / 2
    assert len(world.told("tenant.provisioning.step_failed")) == 1, "one try found out; no other was made"
    assert world.store.writes <= 20 + seconds / 5, "who waits writes heartbeats, and nothing else"


def test_an_outage_that_lasts_is_a_timeout_that_names_it_and_releases_as_soon_as_it_can() -> None:
    async def story() -> World:
        world = World()
        world.store.apply(TENANT)
        life = Life(world)
        world.away.add("database")
        await asyncio.sleep(300)
        tenant = world.tenant
        assert tenant is not None
        assert tenant.status.run is not None
        assert tenant.status.run.failed_activity == STORAGE
        assert "timed out after 30 s: database has been out of service since" in (tenant.status.run.error or "")
        stalled = find_condition(tenant.status.conditions, ConditionType.STALLED)
        assert stalled is not None
        assert "out of service" in stalled.message
        (row,) = (row for row in tenant.status.timeline if row.state is ActivityState.COMPENSATING)
        assert row.next_try_at is None
        failed = len(world.told("tenant.provisioning.step_failed"))
        await asyncio.sleep(3600)
        assert len(world.told("tenant.provisioning.step_failed")) == failed, "the feed does not grow while it waits"
        world.away.clear()
        await asyncio.sleep(4)
        assert world.tenant is not None
        assert world.tenant.status.state is TenantState.FAILED
        assert await life.settle()
        await life.end()
        return world

    assert broken_promises(run(story())) == []


def test_a_cancel_is_heard_while_a_server_is_away() -> None:
    async def story() -> World:
        world = World()
        world.away.add("database")
        world.store.apply(TENANT)
        life = Life(world)
        await asyncio.sleep(5)
        world.store.annotate(KEY, action="cancel")
        await asyncio.sleep(1)
        assert world.tenant is not None
        assert world.tenant.status.last_action is not None
        assert world.tenant.status.run is not None
        assert world.tenant.status.run.reason == "Cancelled"
        world.away.clear()
        assert await life.settle()
        await life.end()
        return world

    world = run(story())
    assert world.tenant is not None
    assert (world.tenant.status.state, broken_promises(world)) == (TenantState.PENDING, [])


SAGAS = 500


def test_hundreds_of_waiting_sagas_leave_a_server_in_peace_and_all_go_on_when_it_is_back() -> None:
    """The engine and the circuit alone: five hundred sagas that need one call each, on 64 places."""

    async def story() -> tuple[list[float], list[float], list[MemoryHost], float]:
        loop, called, asked, back = asyncio.get_running_loop(), list[float](), list[float](), 60.0

        async def ask() -> None:
            asked.append(loop.time())
            if loop.time() < back:
                raise Outage("PostgreSQL: connection refused")

        circuit = Circuit("PostgreSQL", ask, limit=10, clock=VirtualClock())

        async def call(pulse: Pulse) -> Progress:
            async with circuit:
                called.append(loop.time())
                await asyncio.sleep(0.05)
                if loop.time() < back:
                    raise Outage("PostgreSQL: connection refused")
            return Done("made")

        hosts = [MemoryHost(timeout=timedelta(minutes=5)) for _ in range(SAGAS)]
        for host in hosts:
            host.deeds[FIRST] = call
        runners = [host.runner() for host in hosts]

        async def reconcile(key: int, attention: asyncio.Event) -> float | None:
            _, again = await runners[key].advance(hosts[key].stored, attention)
            return None if again is None else max(again - loop.time(), 0.0)

        queue = WorkQueue(reconcile, concurrency=64)

        def wake_all() -> None:
            for key in range(SAGAS):
                queue.wake(key)

        circuit.on_closed = wake_all
        wake_all()
        while not queue.idle:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.1)
        return called, asked, hosts, loop.time() - back

    called, asked, hosts, took = run(story())
    assert {outcome(host) for host in hosts} == {Outcome.COMPLETED}
    assert len([each for each in called if each < 60]) == 10, "those that were under way when it went"
    assert len(called) == SAGAS + 10
    assert len(asked) <= 36
    assert took <= 2 + 0.05 * SAGAS / 10 + 1
    writes = [len(host.journal) for host in hosts]
    assert max(writes) <= 60 / 10 + 5, "heartbeats, and what happened"
    assert sum(len(host.facts(TryFailed)) for host in hosts) == 10
