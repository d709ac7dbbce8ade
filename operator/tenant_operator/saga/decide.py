"""What is next: given the saga as it is and the time, one answer. Pure: whatever woke the engine does not matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from tenant_operator.saga.activity import Step
from tenant_operator.saga.errors import ActivityError
from tenant_operator.saga.evolve import Worker, evolve
from tenant_operator.saga.facts import (
    ActivityFailed,
    ActivityStarted,
    CompensationStarted,
    CompensationTryFailed,
    Fact,
    RunFinished,
    RunTakenOver,
    TryFailed,
)
from tenant_operator.saga.model import Direction, Kind, Outcome, Row, RowState, Run, Saga

SILENCE = timedelta(seconds=30)
"""A worker that shows no sign of life for so long has lost its runs to whoever asks."""


@dataclass(frozen=True, slots=True)
class Rest:
    """No run, or a finished one: there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until`."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """Something follows from the journal alone: write it down."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Act:
    """Run the activity (its intent is journalled); all its tries must be over by `deadline`."""

    activity: str
    deadline: datetime


@dataclass(frozen=True, slots=True)
class Undo:
    """Compensate the activity (its intent is journalled). After `deadline` it counts as stalled, and goes on."""

    activity: str
    deadline: datetime


Decision = Rest | Wait | Record | Act | Undo


def decide(saga: Saga, steps: Mapping[str, Step], now: datetime, worker: Worker) -> Decision:
    """The next step of the saga in the hands of `worker`."""
    run = saga.run
    if run is None or run.finished:
        return Rest()
    if run.worker != worker.id:
        return _claim(run, now, worker)
    match run.direction:
        case Direction.FORWARD:
            return _forward(saga, run, steps, now)
        case Direction.BACKWARD:
            return _backward(saga, run, steps, now)
        case _:
            assert_never(run.direction)


def settle(saga: Saga, steps: Mapping[str, Step], now: datetime, worker: Worker) -> tuple[Saga, list[Fact], Decision]:
    """Follow the decisions as far as the journal alone carries: the saga there, the facts passed, what to do next."""
    facts: list[Fact] = []
    while isinstance(decision := decide(saga, steps, now, worker), Record):
        saga = evolve(saga, decision.fact, now, worker, steps)
        facts.append(decision.fact)
    return saga, facts, decision


def fold(saga: Saga, facts: Sequence[Fact], steps: Mapping[str, Step], now: datetime, worker: Worker) -> Saga:
    """The saga after all `facts`."""
    for fact in facts:
        saga = evolve(saga, fact, now, worker, steps)
    return saga


def after_failure(saga: Saga, step: Step, error: Exception, now: datetime, jitter: float) -> Fact:
    """What a failed try amounts to: another try, the failure of the activity, or a stalled compensation."""
    row = saga.row(step.activity)
    # What an unforeseen error says is for the log alone: nobody has seen to it that it holds no secret.
    message = str(error) if isinstance(error, ActivityError) else f"unexpected {type(error).__name__}; see the log"
    can_heal = error.can_heal if isinstance(error, ActivityError) else True
    tries = row.tries + 1
    if row.state is RowState.COMPENSATING:
        for_good = not can_heal or now >= deadline(saga, step)
        return compensation_failed(row, step, message, now, for_good=for_good, jitter=jitter)
    next_try_at = now + step.retry.backoff(tries, jitter)
    spent = not can_heal or tries >= step.retry.max_tries or next_try_at >= deadline(saga, step)
    if spent and _never_turns_back(saga.run):
        return _stalled_try(row, step, message, now)
    if spent:
        if can_heal:
            message = f"{message} (gave up after {tries} {'try' if tries == 1 else 'tries'})"
        return ActivityFailed(step.activity, message, step.best_effort)
    return TryFailed(step.activity, message, next_try_at)


def _never_turns_back(run: Run | None) -> bool:
    """Whether the run goes on, whatever fails: an adoption did not make what it would have to undo."""
    return run is not None and run.kind is Kind.ADOPT


def _stalled_try(row: Row, step: Step, message: str, now: datetime) -> TryFailed:
    """A failed try whose budget is used up, of an activity that is tried for ever."""
    repeated = row.tries >= step.retry.max_tries
    return TryFailed(step.activity, message, now + step.retry.stalled_every, stalled=True, repeated=repeated)


def compensation_failed(
    row: Row, step: Step, message: str, now: datetime, *, for_good: bool, jitter: float
) -> CompensationTryFailed:
    """A failed try to undo: retried with backoff within its budget (none left if `for_good`), then slowly for ever."""
    repeated = row.tries >= step.retry.max_tries
    tries = max(row.tries + 1, step.retry.max_tries) if for_good else row.tries + 1
    stalled = tries >= step.retry.max_tries
    pause = step.retry.stalled_every if stalled else step.retry.backoff(tries, jitter)
    return CompensationTryFailed(step.activity, message, now + pause, tries, stalled, repeated)


def deadline(saga: Saga, step: Step) -> datetime:
    """When the running activity must be over: its clock starts with it, and afresh with a worker that takes over."""
    row, run = saga.row(step.activity), saga.run
    assert run is not None and row.started_at is not None  # noqa: S101 (only asked for a running row)
    started = max(row.started_at, run.resumed_at) if run.resumed_at else row.started_at
    return started + step.timeout


def is_stalled(saga: Saga, steps: Mapping[str, Step]) -> Row | None:
    """The row that has used up its budget and goes on being tried, if there is one: of a rollback or an adoption."""
    if saga.run is None or saga.run.finished:
        return None
    tried = RowState.RUNNING if _never_turns_back(saga.run) else RowState.COMPENSATING
    return next(
        (row for row in saga.timeline if row.state is tried and row.tries >= steps[row.activity].retry.max_tries),
        None,
    )


def last_sign_of_life(run: Run) -> datetime:
    """When the worker of a run was last heard of."""
    times = [run.started_at, run.resumed_at, run.heartbeat.at if run.heartbeat else None]
    return max(time for time in times if time is not None)


def _claim(run: Run, now: datetime, worker: Worker) -> Decision:
    """Another worker's run: taken over if that worker is silent, or not heard of since this one came to life."""
    heard = last_sign_of_life(run)
    if heard < worker.started_at or now - heard >= SILENCE:
        return Record(RunTakenOver())
    return Wait(heard + SILENCE)


def _forward(saga: Saga, run: Run, steps: Mapping[str, Step], now: datetime) -> Decision:
    for row in saga.timeline:
        step = steps[row.activity]
        match row.state:
            case RowState.PENDING:
                return Record(ActivityStarted(row.activity, step.reserves))
            case RowState.RUNNING:
                due = deadline(saga, step)
                if now >= due:
                    cause = f": {row.message}" if row.message else ""
                    error = f"timed out after {_seconds(step.timeout)}{cause}"
                    if _never_turns_back(run):
                        return Record(_stalled_try(row, step, error, now))
                    return Record(ActivityFailed(row.activity, error, step.best_effort))
                if row.next_try_at is not None and now < row.next_try_at:
                    return Wait(min(row.next_try_at, due))
                return Act(row.activity, due)
            case _:
                continue
    return Record(RunFinished(Outcome.COMPLETED))


def _backward(saga: Saga, run: Run, steps: Mapping[str, Step], now: datetime) -> Decision:
    for row in reversed(saga.timeline):
        match row.state:
            case RowState.RUNNING | RowState.COMPLETED | RowState.FAILED:
                return Record(CompensationStarted(row.activity))
            case RowState.PENDING if any(entry.activity == row.activity for entry in saga.ledger):
                return Record(CompensationStarted(row.activity))  # held since before a reset
            case RowState.COMPENSATING:
                if row.next_try_at is not None and now < row.next_try_at:
                    return Wait(row.next_try_at)
                return Undo(row.activity, deadline(saga, steps[row.activity]))
            case _:
                continue
    if run.kind is Kind.RELEASE:
        return Record(RunFinished(Outcome.RELEASED))
    return Record(RunFinished(Outcome.FAILED if run.failed_activity else Outcome.CANCELLED))


def _seconds(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"
