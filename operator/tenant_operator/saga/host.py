"""What the engine asks of the place where sagas live: the one protocol between it and a domain."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from tenant_operator.saga.facts import Fact
from tenant_operator.saga.model import Saga
from tenant_operator.saga.sight import Kept
from tenant_operator.saga.step import Progress, Step, Undone

R = TypeVar("R")


class Clock(Protocol):
    """Where the engine reads the time."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware, UTC: for what is written down."""

    def elapsed(self) -> float:
        """Seconds since some fixed point, by a clock that nobody sets: for what is measured."""


class Pulse(Protocol):
    """How a running activity speaks to its journal."""

    def heartbeat(self, detail: str, progress: int | None = None) -> None:
        """Say what is being done, and how far it is in percent. Journalled with the next pulse."""

    def is_awaited(self) -> bool:
        """Whether what is said now would be journalled: news that cost something to find out can wait till then."""

    async def checkpoint(self, name: str) -> None:
        """Journal that a part of the activity is done. Returns once it is written."""


class Host(Protocol[R]):
    """Where sagas live and what their activities do. `R` is the record that carries the journal."""

    def saga(self, record: R) -> Saga:
        """The journal in the record."""

    def steps(self, record: R) -> Mapping[str, Step]:
        """The steps of the record's saga by activity, in order."""

    def demand(self, record: R, saga: Saga, *, held: bool) -> Sequence[Fact]:
        """What the outside asks of the saga now: a start, a reversal, a reset. Empty once it has been granted. `held`:
        a living worker has the run in hand."""

    def mine(self, record: R) -> bool:
        """Whether this worker may act on the record now. Asked before each try of an activity or a compensation."""

    def newest(self, record: R) -> R:
        """The newest version of the record that is known without asking anyone. Raises Gone."""

    def kept(self, record: R) -> Kept | None:
        """What was kept of the saga at the last look; None if that was nothing."""

    def keep(self, record: R, kept: Kept | None) -> None:
        """Keep it until the next look, or until the record is gone."""

    async def refresh(self, record: R) -> R:
        """The record as it is now. Raises Gone, Unavailable."""

    async def write(self, record: R, saga: Saga, facts: Sequence[Fact], now: datetime) -> R:
        """Journal `saga`, and all that `facts` entail, in one guarded write. Raises Stale, or Unavailable (then it may
        or may not have been written)."""

    async def act(self, record: R, saga: Saga, ticks: Sequence[Fact], activity: str, pulse: Pulse) -> Progress:
        """One try of an activity. `saga` is ahead of the journal in the record by `ticks`."""

    async def undo(self, record: R, activity: str, pulse: Pulse) -> Undone:
        """One try of its compensation."""
