"""The audit feed: which facts it tells, and how. One state change, one event."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, assert_never

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.api.states import RunReason
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.evolve import Worker, evolve
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
    Tick,
    TicksLost,
    TryFailed,
)
from tenant_operator.saga.model import Kind, Outcome, Row, RowState, Run, Saga
from tenant_operator.saga.step import Step

Told = tuple[str, dict[str, Any], str | None]
"""Type, data, and who asked for it (None: the platform itself)."""


def audit_events(
    tenant: Tenant,
    names: Names,
    saga: Saga,
    facts: Sequence[Fact],
    *,
    now: datetime,
    worker: Worker,
    steps: Mapping[str, Step],
    new_id: Callable[[], str],
) -> list[OutboxEvent]:
    """The events that tell what `facts` do to `saga`, in order."""
    events = []
    for fact in facts:
        after = evolve(saga, fact, now, worker, steps)
        at = (fact.at if isinstance(fact, Tick) else None) or now
        for type_, data, actor in _tell(tenant, names, saga, after, fact, at):
            events.append(audit_event(tenant, names, type_, data, actor, now=at, event_id=new_id()))
        saga = after
    return events


def audit_event(
    tenant: Tenant, names: Names, type_: str, data: dict[str, Any], actor: str | None, *, now: datetime, event_id: str
) -> OutboxEvent:
    """One event of the feed. `actor` is the user who asked for it, None for the platform itself."""
    return OutboxEvent(
        id=event_id,
        type=type_,
        actor_id=actor,
        actor_email=actor if actor and "@" in actor else None,
        org_id=tenant.spec.organization,
        tenant_id=names.uid,
        created_at=now,
        data=data,
    )


def _tell(tenant: Tenant, names: Names, before: Saga, after: Saga, fact: Fact, now: datetime) -> list[Told]:
    match fact:
        case RunStarted():
            return _started(tenant, names, before, after, fact)
        case ActivityCompleted():
            return _completed(before, after, fact, now)
        case TryFailed():
            # What is tried for ever is told once.
            return [] if fact.repeated else [_step_failed(before, fact.activity, fact.error)]
        case ActivityFailed():
            return [_step_failed(before, fact.activity, fact.error)] if fact.best_effort else []
        case CompensationCompleted():
            return _compensated(before, fact, now)
        case CompensationTryFailed():
            return _compensation_failed(before, fact)
        case RemainsFound():
            return _remains_found(tenant, names, before)
        case RunFinished():
            return _finished(names, before, after, fact, now)
        case HistoryReset() if before.attempt == 0:
            return []  # there was no history: the request is an old one, perhaps, of a status that was wiped since
        case HistoryReset():
            return [("tenant.provisioning.reset", {"attempt_number": before.attempt}, fact.requested_by)]
        case (
            RunTakenOver()
            | TicksLost()
            | RunReversed()
            | RequestTaken()
            | ActivityStarted()
            | CompensationStarted()
            | Pulsed()
            | Checkpointed()
        ):
            return []
        case _:
            assert_never(fact)


def _run(saga: Saga) -> Run:
    assert saga.run is not None  # noqa: S101 (these facts are about a run)
    return saga.run


def _started(tenant: Tenant, names: Names, before: Saga, after: Saga, fact: RunStarted) -> list[Told]:
    data: dict[str, Any] = {
        "tenant_slug": names.slug,
        "plan": tenant.spec.plan,
        "requested_by": fact.requested_by,
        "attempt_number": after.attempt,
    }
    if fact.kind is Kind.PROVISION:
        started: Told = ("tenant.provisioning.started", data, fact.requested_by)
        if fact.earlier <= before.attempt:
            return [started]
        # Attempts that the journal has lost: the last of them ends here, and is not told over.
        return [("tenant.provisioning.reset", {"attempt_number": fact.earlier}, None), started]
    if fact.kind is Kind.ADOPT:
        resources = [str(entry.reservation) for entry in after.ledger]
        adopted = {"tenant_slug": names.slug, "plan": tenant.spec.plan, "resources": resources}
        return [("tenant.adopted", {**adopted, "attempt_number": after.attempt}, None)]
    return [] if _is_told_by_its_end(after) else [("tenant.deprovisioning.started", data, fact.requested_by)]


def _is_told_by_its_end(saga: Saga) -> bool:
    """Whether the release that has begun has nothing to do, and is one change only: from Pending to Decommissioned, or
    to `tenant.deleted`."""
    was_pending = saga.attempt == 0 or (bool(saga.history) and saga.history[-1].outcome is Outcome.CANCELLED)
    return _nothing_to_release(saga) and (was_pending or _run(saga).reason == RunReason.DELETED)


def _remains_found(tenant: Tenant, names: Names, before: Saga) -> list[Told]:
    """A release that had nothing to tell has something to do after all."""
    run = _run(before)
    if run.kind is not Kind.RELEASE or not _is_told_by_its_end(before):
        return []
    data = {
        "tenant_slug": names.slug,
        "plan": tenant.spec.plan,
        "requested_by": run.requested_by,
        "attempt_number": before.attempt,
    }
    return [("tenant.deprovisioning.started", data, run.requested_by)]


def _completed(before: Saga, after: Saga, fact: ActivityCompleted, now: datetime) -> list[Told]:
    if _run(before).kind is Kind.ADOPT:
        return []  # told when it was made
    row = before.row(fact.activity)
    data = {"step": row.activity, "phase": row.phase, "duration_ms": _milliseconds(row, now)}
    told: list[Told] = [("tenant.provisioning.step_completed", {**data, "details": fact.detail}, None)]
    held = [str(entry.reservation) for entry in after.ledger if entry.activity == fact.activity]
    if row.phase == PhaseName.ALLOCATE and held:
        recorded = f"recorded in the ledger: {', '.join(held)}"
        told.append(("tenant.provisioning.step_completed", {**data, "details": recorded}, None))
    if fact.activity == ActivityName.MARK_ACTIVE:
        run = _run(after)
        summary = {
            "duration_seconds": _seconds(run.started_at, now),
            "resources": [str(entry.reservation) for entry in after.ledger],
            "attempt_number": run.attempt,
        }
        told.append(("tenant.provisioning.completed", summary, None))
    return told


def _step_failed(before: Saga, activity: str, error: str) -> Told:
    number = before.row(activity).tries + 1
    return ("tenant.provisioning.step_failed", {"step": activity, "try": number, "error": error}, None)


def _compensated(before: Saga, fact: CompensationCompleted, now: datetime) -> list[Told]:
    row = before.row(fact.activity)
    if _run(before).kind is Kind.PROVISION:
        return [("tenant.provisioning.compensated", {"step": row.activity, "details": fact.detail}, None)]
    if fact.activity == ActivityName.VALIDATE_REQUEST:
        return []  # the last look releases nothing
    data = {
        "step": row.activity,
        "phase": row.phase,
        "duration_ms": _milliseconds(row, now),
        "details": fact.detail,
    }
    return [("tenant.deprovisioning.step_completed", data, None)]


def _compensation_failed(before: Saga, fact: CompensationTryFailed) -> list[Told]:
    if fact.repeated:  # a stalled compensation is tried for ever: the feed tells it once
        return []
    if _run(before).kind is Kind.PROVISION:
        return [_step_failed(before, fact.activity, fact.error)]
    if not fact.stalled:
        return []
    data = {"failed_activity": fact.activity, "error": fact.error, "attempt_number": before.attempt}
    return [("tenant.deprovisioning.failed", data, None)]


def _finished(names: Names, before: Saga, after: Saga, fact: RunFinished, now: datetime) -> list[Told]:
    run = _run(before)
    told: list[Told] = []
    match fact.outcome:
        case Outcome.COMPLETED:
            pass  # told when the tenant turned active
        case Outcome.FAILED:
            data = {"failed_activity": run.failed_activity, "error": run.error, "attempt_number": run.attempt}
            told.append(("tenant.provisioning.failed", data, None))
        case Outcome.CANCELLED:
            data = {"attempt_number": run.attempt, "cancelled_activity": run.cancelled_activity}
            told.append(("tenant.provisioning.cancelled", data, run.requested_by))
        case Outcome.RELEASED:
            # The deletion of a tenant that holds nothing is told by `tenant.deleted` alone.
            if run.reason != RunReason.DELETED or not _nothing_to_release(after):
                summary = {"duration_seconds": _seconds(run.started_at, now), "attempt_number": run.attempt}
                told.append(("tenant.deprovisioning.completed", summary, None))
        case _:
            assert_never(fact.outcome)
    if run.reason == RunReason.DELETED:
        told.append(("tenant.deleted", {"tenant_slug": names.slug}, run.requested_by))
    return told


def _nothing_to_release(saga: Saga) -> bool:
    """Whether the release has nothing to do but its last look."""
    return all(row.state is RowState.SKIPPED for row in saga.timeline if row.activity != ActivityName.VALIDATE_REQUEST)


def _milliseconds(row: Row, now: datetime) -> int:
    return round(_seconds(row.started_at, now) * 1000) if row.started_at else 0


def _seconds(since: datetime, now: datetime) -> float:
    """How long it took. Of a clock that was set back meanwhile nothing can be said, least of all less than nothing."""
    return max(round((now - since).total_seconds(), 3), 0.0)
