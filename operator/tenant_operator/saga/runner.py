"""The only loop: read, decide, journal the intent, act, journal the outcome."""

import asyncio
import logging
import math
import random
from collections.abc import Coroutine
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Final, Generic

from tenant_operator.saga.decide import Act, Rest, Undo, Wait, after_failure, compensation_failed, is_spent
from tenant_operator.saga.errors import ActivityError, Gone, JournalMoved, NotAsked, Unavailable
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import ActivityCompleted, CompensationCompleted, Fact, RemainsFound
from tenant_operator.saga.host import Clock, Host, R
from tenant_operator.saga.session import NEWS, Session
from tenant_operator.saga.sight import Kept
from tenant_operator.saga.step import NotYet, Remains, Undone

_log = logging.getLogger(__name__)

_UNDO_TRY: Final = 30.0
"""Seconds that a try of a compensation has even when its deadline is past."""

_SPARED: Final = 10.0
"""Seconds after which a saga looks again whether a server is back, should nobody tell."""


class _Watched(Enum):
    OVER = auto()
    INTERRUPTED = auto()
    OVERDUE = auto()


class Runner(Generic[R]):
    """Carries sagas forward and backward. Everything is in the journal; the host keeps from one call to the next only
    what was measured of the runs in hand, which no journal can tell."""

    def __init__(self, host: Host[R], worker: Worker, clock: Clock, *, jitter: random.Random | None = None) -> None:
        self._host = host
        self._worker = worker
        self._clock = clock
        self._at_work = 0
        self._jitter = jitter or random.Random()  # noqa: S311 (spreads retries, guards nothing)
        self._stopping = False

    def stop(self) -> None:
        """Begin no further activity: every run in hand comes back to its caller at its next journalled point."""
        self._stopping = True

    async def advance(self, record: R, attention: asyncio.Event) -> tuple[R, float | None]:
        """Take the saga of `record` as far as it goes now, looking at the record anew whenever `attention` is set.

        Returns the record as last journalled, and when to look again at the latest (seconds of the monotonic clock;
        None: only when something happens). May be cancelled anywhere; called again, it goes on from the journal. Raises
        Gone, Unavailable.
        """
        self._at_work += 1
        try:
            return await self._advance(record, attention)
        finally:
            self._at_work -= 1

    async def _advance(self, record: R, attention: asyncio.Event) -> tuple[R, float | None]:
        while True:
            kept = self._host.kept(record) or Kept()
            self._host.keep(record, None)  # what nothing can be made of is not tried twice
            session = Session(self._host, record, self._worker, self._clock, kept, at_work=lambda: self._at_work)
            keep = session.keep_sight
            try:
                again = await self._carry(session, attention)
                keep = session.keep
                return session.record, again
            except JournalMoved:
                record = await self._host.refresh(record)
            except Unavailable:
                session.unsee()
                raise
            finally:
                left = keep()
                self._host.keep(record, left if left != Kept() else None)

    async def _carry(self, session: Session[R], attention: asyncio.Event) -> float | None:
        outcome: list[Fact] = []
        while True:
            move = session.next_move(outcome)
            if move.facts:
                if session.may_wait(move):
                    session.tick(move)
                else:
                    await session.commit(move.facts, move.now)
                outcome = []
                continue
            match move.decision:
                case Wait(until):
                    await session.flush()
                    session.hush()
                    await session.pulse()
                    return min(until, session.next_pulse)
                case Act() | Undo() as work if self._may_act(session.record):
                    tried = await self._try(session, work, attention)
                    if isinstance(tried, NotYet | NotAsked) and not attention.is_set():
                        return await self._wait(session, work, tried)
                    if attention.is_set():
                        attention.clear()
                        await session.look()
                    # An outcome counts even if the world asks for something else by now: it did happen.
                    outcome = [] if tried is None or isinstance(tried, NotYet | NotAsked) else [tried]
                case Rest() | Act() | Undo():
                    await session.flush()
                    return None

    def _may_act(self, record: R) -> bool:
        return not self._stopping and self._host.mine(record)

    async def _try(
        self, session: Session[R], work: Act | Undo, attention: asyncio.Event
    ) -> Fact | NotYet | NotAsked | None:
        """One try of an activity or a compensation. None: it was interrupted, decide again."""
        session.hush()
        pulse = _Pulse(session, work.activity)
        begun: Coroutine[Any, Any, Undone]
        if isinstance(work, Act):
            begun = self._host.act(session.record, session.saga, session.ticks, work.activity, pulse)
        else:
            begun = self._host.undo(session.record, work.activity, pulse)
        task = asyncio.create_task(begun)
        try:
            match await self._watch(session, work, task, attention):
                case _Watched.OVER:
                    return self._outcome(session, work, task)
                case _Watched.OVERDUE if isinstance(work, Undo):
                    return self._failed(session, work, Unavailable("the other side gave no answer in time"))
                case _Watched.OVERDUE | _Watched.INTERRUPTED:
                    return None
        finally:
            # A critical section of the activity may finish first: whoever wrote it keeps it short.
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()

    def _outcome(self, session: Session[R], work: Act | Undo, task: asyncio.Task[Undone]) -> Fact | NotYet | NotAsked:
        try:
            progress = task.result()
        except (JournalMoved, Gone):
            raise
        except NotAsked as spared:
            return spared
        except asyncio.CancelledError:  # not by this runner: something inside the activity was
            return self._failed(session, work, Unavailable("the activity was interrupted from within"))
        except Exception as error:  # an activity may fail with anything, the saga must not
            if not isinstance(error, ActivityError):
                _log.exception("%s failed unexpectedly", work.activity)
            return self._failed(session, work, error)
        if isinstance(progress, NotYet):
            return progress
        if isinstance(progress, Remains):
            return RemainsFound(work.activity, progress.found)
        if isinstance(work, Act):
            return ActivityCompleted(work.activity, progress.detail, progress.output)
        return CompensationCompleted(work.activity, progress.detail)

    def _failed(self, session: Session[R], work: Act | Undo, error: Exception) -> Fact:
        now = session.measure()
        step = session.steps[work.activity]
        return after_failure(session.saga, step, error, session.sight, now, self._jitter.random())

    async def _watch(
        self,
        session: Session[R],
        work: Act | Undo,
        task: asyncio.Task[Undone],
        attention: asyncio.Event,
    ) -> _Watched:
        """Stay with a running activity: keep its heartbeat; see when it is over, overdue, or no longer asked for."""
        least = session.measure().elapsed + _UNDO_TRY if isinstance(work, Undo) else 0.0
        pause = 0.0
        while not task.done():
            bell = asyncio.create_task(attention.wait())
            now = session.measure().elapsed
            due = max(session.deadline(work.activity), least)
            # What an activity says is not heard at once, but not much later than it may be told.
            patience = min(due, max(min(session.next_pulse, session.next_flush), now + pause), now + NEWS) - now
            try:
                await asyncio.wait({task, bell}, timeout=max(patience, 0.0), return_when=asyncio.FIRST_COMPLETED)
            finally:
                bell.cancel()
            if task.done():
                break
            if attention.is_set():
                attention.clear()
                await session.look()
                move = session.next_move()
                if move.decision != work:
                    return _Watched.INTERRUPTED
                if move.facts:  # a request that was refused, say: nobody should wait for the answer
                    await session.commit(move.facts, move.now)
            if session.measure().elapsed >= max(session.deadline(work.activity), least):
                return _Watched.OVERDUE
            try:
                await session.pulse()
                await session.flush(at_once=False)
                pause = 0.0
            except Unavailable as error:  # no reason to stop what goes well: the next pulse may get through
                _log.warning("%s: no heartbeat: %s", work.activity, error)
                pause = NEWS
        return _Watched.OVER

    async def _wait(self, session: Session[R], work: Act | Undo, tried: NotYet | NotAsked) -> float:
        """Nothing to do but look again. Whoever waits holds no place in the queue; the journal tells what for."""
        now, step, row = session.measure(), session.steps[work.activity], session.saga.row(work.activity)
        cause, progress, seconds = (
            (tried.cause, tried.progress, tried.recheck_seconds)
            if isinstance(tried, NotYet)
            else (tried.message, None, _SPARED)
        )
        overdue = isinstance(work, Undo) and now.elapsed >= session.deadline(work.activity)
        if overdue and (isinstance(tried, NotYet) or not is_spent(row, step)):
            failed = compensation_failed(
                row, step, f"still waiting: {cause}", now, outage=False, for_good=True, jitter=self._jitter.random()
            )
            if isinstance(tried, NotYet):
                await session.commit([failed], now)
                return session.sight.due
            # It does not wait for a time, but for the server: told once.
            await session.commit([replace(failed, next_try_at=None)], now)
        session.say(work.activity, cause, progress)
        await session.pulse()
        await session.flush(at_once=False)
        latest = session.deadline(work.activity) if isinstance(work, Act) else math.inf
        return min(now.elapsed + seconds, session.next_pulse, session.next_flush, latest)


class _Pulse(Generic[R]):
    """The voice of one running activity."""

    def __init__(self, session: Session[R], activity: str) -> None:
        self._session = session
        self._activity = activity

    def heartbeat(self, detail: str, progress: int | None = None) -> None:
        self._session.say(self._activity, detail, progress)

    def is_awaited(self) -> bool:
        return self._session.is_awaited()

    async def checkpoint(self, name: str) -> None:
        await self._session.checkpoint(self._activity, name)
