"""How each fact changes the saga. Pure: the same saga, fact and time give the same saga."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import assert_never

from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    Checkpointed,
    CompensationCompleted,
    CompensationStarted,
    CompensationTryFailed,
    Fact,
    HistoryReset,
    Pulsed,
    RemainsFound,
    RequestTaken,
    RunFinished,
    RunReversed,
    RunStarted,
    RunTakenOver,
    TicksLost,
    TryFailed,
)
from tenant_operator.saga.model import (
    Direction,
    Entry,
    EntryState,
    FailedTry,
    Heartbeat,
    Kind,
    Outcome,
    PastRun,
    Row,
    RowState,
    Run,
    Saga,
)
from tenant_operator.saga.step import Step
from tenant_operator.text import cut

KEPT_ATTEMPTS = 5
KEPT_ERRORS = 20
MESSAGE_LIMIT = 1000
"""Characters of a message that the journal keeps."""

RELEASED_AGAIN = "released again"
"""The checkpoint of the step that verifies: what it found was released once more."""

_UNTOUCHED = (RowState.PENDING, RowState.SKIPPED, RowState.COMPENSATED)


@dataclass(frozen=True, slots=True)
class Worker:
    """Who carries a run: `fence` grows with every change of hands, `started_at` is when this worker came to life."""

    id: str
    fence: int
    started_at: datetime


def bounded(message: str) -> str:
    """The message, cut to what the journal keeps."""
    return cut(message, MESSAGE_LIMIT)


def evolve(saga: Saga, fact: Fact, now: datetime, worker: Worker, steps: Mapping[str, Step]) -> Saga:
    """The saga after `fact` happened at `now` in the hands of `worker`. `steps`, in order, make a new run's rows."""
    match fact:
        case RunStarted():
            return _started(saga, fact, fact.at or now, worker, steps)
        case TicksLost():
            return _unsure(saga)
        case RunTakenOver():
            saga = _with_run(_unsure(saga), worker=worker.id, fence=worker.fence, resumed_at=now)
            row = saga.in_hand
            return saga if row is None else _with_row(saga, row.activity, lambda row: _taken_over(row, fact, now))
        case RunReversed() if saga.run is not None and saga.run.kind is Kind.ADOPT:
            return saga  # it has no way back: what it did not make is not its own to undo
        case RunReversed():
            running = next((row.activity for row in saga.timeline if row.state is RowState.RUNNING), None)
            saga = saga if saga.run is not None and saga.run.worker == worker.id else _unsure(saga)
            return _with_run(
                _unreserved(saga),
                direction=Direction.BACKWARD,
                reason=fact.reason,
                requested_by=fact.requested_by,
                cancelled_activity=running,
            )
        case RunFinished():
            return _finished(saga, fact.outcome, now)
        case HistoryReset():
            return Saga(attempt=saga.attempt, ledger=saga.ledger, last_request=saga.last_request)
        case RequestTaken():
            return replace(saga, last_request=fact.request)
        case ActivityStarted():
            at = fact.at or now
            begun = partial(replace, state=RowState.RUNNING, started_at=at, takeovers=0)
            saga = _with_row(saga, fact.activity, begun)
            known = {entry.reservation for entry in saga.ledger}
            entries = tuple(
                Entry(reservation, activity, EntryState.ALLOCATING, at, at)
                for activity, reservation in fact.reserves
                if reservation not in known
            )
            return _beat(replace(saga, ledger=saga.ledger + entries), fact.activity, "started", None, at)
        case ActivityCompleted():
            at = fact.at or now
            saga = _with_row(saga, fact.activity, lambda row: _ended(row, RowState.COMPLETED, fact.detail, at))
            return _with_entries(saga, fact.activity, EntryState.ALLOCATED, at)
        case TryFailed():
            saga = _with_error(saga, fact.activity, fact.error, now)
            saga = _with_row(
                saga,
                fact.activity,
                lambda row: replace(
                    row,
                    tries=max(row.tries + 1, steps[row.activity].retry.max_tries + row.outages)
                    if fact.stalled
                    else row.tries + 1,
                    outages=row.outages + fact.outage,
                    resumed_at=fact.next_try_at if fact.stalled else row.resumed_at,  # a fresh clock
                    next_try_at=fact.next_try_at,
                    message=bounded(fact.error),
                ),
            )
            return _beat(saga, fact.activity, f"waiting to try again: {fact.error}", None, now)
        case ActivityFailed():
            saga = _with_error(saga, fact.activity, fact.error, now)
            saga = _with_row(
                saga,
                fact.activity,
                lambda row: replace(_ended(row, RowState.FAILED, fact.error, now), tries=row.tries + 1),
            )
            if fact.best_effort:
                return saga
            return _with_run(
                _unreserved(saga),
                direction=Direction.BACKWARD,
                reason="Failed",
                failed_activity=fact.activity,
                error=bounded(fact.error),
            )
        case CompensationStarted():
            saga = _with_row(
                saga,
                fact.activity,
                lambda row: replace(
                    row,
                    state=RowState.COMPENSATING,
                    started_at=now,
                    completed_at=None,
                    tries=0,
                    outages=0,
                    next_try_at=None,
                    takeovers=0,
                    resumed_at=None,
                ),
            )
            saga = _with_entries(saga, fact.activity, EntryState.RELEASING, now)
            return _beat(saga, fact.activity, "rolling back", None, now)
        case CompensationCompleted():
            saga = _with_row(saga, fact.activity, lambda row: _ended(row, RowState.COMPENSATED, fact.detail, now))
            return replace(saga, ledger=tuple(e for e in saga.ledger if e.activity != fact.activity))
        case CompensationTryFailed():
            saga = _with_error(saga, fact.activity, fact.error, now)
            saga = _with_row(
                saga,
                fact.activity,
                lambda row: replace(
                    row,
                    tries=fact.tries,
                    outages=fact.outages,
                    next_try_at=fact.next_try_at,
                    message=bounded(fact.error),
                ),
            )
            if fact.stalled:
                saga = _with_entries(saga, fact.activity, EntryState.RELEASE_FAILED, now)
            return _beat(saga, fact.activity, f"waiting to try again: {fact.error}", None, now)
        case RemainsFound():
            return replace(saga, timeline=tuple(_held_again(row, fact.activity, steps) for row in saga.timeline))
        case Pulsed():
            beat = saga.run.heartbeat if saga.run else None
            if beat is None or bounded(fact.detail) != beat.detail:  # no news: the row tells why the last try failed
                saga = _with_row(
                    saga, fact.activity, lambda row: replace(row, message=bounded(fact.detail), next_try_at=None)
                )
            return _beat(saga, fact.activity, fact.detail, fact.progress, now)
        case Checkpointed():
            return _with_row(
                saga,
                fact.activity,
                lambda row: replace(row, checkpoints=(*row.checkpoints, fact.checkpoint)),
            )
        case _:
            assert_never(fact)


