"""The loop between journal and activities: what is written when, and what happens when a write meets another one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from tenant_operator.api.names import ActivityName
from tenant_operator.saga.errors import Gone, Stale, Unavailable
from tenant_operator.saga.evolve import MESSAGE_LIMIT, Worker
from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    CompensationStarted,
    CompensationTryFailed,
    Fact,
    Pulsed,
    RunFinished,
    RunReversed,
    RunStarted,
    TryFailed,
)
from tenant_operator.saga.host import Pulse
from tenant_operator.saga.model import Direction, EntryState, Kind, Outcome, RowState, Saga
from tenant_operator.saga.runner import Runner
from tenant_operator.saga.sight import Kept
from tenant_operator.saga.step import Done, NotYet, Progress, RetryPolicy, Step
from tests.simulation.virtual_time import VirtualClock, run
from tests.unit.saga.interpreter import seeded, step

FIRST, SECOND = ActivityName.ALLOCATE_NAMESPACE, ActivityName.MARK_ACTIVE

Fault = Callable[[], None]
Deed = Callable[[Pulse], Awaitable[Progress]]


@dataclass(frozen=True)
class Record:
    """The stored thing: `note` is what others may change, `stop` what they may ask for."""

    version: int = 0
    saga: Saga = field(default_factory=Saga)
    note: str = ""
    stop: bool = False


async def done(pulse: Pulse) -> Progress:
    return Done("done")


class MemoryHost:
    """`saga.host.Host` in memory. `faults` are called one before each write; `after` likewise, once it is stored."""

    def __init__(self, **changes: object) -> None:
        self.clock = VirtualClock()
        self.known: dict[str, Step] = {name: step(name, **changes) for name in (FIRST, SECOND)}
        self.stored = Record()
        self.faults: list[Fault | None] = []
        self.after: list[Fault | None] = []
        self.journal: list[tuple[float, list[Fact]]] = []
        self.acts: list[str] = []
        self.undone: list[str] = []
        self.deeds: dict[str, Deed] = {}
        self.undoes: dict[str, Deed] = {}
        self.worker = Worker("worker-1", 1, self.clock.now())
        self.is_mine = True
        self._kept: Kept | None = None

    def runner(self, worker: Worker | None = None) -> Runner[Record]:
        self._kept = None  # a process of its own
        return Runner(self, worker or self.worker, self.clock, jitter=seeded(1))

    def kept(self, record: Record) -> Kept | None:
        return self._kept

    def keep(self, record: Record, kept: Kept | None) -> None:
        self._kept = kept

    def saga(self, record: Record) -> Saga:
        return record.saga

    def steps(self, record: Record) -> Mapping[str, Step]:
        return self.known

    def demand(self, record: Record, saga: Saga, *, held: bool) -> Sequence[Fact]:
        if saga.run is None:
            return [RunStarted("run-1", Kind.PROVISION, "Created", None)]
        if record.stop and not saga.run.finished and saga.run.direction is Direction.FORWARD:
            return [RunReversed("Cancelled", "bob")]
        return []

    def mine(self, record: Record) -> bool:
        return self.is_mine

    def newest(self, record: Record) -> Record:
        return self.stored

    async def refresh(self, record: Record) -> Record:
        return self.stored

    async def write(self, record: Record, saga: Saga, facts: Sequence[Fact], now: datetime) -> Record:
        await asyncio.sleep(0)
        if self.faults and (fault := self.faults.pop(0)):
            fault()
        if record.version != self.stored.version:
            raise Stale
        self.store(saga=saga)
        self.journal.append((asyncio.get_running_loop().time(), list(facts)))
        if self.after and (fault := self.after.pop(0)):
            fault()
        return self.stored

    def store(self, **changes: object) -> None:
        """Somebody writes."""
        self.stored = replace(self.stored, version=self.stored.version + 1, **changes)  # type: ignore[arg-type]

    async def act(self, record: Record, saga: Saga, ticks: Sequence[Fact], activity: str, pulse: Pulse) -> Progress:
        self.acts.append(activity)
        return await self.deeds.get(activity, done)(pulse)

    async def undo(self, record: Record, activity: str, pulse: Pulse) -> Progress:
        self.undone.append(activity)
        return await self.undoes.get(activity, done)(pulse)

    def facts(self, *kinds: type) -> list[Fact]:
        return [fact for _, facts in self.journal for fact in facts if not kinds or isinstance(fact, kinds)]

    def when(self, kind: type) -> list[float]:
        return [round(time, 2) for time, facts in self.journal if any(isinstance(fact, kind) for fact in facts)]


async def rest(host: MemoryHost, attention: asyncio.Event | None = None, until: float = 10_000) -> None:
    """Advance as a queue would, until there is nothing to do."""
    attention, runner, loop = attention or asyncio.Event(), host.runner(), asyncio.get_running_loop()
    while loop.time() < until:
        _, again = await runner.advance(host.stored, attention)
        if again is None:
            return
        pause = again - host.clock.elapsed()
        await asyncio.sleep(max(pause, 0.0))


def outcome(host: MemoryHost) -> Outcome | None:
    assert host.stored.saga.run is not None
    return host.stored.saga.run.outcome


def lives(tell: Callable[[MemoryHost], Awaitable[None]] | None = None, **changes: object) -> MemoryHost:
    """A host on which a story was told to its end."""

    async def story() -> MemoryHost:
        host = MemoryHost(**changes)
        if tell is not None:
            await tell(host)
        else:
            await rest(host)
        return host

    return run(story())


def test_intent_goes_before_effect_and_an_outcome_with_the_next_intent() -> None:
    host = lives()
    assert [[type(fact) for fact in facts] for _, facts in host.journal] == [
        [RunStarted, ActivityStarted],
        [ActivityCompleted, ActivityStarted],
        [ActivityCompleted, RunFinished],
    ]
    assert host.acts == [FIRST, SECOND]


@pytest.mark.parametrize("write", [0, 1, 2])
def test_a_change_of_something_else_does_not_repeat_the_activity(write: int) -> None:
    async def tell(host: MemoryHost) -> None:
        host.faults = [None] * write + [lambda: host.store(note="label")]
        await rest(host)

    host = lives(tell)
    assert host.acts == [FIRST, SECOND]
    assert host.stored.note == "label"
    assert len(host.journal) == 3
    assert outcome(host) is Outcome.COMPLETED


def test_a_journal_that_moved_is_not_written_to() -> None:
    async def tell(host: MemoryHost) -> None:
        def taken_over() -> None:
            run_ = host.stored.saga.run
            assert run_ is not None
            host.store(saga=replace(host.stored.saga, run=replace(run_, worker="other", fence=2)))

        host.faults = [None, taken_over]
        _, again = await host.runner().advance(host.stored, asyncio.Event())
        assert again is not None
        assert again - host.clock.elapsed() == 30, "the other worker lives: nothing to do but wait"

    host = lives(tell)
    assert len(host.journal) == 1
    assert host.stored.saga.row(FIRST).state is RowState.RUNNING
    assert host.stored.saga.run is not None
    assert host.stored.saga.run.worker == "other"


@pytest.mark.parametrize("write", [0, 1, 2])
def test_a_write_whose_answer_was_lost_is_adopted(write: int) -> None:
    async def tell(host: MemoryHost) -> None:
        def lost() -> None:
            raise Unavailable("no answer")

        host.after = [None] * write + [lost]
        await rest(host)

    host = lives(tell)
    assert host.acts == [FIRST, SECOND]
    assert len(host.journal) == 3
    assert outcome(host) is Outcome.COMPLETED


def test_a_pulse_whose_answer_was_lost_does_not_disturb_the_activity() -> None:
    async def tell(host: MemoryHost) -> None:
        def lost() -> None:
            raise Unavailable("no answer")

        host.after = [None, lost]
        host.deeds[FIRST] = lambda pulse: asyncio.sleep(15, Done("done"))
        await rest(host)

    assert lives(tell).acts == [FIRST, SECOND]


def test_a_write_that_did_not_happen_is_repeated() -> None:
    async def tell(host: MemoryHost) -> None:
        def down() -> None:
            raise Unavailable("no answer")

        host.faults = [None, down, down]
        await rest(host)

    host = lives(tell)
    assert host.acts == [FIRST, SECOND]
    assert len(host.journal) == 3


def test_a_record_that_keeps_changing_is_given_up_for_now() -> None:
    async def tell(host: MemoryHost) -> None:
        host.faults = [lambda: host.store(note="again")] * 50
        with pytest.raises(Unavailable, match="keeps changing"):
            await host.runner().advance(host.stored, asyncio.Event())

    assert lives(tell).acts == []


async def hang(pulse: Pulse) -> Progress:
    await asyncio.sleep(10_000)
    return Done("much later")


def test_a_cancel_interrupts_within_a_second_and_compensates() -> None:
    async def tell(host: MemoryHost) -> None:
        attention = asyncio.Event()
        host.deeds[SECOND] = hang
        task = asyncio.create_task(rest(host, attention))
        await asyncio.sleep(5)
        host.store(stop=True)
        attention.set()
        await asyncio.sleep(0.5)
        assert host.stored.saga.run is not None
        assert host.stored.saga.run.direction is Direction.BACKWARD
        await task

    host = lives(tell)
    assert host.undone == [SECOND, FIRST]
    assert outcome(host) is Outcome.CANCELLED


def test_a_wake_that_asks_for_nothing_does_not_disturb_the_activity() -> None:
    async def tell(host: MemoryHost) -> None:
        attention = asyncio.Event()
        host.deeds[FIRST] = lambda pulse: asyncio.sleep(5, Done("done"))
        task = asyncio.create_task(rest(host, attention))
        for _ in range(4):
            await asyncio.sleep(1)
            host.store(note="changed")
            attention.set()
        await task

    assert lives(tell).acts == [FIRST, SECOND]


def test_a_critical_section_of_an_interrupted_activity_finishes_first() -> None:
    order: list[str] = []

    async def tell(host: MemoryHost) -> None:
        attention = asyncio.Event()

        async def critical(pulse: Pulse) -> Progress:
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0.5)
                order.append("finished")
            return Done("never said")

        async def undo(pulse: Pulse) -> Progress:
            order.append("undone")
            return Done("undone")

        host.deeds[FIRST], host.undoes[FIRST] = critical, undo
        task = asyncio.create_task(rest(host, attention))
        await asyncio.sleep(1)
        host.store(stop=True)
        attention.set()
        await task

    lives(tell)
    assert order == ["finished", "undone"]


def test_another_workers_write_ends_the_activity() -> None:
    cancelled: list[float] = []

    async def tell(host: MemoryHost) -> None:
        attention = asyncio.Event()

        async def watched(pulse: Pulse) -> Progress:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(asyncio.get_running_loop().time())
                raise
            return Done("done")

        host.deeds[FIRST] = watched
        task = asyncio.create_task(host.runner().advance(host.stored, attention))
        await asyncio.sleep(3)
        saga = host.stored.saga
        assert saga.run is not None
        host.store(saga=replace(saga, run=replace(saga.run, worker="other", fence=2)))
        attention.set()
        _, again = await task
        assert again is not None

    assert len(lives(tell).journal) == 1
    assert cancelled == [3]


def test_a_record_that_is_gone_ends_the_activity() -> None:
    class Vanishing(MemoryHost):
        def newest(self, record: Record) -> Record:
            raise Gone

    async def story() -> None:
        host, attention = Vanishing(), asyncio.Event()
        host.deeds[FIRST] = hang
        task = asyncio.create_task(host.runner().advance(host.stored, attention))
        await asyncio.sleep(1)
        attention.set()
        with pytest.raises(Gone):
            await task

    run(story())


def test_a_silent_activity_is_journalled_as_alive_every_ten_seconds() -> None:
    host = lives(lambda host: _with(host, FIRST, lambda pulse: asyncio.sleep(35, Done("done"))))
    assert host.when(Pulsed) == [10, 20, 30]


async def _with(host: MemoryHost, activity: str, deed: Deed) -> None:
    host.deeds[activity] = deed
    await rest(host)


def test_news_is_journalled_five_seconds_after_the_last_write() -> None:
    async def tell(pulse: Pulse) -> Progress:
        pulse.heartbeat("one", 10)
        await asyncio.sleep(8)
        return Done("done")

    host = lives(lambda host: _with(host, FIRST, tell))
    assert host.when(Pulsed) == [5]
    assert host.facts(Pulsed) == [Pulsed(FIRST, "one", 10)]


def test_a_healthy_activity_costs_no_pulse() -> None:
    async def tell(pulse: Pulse) -> Progress:
        pulse.heartbeat("one", 10)
        await asyncio.sleep(1)
        return Done("done")

    assert lives(lambda host: _with(host, FIRST, tell)).facts(Pulsed) == []


def test_an_activity_is_not_credited_with_what_the_one_before_it_said() -> None:
    async def tell(host: MemoryHost) -> None:
        async def speaking(pulse: Pulse) -> Progress:
            pulse.heartbeat("creating the namespace", 50)
            return Done("namespace created")

        host.deeds[FIRST], host.deeds[SECOND] = speaking, lambda pulse: asyncio.sleep(15, Done("done"))
        await rest(host)

    host = lives(tell)
    assert {fact.activity for fact in host.facts(Pulsed) if isinstance(fact, Pulsed)} == {SECOND}
    assert host.stored.saga.row(FIRST).message == "namespace created"


def test_a_long_detail_is_news_once() -> None:
    async def tell(pulse: Pulse) -> Progress:
        pulse.heartbeat("x" * (MESSAGE_LIMIT + 1))
        await asyncio.sleep(21)
        return Done("done")

    assert len(lives(lambda host: _with(host, FIRST, tell)).when(Pulsed)) <= 3


def test_a_deadline_ends_the_activity_and_names_its_last_cause() -> None:
    async def tell(pulse: Pulse) -> Progress:
        pulse.heartbeat("pod auth-0: ImagePullBackOff")
        return await hang(pulse)

    host = lives(lambda host: _with(host, FIRST, tell), timeout=timedelta(seconds=45))
    assert host.when(ActivityFailed) == [45]
    assert host.stored.saga.run is not None
    assert host.stored.saga.run.error == "timed out after 45 s: pod auth-0: ImagePullBackOff"
    assert host.undone == [FIRST]


def test_waiting_holds_no_task_and_ends_with_the_last_cause() -> None:
    async def tell(host: MemoryHost) -> None:
        async def not_yet(pulse: Pulse) -> Progress:
            at = asyncio.get_running_loop().time()
            return NotYet("0 of 1 pods ready" if at < 40 else "pod auth-0: CrashLoopBackOff", 5)

        host.deeds[FIRST] = not_yet
        before = len(asyncio.all_tasks())
        _, again = await host.runner().advance(host.stored, asyncio.Event())
        assert again is not None
        assert again <= host.clock.elapsed() + 5
        assert len(asyncio.all_tasks()) == before
        await rest(host)

    host = lives(tell, timeout=timedelta(seconds=60))
    assert host.when(ActivityFailed) == [60]
    assert host.stored.saga.run is not None
    assert host.stored.saga.run.error == "timed out after 60 s: pod auth-0: CrashLoopBackOff"


def test_while_it_waits_a_saga_shows_that_it_lives() -> None:
    async def tell(host: MemoryHost) -> None:
        async def not_yet(pulse: Pulse) -> Progress:
            waited = asyncio.get_running_loop().time()
            return Done("ready") if waited > 100 else NotYet("0 of 1 pods ready", 1)

        host.deeds[FIRST] = not_yet
        await rest(host)

    host = lives(tell, timeout=timedelta(minutes=10))
    beats = [0.0, *host.when(Pulsed)]
    assert max(later - earlier for earlier, later in pairwise(beats)) <= 15
    assert len(beats) <= 13, "a heartbeat every ten seconds, not at every look"
    assert outcome(host) is Outcome.COMPLETED


def test_a_failed_try_is_repeated_after_its_pause() -> None:
    times: list[float] = []

    async def tell(pulse: Pulse) -> Progress:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 3:
            raise Unavailable("busy")
        return Done("done")

    retry = RetryPolicy(initial=timedelta(seconds=4), maximum=timedelta(seconds=60))
    host = lives(lambda host: _with(host, FIRST, tell), retry=retry)
    assert len(host.facts(TryFailed)) == 2
    assert 2 <= times[1] - times[0] <= 4.1
    assert 4 <= times[2] - times[1] <= 8.1
    assert outcome(host) is Outcome.COMPLETED


def test_an_activity_that_is_cancelled_from_within_has_failed_a_try() -> None:
    tries = 0

    async def tell(pulse: Pulse) -> Progress:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncio.CancelledError  # what a driver's own cancelled task leaks
        return Done("done")

    async def story(host: MemoryHost) -> None:
        host.deeds[FIRST] = tell
        task = asyncio.create_task(rest(host))
        await asyncio.wait({task})
        assert not task.cancelled(), "nobody cancelled the saga"

    assert outcome(lives(story)) is Outcome.COMPLETED


def test_an_api_server_that_is_away_during_a_pulse_does_not_cost_the_activity_a_try() -> None:
    async def tell(host: MemoryHost) -> None:
        def down() -> None:
            raise Unavailable("API server: connection refused")

        host.faults = [None, down, down, down, down, down]
        host.deeds[FIRST] = lambda pulse: asyncio.sleep(15, Done("done"))
        while True:
            try:
                await rest(host)
            except Unavailable:  # the queue comes again
                await asyncio.sleep(1)
            else:
                return

    assert lives(tell).facts(TryFailed) == []


def test_a_checkpoint_whose_echo_overtakes_its_answer_does_not_end_the_activity() -> None:
    async def tell(host: MemoryHost) -> None:
        attention = asyncio.Event()

        async def mailing(pulse: Pulse) -> Progress:
            await asyncio.sleep(1)
            await pulse.checkpoint(f"mail {len(host.acts)}")
            return Done("sent")

        original = host.write

        async def slow_answer(record: Record, saga: Saga, facts: Sequence[Fact], now: datetime) -> Record:
            stored = await original(record, saga, facts, now)
            attention.set()  # the watch tells of the write before the API server's answer is here
            await asyncio.sleep(0.05)
            return stored

        host.write = slow_answer  # type: ignore[method-assign]
        host.deeds[FIRST] = mailing
        await rest(host, attention)

    assert lives(tell).acts == [FIRST, SECOND]


def test_a_compensation_past_its_deadline_goes_on_slowly() -> None:
    async def tell(host: MemoryHost) -> None:
        async def terminating(pulse: Pulse) -> Progress:
            return Done("gone") if asyncio.get_running_loop().time() > 300 else NotYet("namespace is Terminating", 5)

        async def broken(pulse: Pulse) -> Progress:
            raise Unavailable("broken")

        host.deeds[FIRST], host.undoes[FIRST] = broken, terminating
        await rest(host)

    retry = RetryPolicy(max_tries=1, stalled_every=timedelta(seconds=60))
    host = lives(tell, timeout=timedelta(seconds=30), retry=retry)
    failed = host.when(CompensationTryFailed)
    assert 30 <= failed[0] <= 36
    assert all(59 <= later - earlier <= 67 for earlier, later in pairwise(failed))
    assert [fact.repeated for fact in host.facts(CompensationTryFailed) if isinstance(fact, CompensationTryFailed)][
        :2
    ] == [False, True]
    assert outcome(host) is Outcome.FAILED
    assert host.stored.saga.ledger == ()


def test_a_compensation_that_gives_no_answer_is_stalled_in_the_ledger() -> None:
    async def tell(host: MemoryHost) -> None:
        async def broken(pulse: Pulse) -> Progress:
            raise Unavailable("broken")

        host.deeds[FIRST], host.undoes[FIRST] = broken, hang
        await rest(host, until=100)

    host = lives(tell, timeout=timedelta(seconds=30), retry=RetryPolicy(max_tries=1))
    assert [entry.state for entry in host.stored.saga.ledger] == [EntryState.RELEASE_FAILED]
    assert len(host.facts(CompensationStarted)) == 1


def test_a_stopped_runner_begins_nothing_more_and_another_goes_on() -> None:
    async def tell(host: MemoryHost) -> None:
        runner = host.runner()
        host.deeds[FIRST] = lambda pulse: asyncio.sleep(5, Done("done"))
        task = asyncio.create_task(runner.advance(host.stored, asyncio.Event()))
        await asyncio.sleep(1)
        runner.stop()
        _, again = await task
        assert again is None
        assert host.acts == [FIRST]
        assert host.stored.saga.row(FIRST).state is RowState.COMPLETED
        await asyncio.sleep(1)
        heir = host.runner(Worker("worker-2", 2, host.clock.now()))
        await heir.advance(host.stored, asyncio.Event())

    host = lives(tell)
    assert host.acts == [FIRST, SECOND]
    assert outcome(host) is Outcome.COMPLETED
