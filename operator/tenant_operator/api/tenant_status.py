"""The status of a Tenant: what people read, and the journal that the engine keeps."""

from typing import Annotated, Final

from pydantic import BeforeValidator, Field, JsonValue, WithJsonSchema

from .conditions import Conditions
from .fields import (
    UNOBSERVED,
    ApiModel,
    Label,
    Message,
    Name,
    ObservedGeneration,
    Text,
    Time,
    Url,
    bounded_list,
    keywords,
    list_map,
    whole,
)
from .states import (
    ActionOutcome,
    ActivityState,
    AllocationState,
    Direction,
    RunKind,
    RunOutcome,
    RunReason,
    TenantState,
)

HISTORY_LENGTH: Final = 5
ERROR_LOG_LENGTH: Final = 20
OUTBOX_LENGTH: Final = 200

Count = Annotated[int, whole()]
Counter = Annotated[int, whole(width=64)]


def _latest(length: int) -> BeforeValidator:
    """Older rows fall off the front of a log."""

    def cut(rows: object) -> object:
        return rows[-length:] if isinstance(rows, list | tuple) else rows

    return BeforeValidator(cut)


class Heartbeat(ApiModel):
    """The last sign of life of a running activity."""

    at: Time
    """When the activity was last heard of."""
    activity: Label
    """The name of the activity."""
    detail: Message = ""
    """What it is doing."""
    progress: Annotated[int, whole(0, 100)] | None = None
    """Percent."""


class Run(ApiModel):
    """The current run of the saga, or the last one."""

    id: Label
    """A ULID."""
    attempt: Count
    """The number of the attempt, from 1."""
    kind: RunKind
    direction: Direction
    reason: RunReason
    requested_by: Name | None = None
    """The user who asked for it; absent for the platform itself."""
    started_at: Time
    """When the run began."""
    resumed_at: Time | None = None
    """When another worker last took the run over."""
    finished_at: Time | None = None
    """When the run ended; absent while it goes on."""
    outcome: RunOutcome | None = None
    failed_activity: Label | None = None
    """The activity that failed, and made the run turn back."""
    cancelled_activity: Label | None = None
    """What was running when the run was told to stop."""
    error: Message | None = None
    """Why it failed."""
    worker: Text = ""
    """The replica that holds the run."""
    fence: Counter = 0
    """To rise with each change of worker once there are several replicas; 0 until then."""
    heartbeat: Heartbeat | None = None


class TimelineEntry(ApiModel):
    """One activity of the current run."""

    activity: Label
    """The name of the activity."""
    phase: Label
    """The phase that the activity belongs to."""
    state: ActivityState
    started_at: Time | None = None
    """When its first try began."""
    completed_at: Time | None = None
    """When it was complete, or had failed for good."""
    tries: Count = 0
    """How many tries have failed; counted anew when it is rolled back."""
    outages: Count | None = None
    """How many of them failed because a server that all tenants share was away, which maxTries does not count; absent:
    none."""
    next_try_at: Time | None = None
    """When the next try is due, after a failed one."""
    takeovers: Count | None = None
    """How often another worker took the activity over; absent: never. Of an activity that is Pending: it may have been
    run all the same, by a worker that could not write so down."""
    resumed_at: Time | None = None
    """When its timeout last began anew because of that."""
    message: Message = ""
    """What it did, what it waits for, or why it failed."""
    checkpoints: Annotated[tuple[Text, ...], bounded_list(16)] = ()
    """The parts of the activity that are done and are not done again."""


class Allocation(ApiModel):
    """One row of the ledger: a resource that is held, or about to be."""

    kind: Label
    """A kind of Kubernetes, or PostgresDatabase, PostgresRole, PostgresSchema."""
    name: Name
    """The name of the resource."""
    namespace: Label | None = None
    """The namespace of the resource, if it has one."""
    activity: Label
    """The activity that allocates and releases it."""
    state: AllocationState
    since: Time
    """When the state last changed."""
    reserved_at: Time
    """When the row was written, before the resource was touched."""


class Attempt(ApiModel):
    """One finished run, kept to compare it with others."""

    attempt: Count
    """The number of the attempt."""
    run_id: Label
    """The id of its run."""
    kind: RunKind
    outcome: RunOutcome
    failed_activity: Label | None = None
    """The activity that failed."""
    error: Message | None = None
    """Why it failed."""
    started_at: Time
    """When the run began."""
    finished_at: Time
    """When the run ended."""


