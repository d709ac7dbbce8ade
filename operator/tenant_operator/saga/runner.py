"""The only loop: read, decide, journal the intent, act, journal the outcome."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, Generic

from tenant_operator.saga.activity import NotYet, Remains, Undone
from tenant_operator.saga.decide import Act, Rest, Undo, Wait, after_failure, compensation_failed
from tenant_operator.saga.errors import ActivityError, Unavailable
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import ActivityCompleted, CompensationCompleted, Fact, RemainsFound
from tenant_operator.saga.host import Gone, Host, JournalMoved, Now, Pulse, R
from tenant_operator.saga.session import NEWS, Session

_log = logging.getLogger(__name__)

_UNDO_TRY = timedelta(seconds=30)
"""Time that a try of a compensation has even when its deadline is past."""


class _Watched(Enum):
    OVER = auto()
    INTERRUPTED = auto()
    OVERDUE = auto()


class Runner(Generic[R]):
    """Carries sagas forward and backward. Keeps nothing between two calls: everything is in the journal."""

    def __init__(self, host: Host[R], worker: Worker, now: Now, *, jitter: random.Random | None = None) -> None:
        self._host = host
        self._worker = worker
        self._now = now
        self._jitter = jitter or random.Random()  # noqa: S311 (spreads retries, guards nothing)
        self._stopping = False

    def stop(self) -> None:
        """Begin no further activity: every run in hand comes back to its caller at its next journalled point."""
        self._stopping = True

    async def advance(self, record: R, attention: asyncio.Event) -> tuple[R, datetime | None]:
        """Take the saga of `record` as far as it goes now, looking at the record anew whenever `attention` is set.

        Returns the record as last journalled, and when to look again at the latest (None: only when something happens).
        May be cancelled anywhere; called again, it goes on from the journal. Raises Gone, Unavailable.
        """
        while True:
            session = Session(self._host, record, self._worker, self._now)
            try:
                again = await self._carry(session, attention)
            except JournalMoved:
                record = await self._host.refresh(record)
            else:
                return session.record, again

    async def _carry(self, session: Session[R], attention: asyncio.Event) -> datetime | None:
        outcome: list[Fact] = []
        while True:
            plan = session.plan(outcome)
            if plan.facts:
                await session.commit(plan.facts, plan.now)
                outcome = []
                continue
            match plan.decision:
                case Wait(until):
                    await session.pulse()
                    return min(until, session.next_pulse)
                case Act() | Undo() as work if not self._stopping:
                    tried = await self._try(session, work, attention)
                    if isinstance(tried, NotYet) and not attention.is_set():
                        return await self._wait(session, work, tried)
                    if attention.is_set():
                        attention.clear()
                        await session.look()
                    # An outcome counts even if the world asks for something else by now: it did happen.
                    outcome = [] if tried is None or isinstance(tried, NotYet) else [tried]
                case Rest() | Act() | Undo():
                    return None

    async def _try(self, session: Session[R], work: Act | Undo, attention: asyncio.Event) -> Fact | NotYet | None:
        """One try of an activity or a compensation. None: it was interrupted, decide again."""
        session.begin()
        begin: Callable[[R, str, Pulse], Coroutine[Any, Any, Undone]]
        begin = self._host.act if isinstance(work, Act) else self._host.undo
        task = asyncio.create_task(begin(session.record, work.activity, _Pulse(session, work.activity)))
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

    def _outcome(self, session: Session[R], work: Act | Undo, task: asyncio.Task[Undone]) -> Fact | NotYet:
        try:
            progress = task.result()
        except (JournalMoved, Gone):
            raise
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
            return ActivityCompleted(work.activity, progress.detail)
        return CompensationCompleted(work.activity, progress.detail)

    def _failed(self, session: Session[R], work: Act | Undo, error: Exception) -> Fact:
        return after_failure(session.saga, session.steps[work.activity], error, self._now(), self._jitter.random())

    async def _watch(
        self,
        session: Session[R],
        work: Act | Undo,
        task: asyncio.Task[Undone],
        attention: asyncio.Event,
    ) -> _Watched:
        """Stay with a running activity: keep its heartbeat; see when it is over, overdue, or no longer asked for."""
        due = work.deadline if isinstance(work, Act) else max(work.deadline, self._now() + _UNDO_TRY)
        pause = timedelta(0)
        while not task.done():
            bell = asyncio.create_task(attention.wait())
            now = self._now()
            # What an activity says is not heard at once, but not much later than it may be told.
            patience = (min(due, max(session.next_pulse, now + pause), now + NEWS) - now).total_seconds()
            try:
                await asyncio.wait({task, bell}, timeout=max(patience, 0.0), return_when=asyncio.FIRST_COMPLETED)
            finally:
                bell.cancel()
            if task.done():
                break
            if attention.is_set():
                attention.clear()
                await session.look()
                plan = session.plan()
                if plan.decision != work:
                    return _Watched.INTERRUPTED
                if plan.facts:  # a request that was refused, say: nobody should wait for the answer
                    await session.commit(plan.facts, plan.now)
            if self._now() >= due:
                return _Watched.OVERDUE
            try:
                await session.pulse()
                pause = timedelta(0)
            except Unavailable as error:  # no reason to stop what goes well: the next pulse may get through
                _log.warning("%s: no heartbeat: %s", work.activity, error)
                pause = NEWS
        return _Watched.OVER

    async def _wait(self, session: Session[R], work: Act | Undo, tried: NotYet) -> datetime:
        """Nothing to do but look again. Whoever waits holds no place in the queue; the journal tells what for."""
        now = self._now()
        step = session.steps[work.activity]
        if isinstance(work, Undo) and now >= work.deadline:
            row = session.saga.row(work.activity)
            failed = compensation_failed(
                row, step, f"still waiting: {tried.cause}", now, for_good=True, jitter=self._jitter.random()
            )
            await session.commit([failed], now)
            return failed.next_try_at
        session.say(work.activity, tried.cause, tried.progress)
        recheck = now + timedelta(seconds=tried.recheck_seconds)
        # The last looks before the deadline: what they saw is what the failure will name.
        await session.pulse(at_once=isinstance(work, Act) and recheck + NEWS >= work.deadline)
        return min(recheck, session.next_pulse, work.deadline if isinstance(work, Act) else recheck)


class _Pulse(Generic[R]):
    """The voice of one running activity."""

    def __init__(self, session: Session[R], activity: str) -> None:
        self._session = session
        self._activity = activity

    def heartbeat(self, detail: str, progress: int | None = None) -> None:
        self._session.say(self._activity, detail, progress)

    async def checkpoint(self, name: str) -> None:
        await self._session.checkpoint(self._activity, name)