def _started(saga: Saga, fact: RunStarted, now: datetime, worker: Worker, steps: Mapping[str, Step]) -> Saga:
    if saga.run is not None and not saga.run.finished:
        # A tenant that serves while its emails go out is complete; anything else is cut off.
        complete = saga.run.kind is Kind.PROVISION and fact.kind is Kind.RELEASE
        saga = saga if saga.run.worker == worker.id else _unsure(saga)
        saga = _finished(saga, Outcome.COMPLETED if complete else Outcome.CANCELLED, now)
    release = fact.kind is Kind.RELEASE
    attempt = max(saga.attempt, fact.earlier) + (1 if fact.kind is Kind.PROVISION else 0)
    return replace(
        saga,
        attempt=attempt,
        run=Run(
            id=fact.run_id,
            attempt=attempt,
            kind=fact.kind,
            direction=Direction.BACKWARD if release else Direction.FORWARD,
            reason=fact.reason,
            requested_by=fact.requested_by,
            started_at=now,
            worker=worker.id,
            fence=worker.fence,
        ),
        timeline=tuple(_first_row(saga, step, fact) for step in steps.values()),
        ledger=_adopted(saga.ledger, steps, now) if fact.kind is Kind.ADOPT else saga.ledger,
        errors=saga.errors if release else (),
    )


def _first_row(saga: Saga, step: Step, fact: RunStarted) -> Row:
    """Where a step stands when the run begins."""
    match fact.kind:
        case Kind.PROVISION:
            return Row(step.activity, step.phase)
        case Kind.RELEASE:
            return _release_row(saga, step, whole=fact.whole)
        case Kind.ADOPT if step.renews:
            return Row(step.activity, step.phase)
        case Kind.ADOPT:
            state = RowState.SKIPPED if step.best_effort else RowState.COMPLETED
            return Row(step.activity, step.phase, state, message="taken over as it is")
        case _:
            assert_never(fact.kind)


def _adopted(ledger: tuple[Entry, ...], steps: Mapping[str, Step], now: datetime) -> tuple[Entry, ...]:
    """The ledger, with all that the steps hold."""
    known = {entry.reservation for entry in ledger}
    return ledger + tuple(
        Entry(reservation, step.activity, EntryState.ALLOCATED, now, now)
        for step in steps.values()
        for reservation in step.reserves
        if reservation not in known
    )