class FailedTry(ApiModel):
    """One row of the error log of the current attempt."""

    at: Time
    """When it failed."""
    attempt: Count
    """The number of the attempt."""
    activity: Label
    """The activity that was tried."""
    try_: Annotated[int, whole()] = Field(validation_alias="try", serialization_alias="try")
    """The number of the try, from 1."""
    message: Message
    """Why it failed."""


class LastAction(ApiModel):
    """The last one-shot request, and what became of it."""

    id: Label
    """Tells two requests of the same kind apart, so that none is taken twice."""
    action: Label
    """cancel, retry or reset, or whatever else the annotation said."""
    requested_by: Name | None = None
    """The user who asked for it, where admission runs."""
    requested_at: Time
    """When the operator took the request off its annotation."""
    outcome: ActionOutcome
    message: Message = ""
    """What follows from it, or why it was refused."""


class OutboxEvent(ApiModel):
    """An audit event that not every sink has acknowledged yet."""

    id: Annotated[str, keywords({"minLength": 26, "maxLength": 26})]
    """A ULID: sinks store an event at most once by it."""
    type: Label
    """What happened, such as tenant.provisioning.started."""
    actor_id: Name | None = None
    """The user who asked for it; absent for the platform itself."""
    actor_email: Name | None = None
    """The same, if it is an email address."""
    org_id: Label
    """The name of the Organization."""
    tenant_id: Label
    """The UID of the Tenant."""
    created_at: Time
    """When it happened."""
    data: Annotated[
        dict[str, JsonValue],
        WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
    ] = Field(default_factory=dict)
    """What else there is to tell; it depends on the type."""


class ActivityFailures(ApiModel):
    """How many attempts in a row failed at the same activity."""

    activity: Label
    """The name of the activity."""
    count: Count
    """The number of attempts."""


class TenantStatus(ApiModel):
    """What people read and what the engine journals.

    Its lists but the conditions have one writer and are replaced as a whole: as maps, the API server would keep an
    owner for every field of every row, which is longer than the status itself.
    """

    observed_generation: ObservedGeneration = UNOBSERVED
    """The generation of the spec that the status speaks of."""
    state: TenantState = TenantState.PENDING
    phase: Text = ""
    """The running activity; empty when nothing runs."""
    url: Url | None = None
    """Where the tenant serves."""
    tenant_id: Label | None = None
    """The identity of the tenant, stable across attempts: all that it holds is labelled with it. It is the UID of the
    Tenant, or of the one that this one was restored from."""
    record_uid: Label | None = None
    """The UID of the Tenant that the status was written for: a status that was restored from a backup of another one is
    told by it, and not believed."""
    organization_slug: Label | None = None
    """The slug of the organization when the tenant's things were named: what is held is found by it, whatever becomes
    of the Organization."""
    attempt: Count = 0
    """How many attempts were started."""
    conditions: Annotated[Conditions, list_map(32, "type")] = ()
    """How it fares, one aspect each."""
    run: Run | None = None
    timeline: Annotated[tuple[TimelineEntry, ...], bounded_list(32)] = ()
    """The activities of the current run, or of the last one, in order."""
    allocations: Annotated[tuple[Allocation, ...], bounded_list(64)] = ()
    """The ledger: what is held."""
    history: Annotated[tuple[Attempt, ...], _latest(HISTORY_LENGTH), bounded_list(HISTORY_LENGTH)] = ()
    """The last finished runs, oldest first."""
    errors: Annotated[tuple[FailedTry, ...], _latest(ERROR_LOG_LENGTH), bounded_list(ERROR_LOG_LENGTH)] = ()
    """The last failed tries of the current attempt, oldest first."""
    failures: Annotated[tuple[ActivityFailures, ...], bounded_list(16)] = ()
    """Failed attempts in a row, by the activity that failed."""
    last_action: LastAction | None = None
    outbox: Annotated[tuple[OutboxEvent, ...], bounded_list(OUTBOX_LENGTH)] = ()
    """Audit events that wait to be written to the audit feed."""
    plan: Text | None = None
    """The Plan that it is made of, which follows spec.plan when no run is under way; absent while nothing is held."""
    workloads_hash: Text | None = None
    """A fingerprint of all that the plan makes for the tenant, as it was last rolled out, or is being."""
    credentials: Annotated[int, whole()] | None = None
    """How often the Secrets that the workloads read were made again while the tenant served."""
    decommissioned_at: Time | None = None
    """When everything was released; absent unless it is Decommissioned."""
