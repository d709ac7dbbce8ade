"""One saga in hand: the record as last journalled, and the guarded writes to it, one after the other."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Generic

from tenant_operator.saga.decide import Act, Decision, fold, settle
from tenant_operator.saga.errors import JournalMoved, Stale, Unavailable
from tenant_operator.saga.evolve import Worker, bounded
from tenant_operator.saga.facts import Checkpointed, Fact, Pulsed, Tick, TicksLost
from tenant_operator.saga.host import Clock, Host, R
from tenant_operator.saga.model import Run, Saga
from tenant_operator.saga.sight import Kept, Moment, Sight, deadline, is_held, look, next_time

PULSE: Final = 10.0
"""Seconds after which a running activity is journalled as alive."""

NEWS: Final = 5.0
"""What it does or waits for is journalled so many seconds after the last write at the earliest: a healthy step ends
sooner and costs nothing."""

_TICK: Final = 0.5
"""Seconds after which a tick is journalled if no other write has taken it along."""

_FEW: Final = 4
"""Sagas at work at once whose ticks and news are journalled as soon as this. Where there are more, each has to wait
longer, so that all together write no more often: it is the writes that would slow them down."""

_LATE: Final = NEWS + 2.0
"""Seconds before its deadline from which on all that a waiting activity sees is journalled."""

_WRITE_TRIES: Final = 5


def patience(seconds: float, at_work: int) -> float:
    """How long something may wait for another write that takes it along, if it is `seconds` where few sagas are at
    work; until the next sign of life at the longest."""
    return min(seconds * max(at_work / _FEW, 1.0), PULSE)


@dataclass(frozen=True, slots=True)
class Move:
    """The journal entry that is due now, and what is to be done once it is written."""

    facts: list[Fact]
    decision: Decision
    now: Moment


class Session(Generic[R]):
    """Keeps `record` in step with what is stored, and notices when someone else wrote to the journal. `saga` is the
    journal in it and the ticks since, which ride on the next write."""

    def __init__(
        self, host: Host[R], record: R, worker: Worker, clock: Clock, kept: Kept, *, at_work: Callable[[], int]
    ) -> None:
        """`at_work`: how many sagas are in hand."""
        self._host = host
        self._worker = worker
        self._clock = clock
        self._at_work = at_work
        self._lock = asyncio.Lock()
        self._said: Pulsed | None = None
        self.ticks = kept.ticks if kept.journal == host.saga(record) else ()
        self._ticking_since = kept.ticking_since if self.ticks else math.inf
        self._hold(record)
        has_lost = kept.has_lost or kept.ticks != self.ticks
        self._lost = [TicksLost()] if has_lost and self._is_ours(self._journal.run) else []
        self._see(kept.seen, self._now())
        self._confirmed = kept.seen or self.sight

    def _hold(self, record: R) -> None:
        self.record = record
        self._journal = self._host.saga(record)
        self.steps = self._host.steps(record)
        self.saga = self._fold(self._journal, self.ticks, self._clock.now())

    def _fold(self, saga: Saga, facts: Sequence[Fact], now: datetime) -> Saga:
        return fold(saga, facts, self.steps, now, self._worker)

    def _is_ours(self, run: Run | None) -> bool:
        return run is not None and not run.finished and run.worker == self._worker.id

    def _now(self) -> Moment:
        return Moment(next_time(self._clock.now(), self.saga), self._clock.elapsed())

    def _see(self, before: Sight | None, now: Moment) -> None:
        self.sight = look(self.saga, self.steps, before, now, self._worker)

    def measure(self) -> Moment:
        """Look at the clock, and at the run by it."""
        now = self._now()
        self._see(self.sight, now)
        return now

    def deadline(self, activity: str) -> float:
        """When the activity in hand must be over (seconds, monotonic)."""
        return deadline(self.sight, self.steps[activity])

    def next_move(self, pending: Sequence[Fact] = ()) -> Move:
        """What follows from the pending facts, from what is asked from outside, and from the journal."""
        now, pending = self.measure(), [*self._lost, *pending]
        saga = self._fold(self.saga, pending, now.wall)
        asked = self._host.demand(self.record, saga, held=is_held(self.saga.run, self.sight, self._worker))
        saga = self._fold(saga, asked, now.wall)
        _, followed, decision = settle(saga, self.steps, self.sight, now, self._worker)
        return Move([*pending, *asked, *followed], decision, now)

    def may_wait(self, move: Move) -> bool:
        """Whether the facts may ride on a later write: each of them is a tick, and what is to be done now is covered
        by an intent that is journalled, or touches nothing."""
        if not isinstance(move.decision, Act) or not all(isinstance(fact, Tick) for fact in move.facts):
            return False
        step, journal = self.steps[move.decision.activity], self._journal
        if step.looks_only:
            return True
        reserved = {entry.reservation for entry in journal.ledger}
        return self._is_ours(journal.run) and journal.is_open(step.phase) and reserved.issuperset(step.reserves)

    def tick(self, move: Move) -> None:
        """Take note of facts that may wait."""
        if not self.ticks:
            self._ticking_since = move.now.elapsed
        ticks = (replace(fact, at=move.now.wall) for fact in move.facts if isinstance(fact, Tick))
        self.ticks = (*self.ticks, *ticks)
        self.saga = self._fold(self._journal, self.ticks, move.now.wall)
        self._see(self.sight, move.now)

    @property
    def next_flush(self) -> float:
        """When the ticks are due to be journalled (seconds, monotonic); never if there are none."""
        return self._ticking_since + patience(_TICK, self._at_work())

    async def flush(self, *, at_once: bool = True) -> None:
        """Journal the ticks, if there are any; if not `at_once`, those that are due."""
        if self.ticks and (at_once or self.measure().elapsed >= self.next_flush):
            await self.commit([], self.measure())

    async def commit(self, facts: Sequence[Fact], now: Moment) -> None:
        """Journal the ticks and the facts. A record that changed elsewhere (its spec, an annotation) is read again and
        the same facts are journalled on it; a journal that changed raises JournalMoved."""
        async with self._lock:
            lost = Unavailable("the journal could not be written: the record keeps changing")
            for _ in range(_WRITE_TRIES):
                due = [*self.ticks, *facts]
                if not due:
                    return None  # a checkpoint that was written meanwhile took the ticks along
                saga = self._fold(self._journal, due, now.wall)
                try:
                    record = await self._host.write(self.record, saga, due, now.wall)
                except (Stale, Unavailable) as error:
                    lost = error if isinstance(error, Unavailable) else lost
                    before = self._journal
                    record = await self._host.refresh(self.record)
                    journal = self._host.saga(record)
                    if journal == saga:
                        return self._written(record, now)  # the answer was lost, the write was not
                    if journal != before:
                        raise JournalMoved from None
                    self._hold(record)
                else:
                    return self._written(record, now)
            raise lost

    def _written(self, record: R, now: Moment) -> None:
        self.ticks, self._lost, self._ticking_since = (), [], math.inf
        self._hold(record)
        self._see(self.sight, now)
        if self.saga.run is not None and self.saga.run.worker == self._worker.id:
            self.sight = replace(self.sight, heard=now.elapsed)
        self._confirmed = self.sight

    def keep(self) -> Kept:
        """What is to be known at the next look, if this one ended well."""
        return Kept(self._kept_sight(), self.ticks, self._ticking_since, self._journal if self.ticks else None)

    def keep_sight(self) -> Kept:
        """What is to be known at the next look if this one was cut off: the ticks are not made up for."""
        return Kept(self._kept_sight(), has_lost=bool(self.ticks or self._lost))

    def _kept_sight(self) -> Sight | None:
        run = self.saga.run
        return self.sight if run is not None and not run.finished else None

    def unsee(self) -> None:
        """The journal cannot be written: what was seen since it was counts for nothing, or a run that is well would be
        out of time when it can be written again."""
        self.sight = self._confirmed

    async def look(self) -> None:
        """Take note of a newer version of the record, if any. Raises JournalMoved if its journal is another."""
        async with self._lock:  # the echo of an own write may come before its answer
            newest = self._host.newest(self.record)
            if newest is self.record:
                return
            if self._host.saga(newest) != self._journal:
                raise JournalMoved
            self._hold(newest)

    def hush(self) -> None:
        """Another try begins, or waits for its turn: what was said last is not its word."""
        self._said = None

    def say(self, activity: str, detail: str, progress: int | None) -> None:
        """Note what the activity does; journalled with its next pulse."""
        self._said = Pulsed(activity, bounded(detail), progress)

    async def checkpoint(self, activity: str, name: str) -> None:
        """Journal a part of the activity as done."""
        await self.commit([Checkpointed(activity, name)], self.measure())

    @property
    def next_pulse(self) -> float:
        """When this worker's running activity is due to be journalled as alive (seconds, monotonic); never if there is
        none."""
        run = self.saga.run
        if run is None or run.heartbeat is None or run.worker != self._worker.id:
            return math.inf
        said, beat = self._said, run.heartbeat
        news = said is not None and (said.activity, said.detail) != (beat.activity, beat.detail)
        return self._next_news if news else self.sight.heard + PULSE

    @property
    def _next_news(self) -> float:
        """When news of the running activity may be journalled (seconds, monotonic)."""
        return self.sight.heard + patience(NEWS, self._at_work())

    def is_awaited(self) -> bool:
        """Whether news of the running activity would be journalled now."""
        now = self.measure()
        return now.elapsed >= self._next_news or self.is_late(now)

    def is_late(self, now: Moment) -> bool:
        """Whether the time of the activity in hand is nearly over: what is seen last is what its failure will name."""
        row = self.saga.in_hand
        return row is not None and now.elapsed + _LATE >= deadline(self.sight, self.steps[row.activity])

    async def pulse(self) -> None:
        """Journal the running activity as alive if that is due; its news at once when it is late."""
        now, run = self.measure(), self.saga.run
        if run is None or run.heartbeat is None:
            return
        beat = run.heartbeat
        said = self._said or Pulsed(beat.activity, beat.detail, beat.progress)
        if now.elapsed >= self.next_pulse or (self.is_late(now) and said.detail != beat.detail):
            await self.commit([said], now)
