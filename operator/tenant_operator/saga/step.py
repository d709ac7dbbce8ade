"""What a step of a saga is: its static description, and what one try of it can answer."""

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import timedelta

from tenant_operator.saga.model import Reservation


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: `initial`, doubled by each failed try up to `maximum`, at most `max_tries` tries in all.

    Tries that fail because a server that all sagas share is away are not counted: those go on until the timeout.
    A compensation that has used up its tries is stalled, and goes on being tried every `stalled_every`.
    """

    max_tries: int = 5
    initial: timedelta = timedelta(seconds=1)
    maximum: timedelta = timedelta(seconds=30)
    stalled_every: timedelta = timedelta(minutes=1)

    def backoff(self, failed_tries: int, jitter: float) -> timedelta:
        """The pause after the `failed_tries`-th failure (from 1); `jitter` in [0, 1) spreads it over its upper half."""
        exponential = self.initial * 2 ** min(max(failed_tries - 1, 0), 20)
        spread: timedelta = min(exponential, self.maximum) * (0.5 + jitter / 2)
        return spread


@dataclass(frozen=True, slots=True)
class Step:
    """One activity as the engine sees it.

    `timeout` spans all its tries; it begins anew with a worker that takes over, `max_takeovers` times at most. A
    best-effort step cannot fail the saga. `compensates` says whether a release has anything to undo. `verifies` says
    that its compensation looks whether anything is left: it is part of every release, whatever the journal tells.
    `renews` says that an adoption runs it again over what is there. `looks_only` says that it touches nothing: it needs
    no intent. `reserves` is what the activity is about to hold:
    it enters the ledger with the intent.
    """

    activity: str
    phase: str
    timeout: timedelta
    retry: RetryPolicy
    max_takeovers: int = 3
    best_effort: bool = False
    compensates: bool = True
    verifies: bool = False
    renews: bool = False
    looks_only: bool = False
    reserves: tuple[Reservation, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The activity (or its compensation) has reached its goal. `detail` is a human phrase for the feed, `output` what
    the record has to keep of it, as frozen data of the domain."""

    detail: str
    output: Hashable = None


@dataclass(frozen=True, slots=True)
class NotYet:
    """Nothing failed and nothing is left to do but wait; `cause` says for what. The engine looks again when the
    world changes, and after `recheck_seconds` at the latest."""

    cause: str
    recheck_seconds: float = 1.0
    progress: int | None = None


@dataclass(frozen=True, slots=True)
class Remains:
    """Of a step that verifies: what the journal takes for released, or for never made, is there. `found` names it."""

    found: tuple[str, ...]


Progress = Done | NotYet
"""What a try of an activity can answer."""

Undone = Progress | Remains
"""What a try of a compensation can answer."""
