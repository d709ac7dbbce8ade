"""What a serving tenant is beside its journal: whether traffic is paused, which workloads were rolled out, and what
keeps it from being as it should be."""

from dataclasses import dataclass
from typing import Final

from tenant_operator.api.conditions import ConditionType, Reason, find_condition
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant_status import TenantStatus

SERVING: Final = (TenantState.ACTIVE, TenantState.SUSPENDED)
"""The states of a tenant that is complete, its route open or closed."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the last look at a serving tenant failed with, in words for people. `can_heal`: another try may succeed
    without a person."""

    message: str
    can_heal: bool


@dataclass(frozen=True, slots=True)
class Degradation:
    """What is wrong with workloads that were ready, in words for people. `is_down`: nobody answers."""

    cause: str
    is_down: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """`suspended`: traffic is paused. `switching`: the route is being closed or opened, and may be either. `plan`: the
    name of the plan that the tenant is made of. `workloads_hash`: what was last rolled out, or is being. `rolling_out`:
    why their rollout in place is not complete yet; empty if it is. `degraded`: what is wrong with the workloads; None
    if nothing is, as far as was looked. `credentials`: how often what the workloads log in with was made again.
    `repairing`: what of it is being made again; empty if nothing is. `lost`: what is gone for good, and what to do
    about it; empty if nothing is known to be. `trouble`: None if the last look did all that there was to do.
    `hindrance`: why nothing is done before a person has helped, because the status does not tell what there is; empty
    if nothing is in the way."""

    suspended: bool = False
    switching: bool = False
    plan: str | None = None
    workloads_hash: str | None = None
    rolling_out: str = ""
    degraded: Degradation | None = None
    credentials: int = 0
    repairing: str = ""
    lost: str = ""
    trouble: Trouble | None = None
    hindrance: str = ""


def standing_of(status: TenantStatus) -> Standing:
    """What the status tells."""
    ready = find_condition(status.conditions, ConditionType.WORKLOADS_READY)
    traffic = find_condition(status.conditions, ConditionType.TRAFFIC_ENABLED)
    stalled = find_condition(status.conditions, ConditionType.STALLED)
    held = find_condition(status.conditions, ConditionType.RESOURCES_ALLOCATED)
    return Standing(
        suspended=status.state is TenantState.SUSPENDED,
        switching=traffic is not None and traffic.reason in (Reason.SUSPENDING, Reason.RESUMING),
        plan=status.plan,
        workloads_hash=status.workloads_hash,
        rolling_out=ready.message if ready is not None and ready.reason == Reason.ROLLING_OUT else "",
        degraded=_degradation_of(status),
        credentials=status.credentials or 0,
        repairing=held.message if held is not None and held.reason == Reason.REPAIRING else "",
        lost=held.message if held is not None and held.reason == Reason.RESOURCES_LOST else "",
        trouble=_trouble_of(status),
        hindrance=stalled.message if stalled is not None and stalled.reason == Reason.STATUS_LOST else "",
    )


def _degradation_of(status: TenantStatus) -> Degradation | None:
    ready = find_condition(status.conditions, ConditionType.READY)
    workloads = find_condition(status.conditions, ConditionType.WORKLOADS_READY)
    if ready is not None and ready.reason == Reason.DEGRADED:
        said, is_down = ready.message, True
    elif workloads is not None and workloads.reason in (Reason.DEGRADED, Reason.UNAVAILABLE):
        said, is_down = workloads.message, workloads.reason == Reason.UNAVAILABLE
    else:
        return None
    return Degradation(said, is_down)


def _trouble_of(status: TenantStatus) -> Trouble | None:
    for type_, can_heal in ((ConditionType.RECONCILING, True), (ConditionType.STALLED, False)):
        told = find_condition(status.conditions, type_)
        if told is not None and told.reason == Reason.UPKEEP_FAILED:
            return Trouble(told.message, can_heal)
    return None