def _held_again(row: Row, verifier: str, steps: Mapping[str, Step]) -> Row:
    """A row after something was found to be left: released again, and after that verified again."""
    if row.activity == verifier:
        return replace(row, state=RowState.COMPLETED, checkpoints=(*row.checkpoints, RELEASED_AGAIN))
    return replace(row, state=RowState.COMPLETED) if steps[row.activity].compensates else row


def _release_row(saga: Saga, step: Step, *, whole: bool) -> Row:
    """A release undoes every step that may have left something: by the ledger, or by the last run's timeline. That
    nothing else is left is for the step that verifies to say."""
    held = any(entry.activity == step.activity for entry in saga.ledger)
    rows = [row for row in saga.timeline if row.activity == step.activity]
    ran = any(row.state not in _UNTOUCHED or (row.state is RowState.PENDING and row.takeovers) for row in rows)
    # After a reset there is no timeline: what is still in the ledger says that the forward run came at least so far.
    unknown = not saga.timeline and bool(saga.ledger)
    needed = held or step.verifies or (step.compensates and (whole or ran or unknown))
    return Row(step.activity, step.phase, RowState.COMPLETED if needed else RowState.SKIPPED)


def _finished(saga: Saga, outcome: Outcome, now: datetime) -> Saga:
    run = saga.run
    assert run is not None  # noqa: S101 (decide finishes only a run that is there)
    saga = _with_run(saga, outcome=outcome, finished_at=now, heartbeat=None)
    if run.kind is Kind.RELEASE:
        return saga
    past = PastRun(run.id, run.attempt, run.kind, outcome, run.failed_activity, run.error, run.started_at, now)
    failures = dict(saga.failures)
    if outcome is Outcome.COMPLETED:
        failures = {}
    elif outcome is Outcome.FAILED and run.failed_activity is not None:
        failures[run.failed_activity] = failures.get(run.failed_activity, 0) + 1
    return replace(saga, history=(*saga.history, past)[-KEPT_ATTEMPTS:], failures=tuple(sorted(failures.items())))


def _unsure(saga: Saga) -> Saga:
    """After ticks may have been lost: whatever an open phase allowed to be run may have been. On the way back there
    are none: each compensation is journalled before it begins."""
    if saga.run is None or saga.run.direction is Direction.BACKWARD:
        return saga
    return replace(
        saga,
        timeline=tuple(
            replace(row, takeovers=row.takeovers + 1)
            if row.state is RowState.PENDING and saga.is_open(row.phase)
            else row
            for row in saga.timeline
        ),
    )


def _unreserved(saga: Saga) -> Saga:
    """The run turns back: what its phase reserved for activities that were never run is given up."""
    assert saga.run is not None  # noqa: S101 (only a run can turn back)
    since = saga.run.started_at
    untouched = {row.activity for row in saga.timeline if row.state is RowState.PENDING and not row.takeovers}
    return replace(
        saga,
        # What was in the ledger before the run began is held since before a reset.
        ledger=tuple(each for each in saga.ledger if each.activity not in untouched or each.reserved_at < since),
    )


def _taken_over(row: Row, fact: RunTakenOver, now: datetime) -> Row:
    return replace(row, takeovers=row.takeovers + 1, resumed_at=now if fact.fresh_clock else row.resumed_at)


def _ended(row: Row, state: RowState, message: str, now: datetime) -> Row:
    return replace(row, state=state, completed_at=now, next_try_at=None, message=bounded(message))


def _with_run(saga: Saga, **changes: object) -> Saga:
    assert saga.run is not None  # noqa: S101 (every fact but RunStarted is about a run)
    return replace(saga, run=replace(saga.run, **changes))  # type: ignore[arg-type]


def _with_row(saga: Saga, activity: str, change: Callable[[Row], Row]) -> Saga:
    return replace(saga, timeline=tuple(change(row) if row.activity == activity else row for row in saga.timeline))


def _with_entries(saga: Saga, activity: str, state: EntryState, now: datetime) -> Saga:
    return replace(
        saga,
        ledger=tuple(
            replace(entry, state=state, since=now) if entry.activity == activity and entry.state is not state else entry
            for entry in saga.ledger
        ),
    )


def _with_error(saga: Saga, activity: str, message: str, now: datetime) -> Saga:
    failed = FailedTry(now, saga.attempt, activity, saga.row(activity).tries + 1, bounded(message))
    return replace(saga, errors=(*saga.errors, failed)[-KEPT_ERRORS:])


def _beat(saga: Saga, activity: str, detail: str, progress: int | None, now: datetime) -> Saga:
    return _with_run(saga, heartbeat=Heartbeat(now, activity, bounded(detail), progress))
