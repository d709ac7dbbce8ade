"""A sink of the audit feed in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.saga.errors import Unavailable
from tests.fakes.hooks import Hook, nothing_happens


@dataclass
class FakeAudit:
    """Stores each event by its id at most once, in the order of arrival; stores nothing while `refusing`.

    `before` and `after` are awaited around the storing of each event with ("append", id); what they raise is raised, so
    that a batch can fail half-way.
    """

    stored: dict[str, OutboxEvent] = field(default_factory=dict)
    refusing: bool = False
    before: Hook = nothing_happens
    after: Hook = nothing_happens

    @property
    def events(self) -> list[OutboxEvent]:
        """The feed, oldest first."""
        return list(self.stored.values())

    async def append(self, events: Sequence[OutboxEvent]) -> None:
        """Store what is not stored yet."""
        if self.refusing:
            raise Unavailable("audit feed in memory: refused")
        for event in events:
            await self.before("append", event.id)
            self.stored.setdefault(event.id, event)
            await self.after("append", event.id)
