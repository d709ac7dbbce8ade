"""What is next: given the saga as it is and the time, one answer. Pure: whatever woke the engine does not matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, assert_never

from tenant_operator.saga.errors import ActivityError, Outage
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
from tenant_operator.saga.model import Direction, Kind, Outcome, Reservation, Row, RowState, Run, Saga
from tenant_operator.saga.sight import SILENCE, Moment, Sight, deadline, is_held, look
from tenant_operator.saga.step import Step

_LAST_TRY: Final = timedelta(seconds=2)
"""So long before its deadline an activity has its last try, if the pause after the one before would pass it."""


@dataclass(frozen=True, slots=True)
class Rest:
    """No run, or a finished one: there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (seconds, monotonic)."""

    until: float


@dataclass(frozen=True, slots=True)
class Record:
    """Something follows from the journal alone: write it down."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Act:
    """Run the activity (its intent is journalled); all its tries must be over by `deadline` (seconds, monotonic)."""

    activity: str
    deadline: float = field(compare=False)


@dataclass(frozen=True, slots=True)
class Undo:
    """Compensate the activity (its intent is journalled). After `deadline` it counts as stalled, and goes on."""

    activity: str
    deadline: float = field(compare=False)


Decision = Rest | Wait | Record | Act | Undo


def decide(saga: Saga, steps: Mapping[str, Step], sight: Sight, worker: Worker) -> Decision:
    """The next step of the saga, as it was seen just now, in the hands of `worker`."""
    run = saga.run
    if run is None or run.finished:
        return Rest()
    if run.worker != worker.id:
        return _claim(saga, run, steps, sight, worker)
    match run.direction:
        case Direction.FORWARD:
            return _forward(saga, steps, sight)
        case Direction.BACKWARD:
            return _backward(saga, run, steps, sight)
        case _:
            assert_never(run.direction)


def settle(
    saga: Saga, steps: Mapping[str, Step], sight: Sight | None, now: Moment, worker: Worker
) -> tuple[Saga, list[Fact], Decision]:
    """Follow the decisions as far as the journal alone carries: the saga there, the facts passed, what to do next."""
    facts: list[Fact] = []
    sight = look(saga, steps, sight, now, worker)
    while isinstance(decision := decide(saga, steps, sight, worker), Record):
        saga = evolve(saga, decision.fact, now.wall, worker, steps)
        facts.append(decision.fact)
        sight = look(saga, steps, sight, now, worker)
    return saga, facts, decision


def fold(saga: Saga, facts: Sequence[Fact], steps: Mapping[str, Step], now: datetime, worker: Worker) -> Saga:
    """The saga after all `facts`."""
    for fact in facts:
        saga = evolve(saga, fact, now, worker, steps)
    return saga


def after_failure(saga: Saga, step: Step, error: Exception, sight: Sight, now: Moment, jitter: float) -> Fact:
    """What a failed try amounts to: another try, the failure of the activity, or a stalled compensation."""
    row = saga.row(step.activity)
    # What an unforeseen error says is for the log alone: nobody has seen to it that it holds no secret.
    message = str(error) if isinstance(error, ActivityError) else f"unexpected {type(error).__name__}; see the log"
    can_heal = error.can_heal if isinstance(error, ActivityError) else True
    outage = isinstance(error, Outage)
    left = timedelta(seconds=deadline(sight, step) - now.elapsed)
    if row.state is RowState.COMPENSATING:
        for_good = not can_heal or left <= timedelta(0)
        return compensation_failed(row, step, message, now, outage=outage, for_good=for_good, jitter=jitter)
    tries = row.tries + 1
    told = f"{tries} {'try' if tries == 1 else 'tries'}"
    last = left - min(_LAST_TRY, step.timeout / 10)
    given_up = message
    if can_heal and not outage and row.spent + 1 >= step.retry.max_tries:
        given_up = f"{message} (gave up after {told})"
    elif can_heal and last <= timedelta(0):
        given_up = f"{_timed_out(step, message)} ({told})"
    elif can_heal:
        pause = step.retry.backoff(row.outages + 1 if outage else row.spent + 1, jitter)
        return TryFailed(step.activity, message, now.wall + min(pause, last), outage=outage)
    if _never_turns_back(saga.run):
        return _stalled_try(row, step, message, now.wall)
    return ActivityFailed(step.activity, given_up, step.best_effort)


def _never_turns_back(run: Run | None) -> bool:
    """Whether the run goes on, whatever fails: an adoption did not make what it would have to undo."""
    return run is not None and run.kind is Kind.ADOPT


