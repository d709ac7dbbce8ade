"""What `kubectl describe` shows of a saga: a Kubernetes Event per step, and for everything a person should see."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tenant_operator.api.names import ActivityName
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityFailed,
    CompensationCompleted,
    CompensationTryFailed,
    Fact,
    HistoryReset,
    RemainsFound,
    RequestTaken,
    RunFinished,
    RunReversed,
    RunStarted,
    RunTakenOver,
    TryFailed,
)
from tenant_operator.saga.model import Kind, Outcome, Saga
from tenant_operator.tenants.lifecycle import structural_cause


@dataclass(frozen=True, slots=True)
class Happening:
    """One Event: `reason` in PascalCase for machines, `message` for people."""

    reason: str
    message: str
    warning: bool = False


def notices(names: Names, after: Saga, facts: Sequence[Fact]) -> list[Happening]:
    """The Events that tell of `facts`, which led to the saga `after`. Steps that are journalled together are told
    together."""
    told: list[Happening] = []
    for happening in (happening for fact in facts for happening in _tell(names, after, fact)):
        if told and happening.reason == told[-1].reason == "StepCompleted":
            told[-1] = replace(happening, message=f"{told[-1].message}; {happening.message}")
        else:
            told.append(happening)
    return told


def _tell(names: Names, after: Saga, fact: Fact) -> list[Happening]:
    match fact:
        case RunStarted(kind=Kind.PROVISION):
            return [Happening("ProvisioningStarted", f"attempt {after.attempt} begins ({fact.reason})")]
        case RunStarted(kind=Kind.ADOPT):
            adopted = f"attempt {after.attempt} serves, and the status did not tell: it is taken over as it is"
            return [Happening("Adopted", adopted)]
        case RunStarted():
            return [Happening("DecommissioningStarted", f"everything held is released ({fact.reason})")]
        case RunTakenOver():
            return [Happening("RunTakenOver", "another worker goes on where the last one left off")]
        case ActivityCompleted(activity=ActivityName.MARK_ACTIVE):
            return [Happening("Active", f"serving at {names.url}")]
        case ActivityCompleted(activity=ActivityName.VALIDATE_REQUEST):
            return []  # the start has been told in the same second
        case ActivityCompleted():
            return [Happening("StepCompleted", f"{fact.activity}: {fact.detail}")]
        case TryFailed():
            return [Happening("StepRetrying", f"{fact.activity}: {fact.error}", warning=True)]
        case ActivityFailed():
            return [Happening("StepFailed", f"{fact.activity}: {fact.error}", warning=True)]
        case RunReversed():
            return [Happening("RollingBack", f"the run is stopped and rolled back ({fact.reason})")]
        case CompensationCompleted():
            return [Happening("StepCompensated", f"{fact.activity}: {fact.detail}")]
        case CompensationTryFailed(repeated=False):
            reason = "ReleaseStalled" if fact.stalled else "ReleaseRetrying"
            return [Happening(reason, f"{fact.activity}: {fact.error}", warning=True)]
        case RemainsFound():
            return [
                Happening("RemainsFound", f"there is more than the status told: {', '.join(fact.found)}", warning=True)
            ]
        case RunFinished():
            return _finished(after, fact)
        case HistoryReset():
            return [Happening("HistoryReset", "the run history is reset; nothing was released")]
        case RequestTaken(request):
            reason = "RequestAccepted" if request.accepted else "RequestRefused"
            return [Happening(reason, f"{request.action}: {request.message}", warning=not request.accepted)]
        case _:
            return []


def _finished(after: Saga, fact: RunFinished) -> list[Happening]:
    run = after.run
    match fact.outcome:
        case Outcome.FAILED if run is not None:
            told = [Happening("Failed", f"attempt {run.attempt} failed at {run.failed_activity}: {run.error}", True)]
            if activity := structural_cause(after):
                told.append(Happening("StructuralCause", structural_advice(activity), warning=True))
            return told
        case Outcome.CANCELLED:
            return [Happening("Cancelled", "everything was rolled back; nothing is held")]
        case Outcome.RELEASED:
            return [Happening("Decommissioned", "everything is released")]
        case _:
            return []


def structural_advice(activity: str) -> str:
    """What to do about a tenant that keeps failing at the same activity."""
    return (
        f"{activity} has failed in three attempts or more: the cause looks structural. Decommission and recreate the "
        "tenant, or escalate; a further retry is allowed"
    )
