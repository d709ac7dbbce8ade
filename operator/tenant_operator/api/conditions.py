"""The conditions of all kinds: their types, their reasons, and the one way to set them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .meta import Condition, ConditionStatus

Conditions = tuple[Condition, ...]


class ConditionType(StrEnum):
    """The conditions, in the order in which a resource lists them."""

    READY = "Ready"
    """Tenant: it serves, and somebody answers; absent in Suspended and Decommissioned, if that is what was asked for.
    Organization: members hold their roles, namespace and plans exist, and it is in nobody's way. Plan: tenants can be
    made of it."""
    RECONCILING = "Reconciling"
    """The operator is at work, or waits for something that ends by itself. Absent otherwise."""
    STALLED = "Stalled"
    """Nothing gets better without a person. Absent otherwise."""
    VALIDATED = "Validated"
    """The request was checked."""
    RESOURCES_ALLOCATED = "ResourcesAllocated"
    """Namespace, database, identity store and traffic boundary are there."""
    SCHEMA_APPLIED = "SchemaApplied"
    """The migrations are applied."""
    WORKLOADS_DEPLOYED = "WorkloadsDeployed"
    """The workloads were applied."""
    WORKLOADS_READY = "WorkloadsReady"
    """Every pod of the workloads is available, and no rollout is going on."""
    TRAFFIC_ENABLED = "TrafficEnabled"
    """The route is open."""
    WELCOME_EMAILS_SENT = "WelcomeEmailsSent"
    """The emails were sent."""
    RESOURCES_HELD = "ResourcesHeld"
    """The ledger, status.allocations, is not empty."""
    DATABASES_CLOSED = "DatabasesClosed"
    """Organization: tenants' roles can connect to no database of the server but their own."""
    AUDIT_BACKLOG = "AuditBacklog"
    """The tenant is held up, because its audit events cannot be stored. Absent otherwise."""