def _stalled_try(row: Row, step: Step, message: str, now: datetime) -> TryFailed:
    """A failed try whose budget is used up, of an activity that is tried for ever."""
    due = now + step.retry.stalled_every
    return TryFailed(step.activity, message, due, stalled=True, repeated=is_spent(row, step))


def compensation_failed(
    row: Row, step: Step, message: str, now: Moment, *, outage: bool, for_good: bool, jitter: float
) -> CompensationTryFailed:
    """A failed try to undo: retried with backoff within its budget (none left if `for_good`), then slowly for ever. An
    outage uses up none of it, and is tried over as soon as ever."""
    outages = row.outages + outage
    spent = row.spent + (not outage)
    if for_good:
        spent = max(spent, step.retry.max_tries)
    stalled = spent >= step.retry.max_tries
    if outage:
        pause = step.retry.backoff(outages, jitter)
    else:
        pause = step.retry.stalled_every if stalled else step.retry.backoff(spent, jitter)
    return CompensationTryFailed(
        step.activity,
        message,
        now.wall + pause,
        tries=spent + outages,
        outages=outages,
        stalled=stalled,
        repeated=is_spent(row, step),
    )


def is_spent(row: Row, step: Step) -> bool:
    """Whether the budget of tries is used up."""
    return row.spent >= step.retry.max_tries


def is_stalled(saga: Saga, steps: Mapping[str, Step]) -> Row | None:
    """The row that has used up its budget and goes on being tried, if there is one: of a rollback or an adoption."""
    if saga.run is None or saga.run.finished:
        return None
    row = saga.in_hand
    tried = RowState.RUNNING if _never_turns_back(saga.run) else RowState.COMPENSATING
    return row if row is not None and row.state is tried and is_spent(row, steps[row.activity]) else None


def _claim(saga: Saga, run: Run, steps: Mapping[str, Step], sight: Sight, worker: Worker) -> Decision:
    """Another worker's run: taken over if that worker is silent, or not heard of since this one came to life."""
    if is_held(run, sight, worker):
        return Wait(sight.heard + SILENCE.total_seconds())
    row = saga.in_hand
    return Record(RunTakenOver(fresh_clock=row is None or row.takeovers < steps[row.activity].max_takeovers))


def _forward(saga: Saga, steps: Mapping[str, Step], sight: Sight) -> Decision:
    for row in saga.timeline:
        step = steps[row.activity]
        match row.state:
            case RowState.PENDING:
                return Record(ActivityStarted(row.activity, _intent(saga, row, steps)))
            case RowState.RUNNING:
                due = deadline(sight, step)
                if sight.at >= due:
                    error = _timed_out(step, row.message)
                    if _never_turns_back(saga.run):
                        return Record(_stalled_try(row, step, error, sight.wall))
                    return Record(ActivityFailed(row.activity, error, step.best_effort))
                return Wait(min(sight.due, due)) if sight.at < sight.due else Act(row.activity, due)
            case _:
                continue
    return Record(RunFinished(Outcome.COMPLETED))


def _intent(saga: Saga, row: Row, steps: Mapping[str, Step]) -> tuple[tuple[str, Reservation], ...]:
    """What enters the ledger with the activity: all that its phase will hold, if it is the first of it."""
    phase = [row] if saga.is_open(row.phase) else [each for each in saga.timeline if each.phase == row.phase]
    return tuple((each.activity, reserved) for each in phase for reserved in steps[each.activity].reserves)


def _backward(saga: Saga, run: Run, steps: Mapping[str, Step], sight: Sight) -> Decision:
    for row in reversed(saga.timeline):
        match row.state:
            case RowState.RUNNING | RowState.COMPLETED | RowState.FAILED:
                return Record(CompensationStarted(row.activity))
            case RowState.PENDING if row.takeovers or any(entry.activity == row.activity for entry in saga.ledger):
                # It may have been run and not journalled, or what it holds is held since before a reset.
                return Record(CompensationStarted(row.activity))
            case RowState.COMPENSATING:
                if sight.at < sight.due:
                    return Wait(sight.due)
                return Undo(row.activity, deadline(sight, steps[row.activity]))
            case _:
                continue
    if run.kind is Kind.RELEASE:
        return Record(RunFinished(Outcome.RELEASED))
    return Record(RunFinished(Outcome.FAILED if run.failed_activity else Outcome.CANCELLED))


def _timed_out(step: Step, cause: str) -> str:
    return f"timed out after {_seconds(step.timeout)}{f': {cause}' if cause else ''}"


def _seconds(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"
