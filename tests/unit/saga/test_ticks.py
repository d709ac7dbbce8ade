"""One intent covers a phase, and what is completed in it rides on the next write: what is lost with it is repeated."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tenant_operator.api.names import ActivityName
from tenant_operator.saga.errors import Unavailable
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityStarted,
    CompensationStarted,
    RunFinished,
    RunReversed,
    RunStarted,
    RunTakenOver,
    TicksLost,
)
from tenant_operator.saga.host import Pulse
from tenant_operator.saga.model import Outcome, RowState, Saga
from tenant_operator.saga.runner import Runner
from tenant_operator.saga.step import Done, NotYet, Progress
from tests.simulation.virtual_time import run
from tests.unit.saga.interpreter import step
from tests.unit.saga.test_runner import MemoryHost, Record, hang, outcome, rest

LOOK, SPACE, STORE, SCHEMA, DEPLOY = (
    ActivityName.VALIDATE_REQUEST,
    ActivityName.ALLOCATE_NAMESPACE,
    ActivityName.ALLOCATE_STORAGE,
    ActivityName.APPLY_SCHEMA,
    ActivityName.DEPLOY_WORKLOADS,
)
PHASE = (SPACE, STORE, SCHEMA)


class Crowd:
    """Several hosts of one saga each, as one host: the note of a record tells which is meant."""

    def __init__(self, hosts: dict[str, MemoryHost]) -> None:
        self._hosts = hosts

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda record, *args, **options: getattr(self._hosts[record.note], name)(record, *args, **options)


def phased_host() -> MemoryHost:
    """A host with a look, a phase of three, and a phase of one."""
    host = MemoryHost()
    host.known = {name: step(name, looks_only=name is LOOK) for name in (LOOK, *PHASE, DEPLOY)}
    return host


def lives(tell: Callable[[MemoryHost], Awaitable[None]] = rest) -> MemoryHost:
    """Such a host, on which a story was told to its end."""

    async def story() -> MemoryHost:
        host = phased_host()
        await tell(host)
        return host

    return run(story())


def lasting(seconds: float) -> Callable[[Pulse], Awaitable[Progress]]:
    return lambda pulse: asyncio.sleep(seconds, Done("done"))


def held(record: Record) -> set[str]:
    return {entry.activity for entry in record.saga.ledger}


def lost() -> None:
    raise Unavailable("no answer")


def test_a_quick_phase_is_one_write_and_what_only_looks_is_none() -> None:
    host = lives()
    started, completed = [ActivityStarted], [ActivityCompleted]
    assert [[type(fact) for fact in facts] for _, facts in host.journal] == [
        [RunStarted, *started, *completed, *started],
        [*completed, *started, *completed, *started, *completed, *started],
        [*completed, RunFinished],
    ]
    assert host.acts == [LOOK, *PHASE, DEPLOY]


def test_the_first_write_of_a_phase_reserves_all_of_it() -> None:
    async def tell(host: MemoryHost) -> None:
        host.deeds[SPACE] = hang
        await rest(host, until=1)

    async def story(host: MemoryHost) -> None:
        task = asyncio.create_task(tell(host))
        await asyncio.sleep(0.1)
        assert held(host.stored) == {SPACE, STORE}
        assert [row.state for row in host.stored.saga.timeline][1:4] == [
            RowState.RUNNING,
            RowState.PENDING,
            RowState.PENDING,
        ]
        task.cancel()

    lives(story)


def test_what_lasts_is_seen_after_half_a_second_and_was_when_it_was() -> None:
    async def tell(host: MemoryHost) -> None:
        host.deeds[SPACE], host.deeds[STORE] = lasting(0.2), lasting(3)
        await rest(host)

    host = lives(tell)
    (_, _), (when, facts), *_ = host.journal
    assert [type(fact) for fact in facts] == [ActivityCompleted, ActivityStarted]
    assert round(when, 2) == 0.7, "half a second after the first of them"
    rows = host.stored.saga.timeline
    begin = rows[0].started_at
    assert begin is not None
    times = [(row.started_at, row.completed_at) for row in rows]
    seconds = [tuple(round((each - begin).total_seconds(), 1) for each in pair if each) for pair in times]
    assert seconds == [(0.0, 0.0), (0.0, 0.2), (0.2, 3.2), (3.2, 3.2), (3.2, 3.2)]


@pytest.mark.parametrize(("sagas", "seconds"), [(1, 0.7), (4, 0.7), (40, 5.2), (400, 10.2)])
def test_where_many_are_at_work_they_write_no_more_ticks_than_a_few(sagas: int, seconds: float) -> None:
    async def story() -> None:
        hosts = {str(number): phased_host() for number in range(sagas)}
        for name, host in hosts.items():
            host.deeds[SPACE], host.deeds[STORE] = lasting(0.2), lasting(30)
            host.store(note=name)
        crowd: Any = Crowd(hosts)
        runner = Runner(crowd, hosts["0"].worker, hosts["0"].clock)
        await asyncio.gather(*(runner.advance(host.stored, asyncio.Event()) for host in hosts.values()))
        for host in hosts.values():
            (_, _), (when, _), *_ = host.journal
            assert round(when, 2) == seconds

    run(story())


def test_what_waits_for_a_moment_is_not_told() -> None:
    """The tick of what came before it waits as well: until the next write, or for half a second."""
    looks: Iterator[Progress] = iter([NotYet("pods are on their way", 0.3), Done("all ready")])

    async def tell(host: MemoryHost) -> None:
        async def look(pulse: Pulse) -> Progress:
            return next(looks)

        host.deeds[STORE] = look
        await rest(host)

    host = lives(tell)
    assert [len(facts) for _, facts in host.journal] == [4, 6, 2], "as if nothing had to wait"


def test_a_cancel_undoes_what_was_run_and_gives_up_what_was_only_reserved() -> None:
    async def tell(host: MemoryHost) -> None:
        attention = asyncio.Event()
        host.deeds[SPACE] = hang
        task = asyncio.create_task(rest(host, attention))
        await asyncio.sleep(1)
        host.store(stop=True)
        attention.set()
        await asyncio.sleep(0)
        await task

    host = lives(tell)
    assert host.undone == [SPACE, LOOK]
    assert held(host.stored) == set()
    assert outcome(host) is Outcome.CANCELLED
    assert host.stored.saga.row(STORE).state is RowState.PENDING


def test_a_successor_undoes_what_its_predecessor_may_have_run() -> None:
    async def tell(host: MemoryHost) -> None:
        host.deeds[SCHEMA] = hang
        first = asyncio.create_task(host.runner().advance(host.stored, asyncio.Event()))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert host.stored.saga.row(SPACE).state is RowState.RUNNING, "its ticks died with it"
        host.store(stop=True)
        host.worker = Worker("worker-2", 2, host.clock.now())
        await rest(host)

    host = lives(tell)
    assert host.acts == [LOOK, *PHASE]
    assert host.undone == [SCHEMA, STORE, SPACE, LOOK]
    assert host.facts(RunTakenOver, RunReversed)
    assert held(host.stored) == set()


def test_a_worker_that_lost_its_ticks_remembers_that_it_may_have_run_more() -> None:
    async def tell(host: MemoryHost) -> None:
        runner, attention = host.runner(), asyncio.Event()
        host.deeds[SCHEMA] = lasting(0.1)
        host.faults = [None, *[lost] * 5]  # the write after the phase
        with suppress(Unavailable):
            await runner.advance(host.stored, attention)
        host.store(stop=True)
        _, again = await runner.advance(host.stored, attention)
        assert again is None

    host = lives(tell)
    assert host.facts(TicksLost) == [TicksLost()]
    assert host.facts(CompensationStarted) == [CompensationStarted(name) for name in (SCHEMA, STORE, SPACE, LOOK)]
    assert held(host.stored) == set()


def test_lost_ticks_are_made_again_and_told_once() -> None:
    async def tell(host: MemoryHost) -> None:
        runner, attention = host.runner(), asyncio.Event()
        host.faults = [None, *[lost] * 5]
        with suppress(Unavailable):
            await runner.advance(host.stored, attention)
        await runner.advance(host.stored, attention)

    host = lives(tell)
    assert host.acts == [LOOK, *PHASE, *PHASE, DEPLOY]
    completed = [fact.activity for fact in host.facts() if isinstance(fact, ActivityCompleted)]
    assert completed == [LOOK, *PHASE, DEPLOY]
    assert outcome(host) is Outcome.COMPLETED


def test_ticks_of_a_journal_that_somebody_has_wiped_are_nobodys() -> None:
    looks: Iterator[Progress] = iter([NotYet("pods are on their way", 0.3), Done("all ready")])

    async def tell(host: MemoryHost) -> None:
        async def look(pulse: Pulse) -> Progress:
            return next(looks)

        host.deeds[STORE] = look
        runner, attention = host.runner(), asyncio.Event()
        _, again = await runner.advance(host.stored, attention)
        assert again is not None
        assert [fact.activity for fact in host.facts() if isinstance(fact, ActivityCompleted)] == [LOOK], "SPACE waits"
        host.store(saga=Saga())
        await runner.advance(host.stored, attention)

    host = lives(tell)
    assert host.acts == [LOOK, SPACE, STORE, LOOK, *PHASE, DEPLOY], "everything is begun anew"
    assert host.facts(TicksLost) == []
    assert outcome(host) is Outcome.COMPLETED
