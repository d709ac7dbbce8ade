"""The journal of a saga as frozen data: one run, its timeline, the ledger, and what earlier attempts left to read."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """What a run is for. PROVISION makes and may roll back, RELEASE undoes, ADOPT takes over what is there and never
    turns back: what it did not make is not its own to undo."""

    PROVISION = "Provision"
    RELEASE = "Release"
    ADOPT = "Adopt"


class Direction(StrEnum):
    """Forward runs activities in order, Backward compensates the started ones, last first."""

    FORWARD = "Forward"
    BACKWARD = "Backward"


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    RELEASED = "Released"


class RowState(StrEnum):
    """Where an activity of the current run stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    COMPENSATING = "Compensating"
    COMPENSATED = "Compensated"
    SKIPPED = "Skipped"


class EntryState(StrEnum):
    """Where a resource of the ledger stands."""

    ALLOCATING = "Allocating"
    ALLOCATED = "Allocated"
    RELEASING = "Releasing"
    RELEASE_FAILED = "ReleaseFailed"


@dataclass(frozen=True, slots=True)
class Reservation:
    """A resource that an activity is about to hold."""

    kind: str
    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger: in it from before the resource is first touched until it is known to be gone."""

    reservation: Reservation
    activity: str
    state: EntryState
    reserved_at: datetime
    since: datetime


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the timeline. `tries` counts the failed tries in the current direction, `outages` those of them that
    failed because a server that all share was away.

    Its clock begins at `resumed_at`, or else at `started_at`; `takeovers` counts how often other workers took it over.
    Of a row that is Pending it says that the activity may have been run, by a worker that could not journal it.
    """

    activity: str
    phase: str
    state: RowState = RowState.PENDING
    started_at: datetime | None = None
    completed_at: datetime | None = None
    tries: int = 0
    outages: int = 0
    next_try_at: datetime | None = None
    takeovers: int = 0
    resumed_at: datetime | None = None
    message: str = ""
    checkpoints: tuple[str, ...] = ()

    @property
    def spent(self) -> int:
        """The failed tries that count against the budget."""
        return self.tries - self.outages


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last sign of life of the running activity; `progress` in percent."""

    at: datetime
    activity: str
    detail: str
    progress: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The current or last run. `resumed_at` is when the present worker took it over."""

    id: str
    attempt: int
    kind: Kind
    direction: Direction
    reason: str
    requested_by: str | None
    started_at: datetime
    worker: str
    fence: int
    resumed_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    failed_activity: str | None = None
    cancelled_activity: str | None = None
    error: str | None = None
    heartbeat: Heartbeat | None = None

    @property
    def finished(self) -> bool:
        return self.finished_at is not None


@dataclass(frozen=True, slots=True)
class PastRun:
    """What is kept of a run that ended."""

    run_id: str
    attempt: int
    kind: Kind
    outcome: Outcome
    failed_activity: str | None
    error: str | None
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class FailedTry:
    """A line of the error log of the current attempt."""

    at: datetime
    attempt: int
    activity: str
    number: int
    message: str


@dataclass(frozen=True, slots=True)
class Request:
    """A one-shot request and what became of it. `id` tells two of the same kind apart."""

    id: str
    action: str
    requested_by: str | None
    requested_at: datetime
    accepted: bool
    message: str


@dataclass(frozen=True, slots=True)
class Saga:
    """Everything the engine knows and needs: `decide` looks at nothing else.

    `failures` counts the failed attempts by activity since the last one that completed.
    """

    attempt: int = 0
    run: Run | None = None
    timeline: tuple[Row, ...] = ()
    ledger: tuple[Entry, ...] = ()
    history: tuple[PastRun, ...] = ()
    errors: tuple[FailedTry, ...] = ()
    failures: tuple[tuple[str, int], ...] = ()
    last_request: Request | None = None

    def row(self, activity: str) -> Row:
        """The timeline's row of an activity of the current run."""
        return next(row for row in self.timeline if row.activity == activity)

    def is_open(self, phase: str) -> bool:
        """Whether the intent of the phase is journalled."""
        return any(row.phase == phase and row.state is not RowState.PENDING for row in self.timeline)

    @property
    def in_hand(self) -> Row | None:
        """The row of the activity that is being done or undone. Undoing begins with what may have come after the one
        that was being done."""
        busy = (RowState.RUNNING, RowState.COMPENSATING)
        return next((row for row in reversed(self.timeline) if row.state in busy), None)
