"""The saga in `Tenant.status` and back: the status is the journal, there is no second one."""

from functools import lru_cache
from typing import Any, Final

from tenant_operator.api import tenant_status as api
from tenant_operator.api.same import Same
from tenant_operator.api.states import (
    ActionOutcome,
    ActivityState,
    AllocationState,
    Direction,
    RunKind,
    RunOutcome,
    RunReason,
)
from tenant_operator.api.tenant import Tenant
from tenant_operator.saga import model as saga
from tenant_operator.tenants.lifecycle import mended

_REMEMBERED: Final = 128
"""Journals that are remembered: those of twice as many tenants as are at work at once."""


def saga_of(tenant: Tenant) -> saga.Saga:
    """The saga of the tenant, as far as its status can be believed."""
    if tenant.status.record_uid not in (None, tenant.metadata.uid):
        return saga.Saga()  # it came from the backup of another record: what is so is for the world to say
    return _remembered(Same(tenant.status))


@lru_cache(maxsize=_REMEMBERED)
def _remembered(status: Same) -> saga.Saga:
    """Each look at a tenant asks several times, and a journal takes a millisecond to read."""
    return mended(decode(status.it))


def decode(status: api.TenantStatus) -> saga.Saga:
    """The saga that the status tells."""
    return saga.Saga(
        attempt=status.attempt,
        run=_run(status.run) if status.run else None,
        timeline=tuple(
            saga.Row(
                activity=row.activity,
                phase=row.phase,
                state=saga.RowState(row.state.value),
                started_at=row.started_at,
                completed_at=row.completed_at,
                tries=row.tries,
                outages=row.outages or 0,
                next_try_at=row.next_try_at,
                takeovers=row.takeovers or 0,
                resumed_at=row.resumed_at,
                message=row.message,
                checkpoints=row.checkpoints,
            )
            for row in status.timeline
        ),
        ledger=tuple(
            saga.Entry(
                reservation=saga.Reservation(entry.kind, entry.name, entry.namespace),
                activity=entry.activity,
                state=saga.EntryState(entry.state.value),
                reserved_at=entry.reserved_at,
                since=entry.since,
            )
            for entry in status.allocations
        ),
        history=tuple(
            saga.PastRun(
                run_id=past.run_id,
                attempt=past.attempt,
                kind=saga.Kind(past.kind.value),
                outcome=saga.Outcome(past.outcome.value),
                failed_activity=past.failed_activity,
                error=past.error,
                started_at=past.started_at,
                finished_at=past.finished_at,
            )
            for past in status.history
        ),
        errors=tuple(
            saga.FailedTry(error.at, error.attempt, error.activity, error.try_, error.message)
            for error in status.errors
        ),
        failures=tuple((failure.activity, failure.count) for failure in status.failures),
        last_request=_request(status.last_action) if status.last_action else None,
    )


def encode(journal: saga.Saga) -> dict[str, Any]:
    """The fields of the status that belong to the saga, by their Python names."""
    return {
        "attempt": journal.attempt,
        "run": _encode_run(journal.run) if journal.run else None,
        "timeline": tuple(
            api.TimelineEntry(
                activity=row.activity,
                phase=row.phase,
                state=ActivityState(row.state.value),
                started_at=row.started_at,
                completed_at=row.completed_at,
                tries=row.tries,
                outages=row.outages or None,
                next_try_at=row.next_try_at,
                takeovers=row.takeovers or None,
                resumed_at=row.resumed_at,
                message=row.message,
                checkpoints=row.checkpoints,
            )
            for row in journal.timeline
        ),
        "allocations": tuple(
            api.Allocation(
                kind=entry.reservation.kind,
                name=entry.reservation.name,
                namespace=entry.reservation.namespace,
                activity=entry.activity,
                state=AllocationState(entry.state.value),
                since=entry.since,
                reserved_at=entry.reserved_at,
            )
            for entry in journal.ledger
        ),
        "history": tuple(
            api.Attempt(
                attempt=past.attempt,
                run_id=past.run_id,
                kind=RunKind(past.kind.value),
                outcome=RunOutcome(past.outcome.value),
                failed_activity=past.failed_activity,
                error=past.error,
                started_at=past.started_at,
                finished_at=past.finished_at,
            )
            for past in journal.history
        ),
        "errors": tuple(
            api.FailedTry(
                at=error.at,
                attempt=error.attempt,
                activity=error.activity,
                try_=error.number,
                message=error.message,
            )
            for error in journal.errors
        ),
        "failures": tuple(api.ActivityFailures(activity=activity, count=count) for activity, count in journal.failures),
        "last_action": _encode_request(journal.last_request) if journal.last_request else None,
    }


def _run(run: api.Run) -> saga.Run:
    beat = run.heartbeat
    return saga.Run(
        id=run.id,
        attempt=run.attempt,
        kind=saga.Kind(run.kind.value),
        direction=saga.Direction(run.direction.value),
        reason=run.reason.value,
        requested_by=run.requested_by,
        started_at=run.started_at,
        worker=run.worker,
        fence=run.fence,
        resumed_at=run.resumed_at,
        finished_at=run.finished_at,
        outcome=saga.Outcome(run.outcome.value) if run.outcome else None,
        failed_activity=run.failed_activity,
        cancelled_activity=run.cancelled_activity,
        error=run.error,
        heartbeat=saga.Heartbeat(beat.at, beat.activity, beat.detail, beat.progress) if beat else None,
    )


def _encode_run(run: saga.Run) -> api.Run:
    beat = run.heartbeat
    return api.Run(
        id=run.id,
        attempt=run.attempt,
        kind=RunKind(run.kind.value),
        direction=Direction(run.direction.value),
        reason=RunReason(run.reason),
        requested_by=run.requested_by,
        started_at=run.started_at,
        resumed_at=run.resumed_at,
        finished_at=run.finished_at,
        outcome=RunOutcome(run.outcome.value) if run.outcome else None,
        failed_activity=run.failed_activity,
        cancelled_activity=run.cancelled_activity,
        error=run.error,
        worker=run.worker,
        fence=run.fence,
        heartbeat=api.Heartbeat(at=beat.at, activity=beat.activity, detail=beat.detail, progress=beat.progress)
        if beat
        else None,
    )


def _request(action: api.LastAction) -> saga.Request:
    return saga.Request(
        id=action.id,
        action=action.action,
        requested_by=action.requested_by,
        requested_at=action.requested_at,
        accepted=action.outcome is ActionOutcome.ACCEPTED,
        message=action.message,
    )


def _encode_request(request: saga.Request) -> api.LastAction:
    return api.LastAction(
        id=request.id,
        action=request.action,
        requested_by=request.requested_by,
        requested_at=request.requested_at,
        outcome=ActionOutcome.ACCEPTED if request.accepted else ActionOutcome.REFUSED,
        message=request.message,
    )
