"""The state table of a tenant: which state it is in, and what its spec and its requests ask of the saga. Pure."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from tenant_operator.api.names import (
    ANNOTATION_ACTION,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUESTED_BY,
    Action,
    ActivityName,
)
from tenant_operator.api.states import DesiredState, RunOutcome, RunReason, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.saga.facts import Fact, HistoryReset, RequestTaken, RunReversed, RunStarted
from tenant_operator.saga.model import Direction, Kind, Outcome, Request, RowState, Run, Saga

_WORD = 63
_NAME = 253
_STRUCTURAL = 3
"""Failed attempts at the same activity after which the cause is not a passing one."""


def state_of(saga: Saga, *, suspended: bool) -> TenantState:
    """The state that the journal tells. `suspended` is whether the traffic of a completed tenant is paused."""
    run = saga.run
    serving = TenantState.SUSPENDED if suspended else TenantState.ACTIVE
    if run is None:
        return TenantState.FAILED if saga.attempt else TenantState.PENDING
    if not run.finished:
        if run.kind is Kind.RELEASE:
            return TenantState.DECOMMISSIONING
        if run.kind is Kind.ADOPT:
            return serving
        activated = run.direction is Direction.FORWARD and any(
            row.activity == ActivityName.MARK_ACTIVE and row.state is RowState.COMPLETED for row in saga.timeline
        )
        return serving if activated else TenantState.PROVISIONING
    match run.outcome:
        case Outcome.COMPLETED:
            return serving
        case Outcome.FAILED:
            return TenantState.FAILED
        case Outcome.RELEASED:
            return TenantState.DECOMMISSIONED
        case _:
            return TenantState.PENDING


def demand(tenant: Tenant, saga: Saga, new_id: Callable[[], str], *, held: bool, hindrance: str = "") -> list[Fact]:
    """What the tenant, as it stands in the API, asks of its saga now. Empty once it has been granted or refused.

    `held`: a living worker has the run in hand. `hindrance` is why no provisioning may begin, if there is a reason."""
    state = state_of(saga, suspended=tenant.status.state is TenantState.SUSPENDED)
    request = requested(tenant)
    if request is not None and (saga.last_request is None or saga.last_request.id != request.id):
        return _judge(tenant, saga, state, request, new_id, held=held, hindrance=hindrance)
    deleting = tenant.metadata.deletion_timestamp is not None
    # A deletion cannot be stamped: better nobody than whoever asked for something before.
    who = None if deleting else requester(tenant)
    if is_unwanted(tenant):
        reason = RunReason.DELETED if deleting else RunReason.DECOMMISSIONED
        return _release(saga, state, reason, who, new_id)
    if hindrance:
        return []
    if state is TenantState.PENDING and saga.attempt == 0:
        return [RunStarted(new_id(), Kind.PROVISION, RunReason.CREATED, who)]
    if state is TenantState.DECOMMISSIONED and tenant.spec.desired_state is DesiredState.ACTIVE:
        return [RunStarted(new_id(), Kind.PROVISION, RunReason.RECREATED, who)]
    return []


def _release(
    saga: Saga, state: TenantState, reason: RunReason, who: str | None, new_id: Callable[[], str]
) -> list[Fact]:
    run = saga.run
    if state is TenantState.PROVISIONING:
        forward = run is not None and run.direction is Direction.FORWARD
        return [RunReversed(reason, who)] if forward else []
    if state is TenantState.DECOMMISSIONING or let_go(saga):
        return []
    if state is TenantState.DECOMMISSIONED and reason is RunReason.DECOMMISSIONED:
        return []
    return [RunStarted(new_id(), Kind.RELEASE, reason, who)]


def is_unwanted(tenant: Tenant) -> bool:
    """Whether everything of the tenant is to be released."""
    return tenant.metadata.deletion_timestamp is not None or tenant.spec.desired_state is DesiredState.DECOMMISSIONED


def let_go(saga: Saga) -> bool:
    """Whether everything was released because the tenant is being deleted: the record may go."""
    run = saga.run
    return run is not None and run.finished and run.reason == RunReason.DELETED and not saga.ledger


def is_at_rest(tenant: Tenant) -> bool:
    """Whether the status is the tenant's own, and tells of a run that is complete and of the state that follows from
    it: thousands of tenants are so, and this is told without reading their journals."""
    status, uid = tenant.status, tenant.metadata.uid
    if status.record_uid != uid or status.tenant_id != uid or status.run is None or status.run.finished_at is None:
        return False
    match status.run.outcome:
        case RunOutcome.COMPLETED:
            return status.state in (TenantState.ACTIVE, TenantState.SUSPENDED)
        case RunOutcome.RELEASED:
            return status.state is TenantState.DECOMMISSIONED
        case _:
            return False


def asks_for_nothing(tenant: Tenant) -> bool:
    """Whether a tenant at rest is as its spec wants it, and nobody has asked for anything: its saga has no part in what
    there is to do, and its journal need not be read."""
    request, last = requested(tenant), tenant.status.last_action
    if request is not None and (last is None or last.id != request.id):
        return False
    released = tenant.status.state is TenantState.DECOMMISSIONED
    return is_at_rest(tenant) and tenant.metadata.deletion_timestamp is None and released is is_unwanted(tenant)


def contradicts_service(saga: Saga) -> bool:
    """Whether the journal tells of a tenant that has never served: it is out of date if the tenant has."""
    run = saga.run
    if run is None:
        return True
    if run.kind is not Kind.PROVISION or run.outcome is Outcome.COMPLETED:
        return False
    opened = (RowState.RUNNING, RowState.COMPLETED, RowState.FAILED, RowState.COMPENSATING)
    return run.finished or not any(
        row.activity == ActivityName.MARK_ACTIVE and row.state in opened for row in saga.timeline
    )


def is_cut_off(saga: Saga) -> bool:
    """Whether the journal tells of attempts and of nothing else. A reset leaves the ledger, so if something is held
    nevertheless, the journal was lost while a run was on its way."""
    return saga.run is None and not saga.ledger


def mended(saga: Saga) -> Saga:
    """The journal, or what is left of it to believe: a run that lacks the row by which it must end, or goes back where
    there is no way back, is no run."""
    run = saga.run
    if run is None or run.finished:
        return saga
    verifying = next((row.state for row in saga.timeline if row.activity == ActivityName.VALIDATE_REQUEST), None)
    passed = (None, RowState.PENDING, RowState.SKIPPED, RowState.COMPENSATED)
    backward = run.direction is Direction.BACKWARD
    damaged = verifying is None or (backward and (verifying in passed or run.kind is Kind.ADOPT))
    return replace(saga, run=None, timeline=()) if damaged else saga


def structural_cause(saga: Saga) -> str | None:
    """The activity that failed so many attempts that another one is unlikely to help."""
    return next((activity for activity, count in saga.failures if count >= _STRUCTURAL), None)


def requested(tenant: Tenant) -> Request | None:
    """The one-shot request that was taken off the tenant and waits to be carried out, or was."""
    text = tenant.metadata.annotations.get(ANNOTATION_REQUEST)
    if text is None:
        return None
    try:
        raw = json.loads(text)
        request = Request(
            id=str(raw["id"]),
            action=str(raw["action"]),
            requested_by=_person(raw.get("requestedBy")),
            requested_at=datetime.fromisoformat(raw["requestedAt"]).astimezone(UTC),
            accepted=False,
            message="",
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None  # not written by the operator: it carries no request
    return request if 0 < len(request.id) <= _WORD and 0 < len(request.action) <= _WORD else None


def requester(tenant: Tenant) -> str | None:
    """The user who asked for what the tenant asks now, as admission stamped it."""
    return _person(tenant.metadata.annotations.get(ANNOTATION_REQUESTED_BY))


def _person(name: object) -> str | None:
    """A user name as the journal can hold it; anything may stand in an annotation."""
    return name[:_NAME] if isinstance(name, str) and name else None


def take_request(tenant: Tenant, request_id: str, now: datetime) -> Tenant | None:
    """The tenant with the action moved off its annotation, under an id of its own; None if there is no action.

    One atomic write, so that a crash can neither lose nor double it.
    """
    waiting, last = requested(tenant), tenant.status.last_action
    if waiting is not None and (last is None or last.id != waiting.id):
        return None  # one after the other: this one is taken when that one is carried out
    annotations = dict(tenant.metadata.annotations)
    action = annotations.pop(ANNOTATION_ACTION, None)
    if action is None:
        return None
    annotations[ANNOTATION_REQUEST] = json.dumps(
        {
            "id": request_id,
            "action": action[:_WORD] or "(empty)",
            "requestedBy": requester(tenant),
            "requestedAt": now.isoformat(),
        }
    )
    metadata = tenant.metadata.model_copy(update={"annotations": annotations})
    return tenant.model_copy(update={"metadata": metadata})


def _judge(
    tenant: Tenant,
    saga: Saga,
    state: TenantState,
    request: Request,
    new_id: Callable[[], str],
    *,
    held: bool,
    hindrance: str,
) -> list[Fact]:
    """The verdict on a request, with what it sets off."""
    effect: list[Fact] = []
    refusal: str | None = None
    message = "accepted"
    match request.action:
        case Action.CANCEL:
            refusal = refuse_cancel(state)
            if refusal is None and saga.run is not None and saga.run.direction is Direction.FORWARD:
                effect = [RunReversed(RunReason.CANCELLED, request.requested_by)]
                message = "the run is cancelled and will be rolled back"
            else:
                message = "a rollback is already running; nothing to change"
        case Action.RETRY:
            refusal = refuse_retry(tenant, saga, state) or hindrance or None
            effect = [RunStarted(new_id(), Kind.PROVISION, RunReason.RETRIED, request.requested_by)]
            message = f"attempt {saga.attempt + 1} begins"
        case Action.RESET:
            refusal = refuse_reset(saga.run, state, held=held)
            effect = [HistoryReset(request.requested_by)]
            message = "the run history is reset; nothing was released"
        case unknown:
            refusal = f"unknown action '{unknown}': use cancel, retry or reset"
    if refusal is not None:
        effect, message = [], refusal
    verdict = Request(request.id, request.action, request.requested_by, request.requested_at, refusal is None, message)
    return [*effect, RequestTaken(verdict)]


def refuse_cancel(state: TenantState) -> str | None:
    """Why a cancel is illegal now, or None."""
    if state is TenantState.PROVISIONING:
        return None
    return f"cancel is possible in Provisioning only; the tenant is {state}. {allowed_now(state)}"


def refuse_retry(tenant: Tenant, saga: Saga, state: TenantState) -> str | None:
    """Why a retry is illegal now, or None."""
    if tenant.metadata.deletion_timestamp is not None:
        return "the tenant is being deleted and cannot be provisioned again"
    if tenant.spec.desired_state is DesiredState.DECOMMISSIONED:
        return f"desiredState is Decommissioned; the tenant is {state}. Allowed now: desiredState: Active."
    if state is TenantState.FAILED or (state is TenantState.PENDING and saga.attempt > 0):
        return None
    return f"retry is possible in Failed, or in Pending after a cancel; the tenant is {state}. {allowed_now(state)}"


def refuse_reset(run: Run | None, state: TenantState, *, held: bool) -> str | None:
    """Why a reset is illegal now, or None. `held`: a living worker has the run in hand."""
    if state is TenantState.PROVISIONING and run is not None:
        return f"the saga is running on worker {run.worker}; cancel it first" if held else None
    if state in (TenantState.FAILED, TenantState.PENDING):
        return None
    return f"reset is possible while nothing runs, in Failed or Pending; the tenant is {state}. {allowed_now(state)}"


def allowed_now(state: TenantState) -> str:
    """What a person may ask of a tenant in this state, as a sentence."""
    match state:
        case TenantState.PENDING:
            return "Allowed now: retry, reset, desiredState: Decommissioned."
        case TenantState.PROVISIONING:
            return "Allowed now: cancel, desiredState: Suspended or Decommissioned."
        case TenantState.ACTIVE:
            return "Allowed now: desiredState: Suspended or Decommissioned."
        case TenantState.SUSPENDED:
            return "Allowed now: desiredState: Active or Decommissioned."
        case TenantState.FAILED:
            return "Allowed now: retry, reset, desiredState: Decommissioned."
        case TenantState.DECOMMISSIONING:
            return "Wait until it is Decommissioned."
        case TenantState.DECOMMISSIONED:
            return "Allowed now: desiredState: Active."
