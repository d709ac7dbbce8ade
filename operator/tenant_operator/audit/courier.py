"""Carries audit events from the tenants' outboxes to the sink: in order, at least once, in batches."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.ports import AuditLog, Replicas, TenantKey
from tenant_operator.saga.errors import ActivityError

_log = logging.getLogger(__name__)

_BATCH = 500
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_PATIENCE = timedelta(seconds=15)
"""A sink that has not answered by then is in trouble."""


@dataclass(frozen=True, slots=True)
class SinkTrouble:
    """What the sink said last, and since when it has stored nothing."""

    cause: str
    since: datetime


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An event that the sink does not take; it is offered again when it is `due` (seconds of the loop's clock)."""

    event: str
    trouble: SinkTrouble
    due: float


class Courier:
    """Events handed over are delivered until the sink has them; only then may they leave their outbox.

    A sink that is away is left alone for a while, and everybody waits. One that refuses an event for good holds up the
    tenant that it is of, whose later events wait behind it, and nobody else. `on_delivered(key)` is called when events
    of a tenant reached the sink, so that its outbox can be cleared.
    """

    def __init__(
        self,
        audit: AuditLog,
        replicas: Replicas,
        on_delivered: Callable[[TenantKey], None],
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._audit = audit
        self._replicas = replicas
        self._on_delivered = on_delivered
        self._now = now
        self._trouble: SinkTrouble | None = None
        self._asked: datetime | None = None
        self._refused: dict[TenantKey, _Refusal] = {}
        self._waiting: deque[tuple[TenantKey, OutboxEvent]] = deque()
        self._handed_over: dict[TenantKey, set[str]] = {}
        self._delivered: dict[TenantKey, set[str]] = {}
        self._bell = asyncio.Event()

    @property
    def backlog(self) -> int:
        """Events that the sink does not have yet."""
        return len(self._waiting)

    @property
    def trouble(self) -> SinkTrouble | None:
        """What is the matter with the sink; None as long as it stores what it is given."""
        if self._trouble is None and self._asked is not None and self._now() - self._asked > _PATIENCE:
            return SinkTrouble("it gives no answer", self._asked)
        return self._trouble

    def trouble_of(self, key: TenantKey) -> SinkTrouble | None:
        """What keeps the events of a tenant from being stored; None if nothing does."""
        refusal = self._refused.get(key)
        return refusal.trouble if refusal is not None else self.trouble

    def hand_over(self, key: TenantKey, events: Sequence[OutboxEvent]) -> None:
        """Take charge of a tenant's outbox. Events that were handed over before are not taken twice."""
        if not events:
            return
        known = self._handed_over.setdefault(key, set())
        for event in events:
            if event.id not in known:
                known.add(event.id)
                self._waiting.append((key, event))
        self._bell.set()  # those that were known may have been another replica's to deliver

    def undelivered(self, key: TenantKey, outbox: Sequence[OutboxEvent]) -> list[OutboxEvent]:
        """What has to stay in the outbox."""
        delivered = self._delivered.get(key, set())
        return [event for event in outbox if event.id not in delivered]

    def cleared(self, key: TenantKey, outbox: Sequence[OutboxEvent]) -> None:
        """The stored outbox is now `outbox`: what is no longer in it need not be remembered."""
        left = {event.id for event in outbox}
        for known in (self._handed_over, self._delivered):
            if key in known:
                known[key] &= left
                if not known[key]:
                    del known[key]

    async def run(self) -> None:
        """Deliver for ever. A sink that fails is tried again, with pauses from 1 s to 30 s; nothing is dropped."""
        pause, size = _FIRST_PAUSE, _BATCH
        while True:
            batch = self._due(size)
            if not batch:
                await self._wait()
                continue
            self._asked = self._now()
            try:
                await self._audit.append([event for _, event in batch])
            except Exception as error:  # the feed must outlive whatever a sink may do
                if isinstance(error, ActivityError) and error.can_heal:
                    self._failed(error.message)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                elif len(batch) > 1:
                    size = len(batch) // 2  # which of them is it?
                else:
                    self._refuse(*batch[0], error)
                continue
            self._succeeded()
            pause, size = _FIRST_PAUSE, min(size * 2, _BATCH)
            self._deliver(batch)

    def _due(self, size: int) -> list[tuple[TenantKey, OutboxEvent]]:
        """What is to be offered to the sink next."""
        now = asyncio.get_running_loop().time()
        held_up = {key for key, refusal in self._refused.items() if refusal.due > now}
        mine = self._replicas.mine
        return list(islice((item for item in self._waiting if item[0] not in held_up and mine(item[0])), size))

    async def _wait(self) -> None:
        """Until there is something to be offered."""
        self._bell.clear()
        due = min((refusal.due for refusal in self._refused.values()), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._bell.wait()

    def _deliver(self, batch: Sequence[tuple[TenantKey, OutboxEvent]]) -> None:
        """The sink has these."""
        if all(sent is first for sent, first in zip(batch, self._waiting, strict=False)):
            for _ in batch:
                self._waiting.popleft()
        else:
            stored = {event.id for _, event in batch}
            self._waiting = deque(item for item in self._waiting if item[1].id not in stored)
        for key, event in batch:
            self._delivered.setdefault(key, set()).add(event.id)
        for key in {key for key, _ in batch}:
            if self._refused.pop(key, None) is not None:
                _log.info("audit sink: it takes the events of %s again", key)
            self._on_delivered(key)

    def _refuse(self, key: TenantKey, event: OutboxEvent, error: Exception) -> None:
        """The sink does not take this event, whatever comes with it."""
        cause = error.message if isinstance(error, ActivityError) else f"unexpected {type(error).__name__}"
        told = self._refused.get(key)
        if told is None or (told.event, told.trouble.cause) != (event.id, cause):
            _log.error(
                "audit sink: it refuses event %s (%s) of %s: %s; what this tenant tells after it waits, and it is "
                "offered again every %g s",
                *(event.id, event.type, key, cause, _LONGEST_PAUSE),
            )
        since = told.trouble.since if told is not None else self._now()
        due = asyncio.get_running_loop().time() + _LONGEST_PAUSE
        self._refused[key] = _Refusal(event.id, SinkTrouble(cause, since), due)
        self._asked = None
        if told is None:
            self._on_delivered(key)  # the tenant has something to say

    def _failed(self, cause: str) -> None:
        """One line in the log for each cause, not for each try."""
        since = self._trouble.since if self._trouble is not None else self._asked or self._now()
        self._asked = None
        if self._trouble is None or self._trouble.cause != cause:
            _log.warning(
                "audit sink: %s; %d events wait, and a tenant with more than 100 of them begins nothing; it is tried "
                "again at least every %g s",
                *(cause, len(self._waiting), _LONGEST_PAUSE),
            )
        self._trouble = SinkTrouble(cause, since)

    def _succeeded(self) -> None:
        self._asked = None
        if self._trouble is not None:
            lasted = (self._now() - self._trouble.since).total_seconds()
            _log.info("audit sink: it stores events again, after %g s without", round(lasted))
            self._trouble = None
