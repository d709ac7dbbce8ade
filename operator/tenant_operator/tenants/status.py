"""What a Tenant says of itself: state and conditions, told from the journal. Conditions are set nowhere else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tenant_operator.api.conditions import (
    Conditions,
    ConditionType,
    ConditionUpdate,
    Reason,
    find_condition,
    remove_condition,
    set_condition,
)
from tenant_operator.api.meta import ConditionStatus
from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent, TenantStatus
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.decide import is_stalled
from tenant_operator.saga.model import Direction, Kind, Outcome, Row, RowState, Saga
from tenant_operator.saga.step import Step
from tenant_operator.tenants.journal import encode
from tenant_operator.tenants.lifecycle import state_of, structural_cause
from tenant_operator.tenants.notices import structural_advice
from tenant_operator.tenants.standing import SERVING, Standing
from tenant_operator.text import cut

_BRIEF = 500

_NEXT_AFTER_FAILURE = (
    "Next: kubectl annotate tenant {name} -n {namespace} intelliauth.io/action=retry, "
    "or set desiredState: Decommissioned"
)

_UNDER_WAY = (Reason.IN_PROGRESS, Reason.RETRYING, Reason.ROLLING_BACK)

_TOLD_APART = (Reason.DEGRADED, Reason.RESOURCES_LOST)
"""Why a tenant that serves is not Ready: that stands whatever else holds it up."""

_FOR_A_WHILE = (Reason.ROLLING_OUT, Reason.DEGRADED, Reason.UNAVAILABLE, Reason.REPAIRING, Reason.RESOURCES_LOST)
"""What is said of a tenant that serves beside its run."""

_Verdict = tuple[ConditionType, Reason, str]
"""Reconciling or Stalled, and why."""

_PHASES: Mapping[ConditionType, Sequence[ActivityName]] = {
    ConditionType.VALIDATED: (ActivityName.VALIDATE_REQUEST,),
    ConditionType.RESOURCES_ALLOCATED: (
        ActivityName.ALLOCATE_NAMESPACE,
        ActivityName.ALLOCATE_STORAGE,
        ActivityName.ALLOCATE_IDENTITY_STORE,
        ActivityName.ALLOCATE_TRAFFIC_BOUNDARY,
    ),
    ConditionType.SCHEMA_APPLIED: (ActivityName.APPLY_SCHEMA,),
    ConditionType.WORKLOADS_DEPLOYED: (ActivityName.DEPLOY_WORKLOADS,),
    ConditionType.WORKLOADS_READY: (ActivityName.WAIT_READY,),
    ConditionType.WELCOME_EMAILS_SENT: (ActivityName.SEND_WELCOME_EMAILS,),
}


def project(
    tenant: Tenant,
    names: Names,
    saga: Saga,
    steps: Mapping[str, Step],
    outbox: Sequence[OutboxEvent],
    now: datetime,
    *,
    standing: Standing,
    backlog: str = "",
) -> TenantStatus:
    """The status that tells `saga`, and what the tenant is beside it. `backlog`: why the audit sink holds it up."""
    state = state_of(saga, suspended=standing.suspended)
    running = _running(saga)
    conditions = tenant.status.conditions
    generation = tenant.metadata.generation
    for update in _held_up(_updates(tenant, names, saga, steps, state, standing), backlog):
        if isinstance(update, ConditionUpdate):
            conditions = set_condition(conditions, update, generation=generation, now=now)
        else:
            conditions = remove_condition(conditions, update)
    return TenantStatus.model_construct(
        **{
            **dict(tenant.status),
            **encode(saga),
            "observed_generation": generation,
            "state": state,
            "phase": running.activity if running else "",
            "url": names.url,
            "tenant_id": names.uid,
            "record_uid": tenant.metadata.uid,
            "organization_slug": names.organization,
            "conditions": _observed(conditions, generation),
            "outbox": tuple(outbox),
            "plan": standing.plan,
            "workloads_hash": standing.workloads_hash,
            "credentials": standing.credentials or None,
            "decommissioned_at": saga.run.finished_at
            if state is TenantState.DECOMMISSIONED and saga.run is not None
            else None,
        }
    )


def _observed(conditions: Conditions, generation: int) -> Conditions:
    """Conditions that were not told anew still hold for this generation."""
    return tuple(
        each if each.observed_generation == generation else each.model_copy(update={"observed_generation": generation})
        for each in conditions
    )


def _running(saga: Saga) -> Row | None:
    if saga.run is None or saga.run.finished:
        return None
    return saga.in_hand


def _updates(
    tenant: Tenant, names: Names, saga: Saga, steps: Mapping[str, Step], state: TenantState, standing: Standing
) -> list[ConditionUpdate | ConditionType]:
    """Each condition as it should be; a bare type is to be removed."""
    updates = _readiness(tenant, names, saga, steps, state, standing)
    for type_, activities in _PHASES.items():
        update = _phase(type_, activities, saga)
        said = find_condition(tenant.status.conditions, type_)
        if saga.run is None and said is not None and said.reason in _UNDER_WAY:
            update = ConditionUpdate(type_, ConditionStatus.FALSE, Reason.RESET, "the run history was reset")
        if update is None and state in SERVING and said is not None and said.reason in _FOR_A_WHILE:
            # The run does not tell, and what was said meanwhile is over, unless it is said again.
            update = ConditionUpdate(type_, ConditionStatus.TRUE, Reason.COMPLETED, "as it should be")
        if update is not None:
            updates.append(update)
    if standing.rolling_out:
        updates.append(
            ConditionUpdate(
                ConditionType.WORKLOADS_READY, ConditionStatus.FALSE, Reason.ROLLING_OUT, standing.rolling_out
            )
        )
    elif (degraded := standing.degraded) is not None:
        reason = Reason.UNAVAILABLE if degraded.is_down else Reason.DEGRADED
        updates.append(ConditionUpdate(ConditionType.WORKLOADS_READY, ConditionStatus.FALSE, reason, degraded.cause))
    if missing := standing.lost or standing.repairing:
        reason = Reason.RESOURCES_LOST if standing.lost else Reason.REPAIRING
        updates.append(ConditionUpdate(ConditionType.RESOURCES_ALLOCATED, ConditionStatus.FALSE, reason, missing))
    updates.append(_switching(tenant.spec.desired_state, state) if standing.switching else _traffic(state))
    updates.append(_held(saga))
    return updates


def _held_up(updates: list[ConditionUpdate | ConditionType], backlog: str) -> list[ConditionUpdate | ConditionType]:
    """Where the audit sink holds the tenant up, what is said to be under way is not, and waits for that."""
    if not backlog:
        return [*updates, ConditionType.AUDIT_BACKLOG]
    said = {each.type: each for each in updates if isinstance(each, ConditionUpdate)}
    reconciling = said.get(ConditionType.RECONCILING)
    failed = reconciling is not None and reconciling.reason is Reason.UPKEEP_FAILED
    waits = [ConditionUpdate(ConditionType.AUDIT_BACKLOG, ConditionStatus.TRUE, Reason.AUDIT_SINK_FAILING, backlog)]
    if ConditionType.STALLED not in said and not failed:  # those have more to tell
        waits.append(replace(waits[0], type=ConditionType.RECONCILING))
        ready = said.get(ConditionType.READY)
        if ready is not None and ready.status is ConditionStatus.FALSE and ready.reason not in _TOLD_APART:
            waits.append(replace(waits[0], type=ConditionType.READY, status=ConditionStatus.FALSE))
    return [*updates, *waits]


def _readiness(
    tenant: Tenant, names: Names, saga: Saga, steps: Mapping[str, Step], state: TenantState, standing: Standing
) -> list[ConditionUpdate | ConditionType]:
    """Ready, Reconciling and Stalled, from which clients compute the kstatus: Current, InProgress or Failed.

    Ready is True in Active only. A tenant that was asked to be Suspended or Decommissioned, and is, has no Ready:
    to clients, False would mean that it is on its way to something else.
    """
    if standing.hindrance:
        verdict: _Verdict = ConditionType.STALLED, Reason.STATUS_LOST, standing.hindrance
        return [ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, *verdict[1:]), *_underway(verdict)]
    if saga.run is not None and saga.run.kind is Kind.ADOPT and not saga.run.finished:
        verdict = _adoption(saga, is_stalled(saga, steps))
        return [ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, *verdict[1:]), *_underway(verdict)]
    if state in SERVING:
        return _serving(tenant.spec.desired_state, names, state, standing)
    if state.value == tenant.spec.desired_state.value:
        return [ConditionType.READY, *_underway(None)]
    verdict = _verdict(tenant, saga, is_stalled(saga, steps), state)
    return [ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, *verdict[1:]), *_underway(verdict)]


def _adoption(saga: Saga, stuck: Row | None) -> _Verdict:
    """How far it is with a tenant whose status was lost; what of it still serves goes on serving."""
    if stuck is None:
        return ConditionType.RECONCILING, Reason.ADOPTING, f"its status was lost; taking over {_progress(saga)[1]}"
    message = (
        f"its status was lost, and {stuck.activity} cannot take over what is there: {_brief(stuck.message)}. Nothing "
        "is rolled back, and it goes on being tried. Next: remove the cause"
    )
    return ConditionType.STALLED, Reason.ADOPTION_FAILED, message


def _underway(verdict: _Verdict | None) -> list[ConditionUpdate | ConditionType]:
    """Reconciling and Stalled: never both."""
    types = (ConditionType.RECONCILING, ConditionType.STALLED)
    if verdict is None:
        return [*types]
    return [ConditionUpdate(each, ConditionStatus.TRUE, *verdict[1:]) if each is verdict[0] else each for each in types]


def _serving(
    desired: DesiredState, names: Names, state: TenantState, standing: Standing
) -> list[ConditionUpdate | ConditionType]:
    ready: ConditionUpdate | ConditionType = ConditionType.READY
    unfinished = _unfinished(desired, state, standing)
    if state is TenantState.ACTIVE and standing.lost:
        ready = ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, Reason.RESOURCES_LOST, standing.lost)
    elif state is TenantState.ACTIVE and (degraded := standing.degraded) is not None and degraded.is_down:
        ready = ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, Reason.DEGRADED, degraded.cause)
    elif state is TenantState.ACTIVE:
        message = f"serving at {names.url}"
        ready = ConditionUpdate(ConditionType.READY, ConditionStatus.TRUE, Reason.ACTIVE, message)
    elif desired is not DesiredState.SUSPENDED and unfinished is not None:
        ready = ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, *unfinished[1:])
    return [ready, *_underway(unfinished)]


def _unfinished(desired: DesiredState, state: TenantState, standing: Standing) -> _Verdict | None:
    """What a serving tenant is still on its way to, and what is in the way."""
    reconciling = ConditionType.RECONCILING
    if desired is DesiredState.DECOMMISSIONED:
        return reconciling, Reason.DECOMMISSIONING, "everything is about to be released"
    if standing.lost:
        return ConditionType.STALLED, Reason.RESOURCES_LOST, standing.lost
    if (trouble := standing.trouble) is not None:
        return reconciling if trouble.can_heal else ConditionType.STALLED, Reason.UPKEEP_FAILED, trouble.message
    if standing.switching or state.value != desired.value:
        if desired is DesiredState.SUSPENDED:
            return reconciling, Reason.SUSPENDING, "the route is about to be closed"
        waits = f", after the changed plan: {standing.rolling_out}" if standing.rolling_out else ""
        return reconciling, Reason.RESUMING, f"the route is about to be opened{waits}"
    if standing.repairing:
        return reconciling, Reason.REPAIRING, standing.repairing
    if standing.rolling_out and state is TenantState.ACTIVE:
        return reconciling, Reason.ROLLING_OUT, standing.rolling_out
    return None


def _verdict(tenant: Tenant, saga: Saga, stuck: Row | None, state: TenantState) -> _Verdict:
    """Whether a tenant that is not what it should be goes on by itself (Reconciling) or not (Stalled), and why."""
    run = saga.run
    stalled, reconciling = ConditionType.STALLED, ConditionType.RECONCILING
    if stuck is not None:
        return (
            stalled,
            Reason.RELEASE_FAILED,
            f"{stuck.activity} could not be rolled back: {_brief(stuck.message)}. What is held stays in "
            "status.allocations and its release goes on being tried. Next: remove the cause",
        )
    match state:
        case TenantState.FAILED if run is None:
            held = f"; {len(saga.ledger)} resources are still held, for a retry to go on with" if saga.ledger else ""
            return stalled, Reason.RESET, f"the run history was reset{held}. {_next(tenant)}"
        case TenantState.FAILED if (activity := structural_cause(saga)) is not None:
            last = run.error if run else ""
            return stalled, Reason.STRUCTURAL_CAUSE, f"{structural_advice(activity)}. Last error: {last}"
        case TenantState.FAILED:
            reason = Reason.TIMED_OUT if run and (run.error or "").startswith("timed out") else Reason.ACTIVITY_FAILED
            where = f"attempt {saga.attempt} failed at {run.failed_activity}: {_brief(run.error)}" if run else ""
            return stalled, reason, f"{where}. {_next(tenant)}"
        case TenantState.DECOMMISSIONED if tenant.metadata.deletion_timestamp is not None:
            return reconciling, Reason.DELETING, "everything is released; the record is about to go"
        case TenantState.DECOMMISSIONED if tenant.spec.desired_state is DesiredState.SUSPENDED:
            message = "a decommissioned tenant cannot be suspended; set desiredState: Active to provision it again"
            return stalled, Reason.DECOMMISSIONED, message
        case TenantState.DECOMMISSIONED:
            return reconciling, Reason.DECOMMISSIONED, "everything is released; it is about to be provisioned again"
        case TenantState.PENDING if run is not None and run.outcome is Outcome.CANCELLED:
            return stalled, Reason.CANCELLED, "cancelled and rolled back; nothing is held. " + _next(tenant)
        case TenantState.PENDING:
            return reconciling, Reason.PENDING, "not started yet"
        case _:
            return reconciling, *_progress(saga)


def _brief(text: str | None) -> str:
    """Short enough to leave room for the next step of a person."""
    return cut(text or "", _BRIEF)


def _next(tenant: Tenant) -> str:
    return _NEXT_AFTER_FAILURE.format(name=tenant.metadata.name, namespace=tenant.metadata.namespace)


def _progress(saga: Saga) -> tuple[Reason, str]:
    run, row = saga.run, _running(saga)
    what = "between two steps"
    if row is not None:
        number = [each.activity for each in saga.timeline].index(row.activity) + 1
        what = f"{row.activity} ({number} of {len(saga.timeline)})"
        if row.next_try_at is not None:
            due = row.next_try_at.strftime("%H:%M:%S")
            what += f": try {row.tries} failed: {row.message}; next try at {due} UTC"
        elif row.message and row.state is RowState.RUNNING:
            what += f": {row.message}"
    if run is not None and run.kind is Kind.RELEASE:
        return (Reason.DELETING if run.reason == "Deleted" else Reason.DECOMMISSIONING), f"releasing {what}"
    if run is not None and run.direction is Direction.BACKWARD:
        why = (
            f"{run.failed_activity} failed: {run.error}" if run.failed_activity else f"the run was {run.reason.lower()}"
        )
        return Reason.ROLLING_BACK, f"rolling back {what}, because {why}"
    retrying = row is not None and row.next_try_at is not None
    return (Reason.RETRYING if retrying else Reason.PROVISIONING), what


def _phase(type_: ConditionType, activities: Sequence[ActivityName], saga: Saga) -> ConditionUpdate | None:
    """What the rows of a phase come to; None if the run does not touch it (what was said before still holds)."""
    rows = [row for row in saga.timeline if row.activity in activities and row.state is not RowState.SKIPPED]
    if not rows and type_ is ConditionType.WORKLOADS_READY:
        gone = (RowState.COMPENSATING, RowState.COMPENSATED)
        rows = [row for row in saga.timeline if row.activity == ActivityName.DEPLOY_WORKLOADS and row.state in gone]
    if not rows:
        return None

    def first(*states: RowState) -> Row | None:
        return next((row for row in rows if row.state in states), None)

    def no(reason: Reason, message: str) -> ConditionUpdate:
        return ConditionUpdate(type_, ConditionStatus.FALSE, reason, message)

    if failed := first(RowState.FAILED):
        timed_out = failed.message.startswith("timed out")
        return no(Reason.TIMED_OUT if timed_out else Reason.ACTIVITY_FAILED, f"{failed.activity}: {failed.message}")
    if compensating := first(RowState.COMPENSATING):
        return no(Reason.ROLLING_BACK, f"{compensating.activity} is being rolled back")
    if all(row.state is RowState.COMPLETED for row in rows):
        message = "; ".join(row.message for row in rows if row.message)
        return ConditionUpdate(type_, ConditionStatus.TRUE, Reason.COMPLETED, message)
    if running := first(RowState.RUNNING):
        reason = Reason.RETRYING if running.next_try_at is not None else Reason.IN_PROGRESS
        return no(reason, f"{running.activity}: {running.message or 'running'}")
    if first(RowState.COMPENSATED):
        return no(Reason.RELEASED, "rolled back")
    return no(Reason.NOT_STARTED, "not started")


def _traffic(state: TenantState) -> ConditionUpdate:
    def no(reason: Reason, message: str) -> ConditionUpdate:
        return ConditionUpdate(ConditionType.TRAFFIC_ENABLED, ConditionStatus.FALSE, reason, message)

    match state:
        case TenantState.ACTIVE:
            message = "the route is open"
            return ConditionUpdate(ConditionType.TRAFFIC_ENABLED, ConditionStatus.TRUE, Reason.ROUTE_OPEN, message)
        case TenantState.SUSPENDED:
            return no(Reason.SUSPENDED, "traffic is paused, everything is kept; set desiredState: Active to resume")
        case TenantState.DECOMMISSIONED:
            return no(Reason.DECOMMISSIONED, "everything is released; set desiredState: Active to provision it again")
        case _:
            return no(Reason.ROUTE_CLOSED, "the route is closed until the tenant is active")


def _switching(desired: DesiredState, state: TenantState) -> ConditionUpdate:
    """The state is what the last look left; the route may be ahead of it."""
    was_open = ConditionStatus.TRUE if state is TenantState.ACTIVE else ConditionStatus.FALSE
    if desired is DesiredState.SUSPENDED:
        return ConditionUpdate(ConditionType.TRAFFIC_ENABLED, was_open, Reason.SUSPENDING, "the route is being closed")
    return ConditionUpdate(ConditionType.TRAFFIC_ENABLED, was_open, Reason.RESUMING, "the route is being opened")


def _held(saga: Saga) -> ConditionUpdate:
    if saga.ledger:
        message = f"{len(saga.ledger)} resources are held; see status.allocations"
        return ConditionUpdate(ConditionType.RESOURCES_HELD, ConditionStatus.TRUE, Reason.LEDGER_NOT_EMPTY, message)
    return ConditionUpdate(ConditionType.RESOURCES_HELD, ConditionStatus.FALSE, Reason.RELEASED, "nothing is held")
