"""The states of a tenant, of its runs, and of what its runs do and hold."""

from enum import StrEnum


class DesiredState(StrEnum):
    """The lasting intent for a tenant."""

    ACTIVE = "Active"
    """Provisioned, and its route open."""
    SUSPENDED = "Suspended"
    """Provisioned and kept, its route closed: requests are answered with 503."""
    DECOMMISSIONED = "Decommissioned"
    """Everything released; the record stays."""


class TenantState(StrEnum):
    """Where a tenant is between asked for, serving, and gone."""

    PENDING = "Pending"
    """Not started, or cancelled: nothing is held."""
    PROVISIONING = "Provisioning"
    """The saga runs, forward or rolling back."""
    ACTIVE = "Active"
    """Serves traffic."""
    SUSPENDED = "Suspended"
    """Complete and kept, its route closed."""
    FAILED = "Failed"
    """Provisioning failed and was rolled back: nothing is held."""
    DECOMMISSIONING = "Decommissioning"
    """Everything is being released."""
    DECOMMISSIONED = "Decommissioned"
    """Released; the record and its history stay."""


class RunKind(StrEnum):
    """What a run is for."""

    PROVISION = "Provision"
    """Makes the tenant; rolls back if that fails or is cancelled."""
    RELEASE = "Release"
    """Releases what the tenant holds."""
    ADOPT = "Adopt"
    """Takes over a tenant that is there and serves, and never rolls back."""


class Direction(StrEnum):
    """Whether a run makes or unmakes."""

    FORWARD = "Forward"
    """From the first activity to the last."""
    BACKWARD = "Backward"
    """From the last activity to the first, undoing."""


class RunReason(StrEnum):
    """Why a run goes its way: the first four forward, the others backward."""

    CREATED = "Created"
    """The Tenant is new."""
    RETRIED = "Retried"
    """Somebody asked for a retry."""
    RECREATED = "Recreated"
    """A decommissioned tenant is wanted again."""
    ADOPTED = "Adopted"
    """The tenant is there and serves, and its status does not tell of it."""
    FAILED = "Failed"
    """An activity failed."""
    CANCELLED = "Cancelled"
    """Somebody cancelled the run."""
    DECOMMISSIONED = "Decommissioned"
    """desiredState is Decommissioned."""
    DELETED = "Deleted"
    """The Tenant is being deleted."""


class RunOutcome(StrEnum):
    """How a run ended."""

    COMPLETED = "Completed"
    """The tenant is made."""
    FAILED = "Failed"
    """An activity failed, and all was rolled back."""
    CANCELLED = "Cancelled"
    """Told to stop, and all was rolled back."""
    RELEASED = "Released"
    """Nothing is held any more."""


class ActivityState(StrEnum):
    """Where one activity of a run is."""

    PENDING = "Pending"
    """Its turn has not come."""
    RUNNING = "Running"
    """At work, or waiting for its next try."""
    COMPLETED = "Completed"
    """Done."""
    FAILED = "Failed"
    """Failed for good."""
    COMPENSATING = "Compensating"
    """Being undone."""
    COMPENSATED = "Compensated"
    """Undone."""
    SKIPPED = "Skipped"
    """Not part of this run."""


class AllocationState(StrEnum):
    """Where one held resource is; a released one leaves the ledger."""

    ALLOCATING = "Allocating"
    """About to be made, or being made."""
    ALLOCATED = "Allocated"
    """Held."""
    RELEASING = "Releasing"
    """Being released."""
    RELEASE_FAILED = "ReleaseFailed"
    """Could not be released so far; it goes on being tried."""


class ActionOutcome(StrEnum):
    """What became of a request."""

    ACCEPTED = "Accepted"
    """It is done, or begun."""
    REFUSED = "Refused"
    """It was not possible, and nothing has changed."""
