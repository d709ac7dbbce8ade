"""What can happen to a saga. Evolving the saga with a fact journals it; the audit feed tells the same facts.

Facts that may be journalled later than they happened (ticks) say when that was: `at`.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime

from tenant_operator.saga.model import Kind, Outcome, Request, Reservation


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began: PROVISION goes forward through all steps, RELEASE backward through what may be held, ADOPT forward
    through the steps that it renews. `earlier` attempts are known to have been, whatever the journal tells. A release
    that is `whole` undoes every step: something is there."""

    run_id: str
    kind: Kind
    reason: str
    requested_by: str | None
    earlier: int = 0
    whole: bool = False
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunTakenOver:
    """This worker goes on with a run that another one (or an earlier life of this one) began. `fresh_clock`: the
    running activity has its whole time again."""

    fresh_clock: bool = True


@dataclass(frozen=True, slots=True)
class TicksLost:
    """This worker could not journal its last ticks, and goes on from what is journalled."""


@dataclass(frozen=True, slots=True)
class RunReversed:
    """The run was told to stop and undo what it did."""

    reason: str
    requested_by: str | None


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Nothing is left to do in this run."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class HistoryReset:
    """The run history was wiped by request. The ledger stays."""

    requested_by: str | None = None


@dataclass(frozen=True, slots=True)
class RequestTaken:
    """A one-shot request was judged; what it sets off, if anything, are facts of their own."""

    request: Request


@dataclass(frozen=True, slots=True)
class ActivityStarted:
    """The activity is about to be run. The first of a phase is the intent of the whole phase: `reserves` names what its
    activities are about to hold, each with the activity."""

    activity: str
    reserves: tuple[tuple[str, Reservation], ...] = ()
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ActivityCompleted:
    """The activity reached its goal. `output` is what the record has to keep of it."""

    activity: str
    detail: str
    output: Hashable = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TryFailed:
    """A try failed; the next one is due at `next_try_at`. `outage`: it does not count against the budget. `stalled`
    says that the budget is used up, in a run that goes on all the same, `repeated` that it was so before this try."""

    activity: str
    error: str
    next_try_at: datetime
    outage: bool = False
    stalled: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class ActivityFailed:
    """The activity failed for good."""

    activity: str
    error: str
    best_effort: bool


@dataclass(frozen=True, slots=True)
class CompensationStarted:
    """The intent: the activity is about to be undone."""

    activity: str


@dataclass(frozen=True, slots=True)
class CompensationCompleted:
    """Whatever the activity held is released."""

    activity: str
    detail: str


@dataclass(frozen=True, slots=True)
class CompensationTryFailed:
    """A try to undo failed. `tries` is the number of failed tries now, `outages` of those that do not count; `stalled`
    says that the budget is used up, `repeated` that it was so before this try. Without a `next_try_at` the next try
    comes when the server that it waits for is back."""

    activity: str
    error: str
    next_try_at: datetime | None
    tries: int
    outages: int
    stalled: bool
    repeated: bool


@dataclass(frozen=True, slots=True)
class RemainsFound:
    """The step that verifies found that something is left: everything is released again."""

    activity: str
    found: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pulsed:
    """A sign of life of the running activity: what it is doing or waiting for."""

    activity: str
    detail: str
    progress: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A part of the running activity is done and must not be done again."""

    activity: str
    checkpoint: str


Fact = (
    RunStarted
    | RunTakenOver
    | TicksLost
    | RunReversed
    | RunFinished
    | HistoryReset
    | RequestTaken
    | ActivityStarted
    | ActivityCompleted
    | TryFailed
    | ActivityFailed
    | CompensationStarted
    | CompensationCompleted
    | CompensationTryFailed
    | RemainsFound
    | Pulsed
    | Checkpointed
)

Tick = RunStarted | ActivityStarted | ActivityCompleted
"""What may be lost: a worker that goes on without it repeats what is idempotent, under an intent that is journalled."""