class Reason(StrEnum):
    """Why a condition has its status."""

    # The states of a tenant.
    PENDING = "Pending"
    """The run has not started."""
    PROVISIONING = "Provisioning"
    """A run goes forward; the message names the activity."""
    ACTIVE = "Active"
    """It serves."""
    SUSPENDED = "Suspended"
    """The route is closed, as asked for."""
    CANCELLED = "Cancelled"
    """The run was cancelled and rolled back."""
    RESET = "Reset"
    """The run and its history were forgotten."""
    DECOMMISSIONING = "Decommissioning"
    """Everything is being released, or about to be."""
    DECOMMISSIONED = "Decommissioned"
    """Everything is released."""
    DELETING = "Deleting"
    """Everything is being released because the Tenant is being deleted."""

    # What the operator is busy with.
    ROLLING_BACK = "RollingBack"
    """What was made is being undone; the message says why."""
    RETRYING = "Retrying"
    """A try failed and another one is due; the message says why and when."""
    SUSPENDING = "Suspending"
    """The route is about to be closed."""
    RESUMING = "Resuming"
    """The route is about to be opened."""
    ROLLING_OUT = "RollingOut"
    """A changed plan is being rolled out; the tenant serves meanwhile."""

    ADOPTING = "Adopting"
    """A tenant that serves, and whose status was lost, is taken over as it is; the message names the activity."""

    # How the workloads of a tenant that serves are.
    DEGRADED = "Degraded"
    """Ready: nobody answers, since no pod of the workload that takes the traffic is available. WorkloadsReady: pods
    are missing, and others answer. The message says which and why."""
    UNAVAILABLE = "Unavailable"
    """No pod of the workload that takes the traffic is available; the message says why."""

    REPAIRING = "Repairing"
    """ResourcesAllocated: something that opens the tenant's data was gone or damaged, and is being made again."""

    # What a person has to look at.
    ACTIVITY_FAILED = "ActivityFailed"
    """An activity failed for good."""
    TIMED_OUT = "TimedOut"
    """An activity was out of time."""
    STRUCTURAL_CAUSE = "StructuralCause"
    """Three attempts or more failed at the same activity."""
    RELEASE_FAILED = "ReleaseFailed"
    """A rollback or a release has used up its tries, and goes on slowly."""
    ADOPTION_FAILED = "AdoptionFailed"
    """The adoption has used up its tries, and goes on slowly; nothing is rolled back."""
    STATUS_LOST = "StatusLost"
    """The status does not tell what there is of the tenant, and it cannot be found out, or not be made again without
    loss: nothing is done before a person has helped. The message says what is there, and what is missing."""

    RESOURCES_LOST = "ResourcesLost"
    """Something that holds the data of a tenant that serves is gone, and cannot be made again without loss: the message
    says what, and what a person can do."""
    UPKEEP_FAILED = "UpkeepFailed"
    """A suspension, a resumption, a rollout or the correction of drift failed; it goes on being tried. Stalled if no
    try can succeed without a person, Reconciling otherwise."""

    AUDIT_SINK_FAILING = "AuditSinkFailing"
    """Nothing is begun, or the record is kept, until the audit sink stores events again; the message says what is the
    matter with it."""

    # The steps of a run.
    NOT_STARTED = "NotStarted"
    """Its turn has not come."""
    IN_PROGRESS = "InProgress"
    """At work."""
    COMPLETED = "Completed"
    """Done."""
    RELEASED = "Released"
    """Undone, or nothing is held."""

    # The ledger, the route.
    LEDGER_NOT_EMPTY = "LedgerNotEmpty"
    """Resources are held."""
    ROUTE_OPEN = "RouteOpen"
    """Traffic goes to the workloads."""
    ROUTE_CLOSED = "RouteClosed"
    """Traffic does not go to the workloads."""

    # Organizations and plans.
    RECONCILED = "Reconciled"
    """All is as it should be."""
    INVALID_NAME = "InvalidName"
    """The name of the Organization is too long."""
    INVALID_SLUG = "InvalidSlug"
    """The slug of the Organization can be no part of a host name."""
    SLUG_TAKEN = "SlugTaken"
    """Tenants of the Organization could take the hosts of an older one."""
    NAMESPACE_TAKEN = "NamespaceTaken"
    """The namespace of the Organization is another Organization's."""
    NAMESPACE_RESERVED = "NamespaceReserved"
    """The namespace of the Organization is the cluster's, the operator's or a tenant's."""
    TENANTS_LEFT_BEHIND = "TenantsLeftBehind"
    """The namespace of the Organization was changed while there were Tenants in the former one."""
    PLAN_NOT_FOUND = "PlanNotFound"
    """A plan that the Organization names does not exist."""
    NAMESPACE_NOT_FOUND = "NamespaceNotFound"
    """The namespace of the Organization does not exist, or is being deleted."""
    INVALID_MEMBER = "InvalidMember"
    """A member cannot be given its role."""
    INVALID_PLAN = "InvalidPlan"
    """Every tenant of the plan would fail; the message says why."""
    ROLE_BINDING_TAKEN = "RoleBindingTaken"
    """A RoleBinding of that name is not the operator's."""
    DATABASES_CLOSED = "Closed"
    """DatabasesClosed is True: tenants' roles can connect to their own database only."""
    DATABASES_OPEN = "Open"
    """DatabasesClosed is False: the message names the databases, and the commands that close them."""
    ROLE_BINDING_FAILED = "RoleBindingFailed"
    """The API server refused a RoleBinding."""


@dataclass(frozen=True, slots=True)
class ConditionUpdate:
    """What a condition should say from now on."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""


_RANK = {str(type_): rank for rank, type_ in enumerate(ConditionType)}


def find_condition(conditions: Iterable[Condition], type_: ConditionType) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((each for each in conditions if each.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: ConditionType) -> bool:
    """Whether the condition is there and holds."""
    found = find_condition(conditions, type_)
    return found is not None and found.status is ConditionStatus.TRUE


def set_condition(conditions: Conditions, new: ConditionUpdate, *, generation: int, now: datetime) -> Conditions:
    """Say something of one aspect; `lastTransitionTime` moves only if the status changes.

    The conditions come back in the order of `ConditionType`, those of other types after them as they were.
    """
    old = find_condition(conditions, new.type)
    unchanged = old is not None and old.status is new.status
    updated = Condition(
        type=new.type.value,
        status=new.status,
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old is not None and unchanged else now,
        reason=new.reason.value,
        message=new.message,
    )
    others = remove_condition(conditions, new.type)
    return tuple(sorted((*others, updated), key=lambda each: _RANK.get(each.type, len(_RANK))))


def remove_condition(conditions: Conditions, type_: ConditionType) -> Conditions:
    """Say nothing of one aspect any more."""
    return tuple(each for each in conditions if each.type != type_)
