"""What this process measures of a run with a clock that nobody sets and that is no other machine's.

The times in the journal may have been written on another machine, or before somebody set the clock. Each is compared
with the own wall clock once, when it is first seen; from then on only the own monotonic clock counts.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import Fact
from tenant_operator.saga.model import Row, Run, Saga
from tenant_operator.saga.step import Step

SILENCE: Final = timedelta(seconds=30)
"""A worker that shows no sign of life for so long has lost its runs to whoever asks."""

COUNTED: Final = 15.0
"""Seconds between two looks that count for a timeout at most. Who waits is looked at more often: the rest was spent in
the queue, without an API server, or asleep."""

LAST_LOOK: Final = 5.0
"""Seconds that an activity still has after such a gap, once, if its time ran out meanwhile."""

_STEP_BACK: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment by both clocks: `wall` (UTC) is written down, `elapsed` (seconds, monotonic) is calculated with."""

    wall: datetime
    elapsed: float


@dataclass(frozen=True, slots=True)
class Sight:
    """A run as this process has seen it, in seconds of its monotonic clock.

    `at`: when it was last looked at, `wall` the same by the wall clock. `heard`: when its worker was last seen to show
    a sign of life. `began`: when the clock of the activity in hand began. `due`: when its next try is due. The rest
    tells what these were made of.
    """

    at: float
    wall: datetime
    heard: float = -math.inf
    began: float = 0.0
    due: float = -math.inf
    sign: Hashable = None
    clock: Hashable = None
    promise: Hashable = None
    extended: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What a worker knows of a saga beside the journal, from one look at it to the next: what it has `seen` of the run,
    the `ticks` that are to be journalled yet, since when (seconds, monotonic) and upon which `journal`, and whether
    earlier ones were lost because they could not be."""

    seen: Sight | None = None
    ticks: tuple[Fact, ...] = ()
    ticking_since: float = math.inf
    journal: Saga | None = None
    has_lost: bool = False


def look(saga: Saga, steps: Mapping[str, Step], before: Sight | None, now: Moment, worker: Worker) -> Sight:
    """The run as it is seen now, given how it was `before` (None: never seen in the life of this process)."""
    run, row = saga.run, saga.in_hand
    if run is None or run.finished:
        return Sight(now.elapsed, now.wall)
    sign = (run.id, run.worker, run.fence, run.resumed_at, run.heartbeat)
    if before is not None and before.sign == sign:
        heard = before.heard
    elif before is None and last_sign_of_life(run) < worker.started_at:
        heard = -math.inf
    else:
        heard = now.elapsed
    if row is None:
        return Sight(now.elapsed, now.wall, heard, sign=sign)
    step = steps[row.activity]
    promise = (run.id, row.activity, row.state, row.next_try_at)
    if before is not None and before.promise == promise:
        due = before.due
    elif row.next_try_at is None:
        due = -math.inf
    else:
        longest = max(step.retry.maximum, step.retry.stalled_every)
        due = now.elapsed + min(row.next_try_at - now.wall, longest).total_seconds()
    began, clock, extended = _began(run, row, step, before, now, due)
    return Sight(now.elapsed, now.wall, heard, began, due, sign, clock, promise, extended)


def _began(
    run: Run, row: Row, step: Step, before: Sight | None, now: Moment, due: float
) -> tuple[float, Hashable, bool]:
    written = row.resumed_at or row.started_at or now.wall
    clock = (run.id, row.activity, row.state, written)
    if before is None or before.clock != clock:
        if row.next_try_at is not None and row.resumed_at == row.next_try_at:
            return due, clock, False  # what is tried for ever has a fresh clock for each try
        return now.elapsed - max(now.wall - written, timedelta(0)).total_seconds(), clock, False
    began = before.began + max(now.elapsed - before.at - COUNTED, 0.0)
    seconds = step.timeout.total_seconds()
    was_in_time, is_late = before.at < before.began + seconds, now.elapsed >= began + seconds
    if now.elapsed - before.at > COUNTED and was_in_time and is_late and not before.extended:
        return now.elapsed - seconds + min(LAST_LOOK, seconds), clock, True
    return began, clock, before.extended


def deadline(sight: Sight, step: Step) -> float:
    """When the activity in hand must be over: its clock begins with it, and afresh with a worker that takes over."""
    return sight.began + step.timeout.total_seconds()


def is_held(run: Run | None, sight: Sight, worker: Worker) -> bool:
    """Whether a living worker has the run in hand."""
    if run is None or run.finished:
        return False
    return run.worker == worker.id or sight.at - sight.heard < SILENCE.total_seconds()


def last_sign_of_life(run: Run) -> datetime:
    """When the worker of a run was last heard of, as it wrote itself."""
    times = [run.started_at, run.resumed_at, run.heartbeat.at if run.heartbeat else None]
    return max(time for time in times if time is not None)


def seems_held(run: Run | None, now: datetime) -> bool:
    """The same for whoever has not watched the run and has only the times in the journal to go by. A time far ahead of
    the own clock says nothing."""
    return run is not None and not run.finished and abs(now - last_sign_of_life(run)) < SILENCE


def next_time(wall: datetime, saga: Saga) -> datetime:
    """The time to write into the journal: it does not go back where the clock did so by a little, or is a little behind
    that of the worker before. A clock that is far behind what is written is believed."""
    run = saga.run
    if run is None:
        return wall
    written = max(last_sign_of_life(run), run.finished_at or run.started_at)
    return written + timedelta(milliseconds=1) if wall < written < wall + _STEP_BACK else wall
