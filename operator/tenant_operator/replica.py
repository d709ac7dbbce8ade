"""The life of one replica: it learns what there is, works, watches over everything that runs beside, and drains."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.resync import Listing, PlatformKinds, Resync
from tenant_operator.wiring import Parts

_log = logging.getLogger(__name__)


class PartEnded(Exception):
    """Something that has to run as long as the replica ended before: the message names it, the cause is why."""


class Replica:
    """Works on all tenants that there are."""

    def __init__(
        self,
        parts: Parts,
        catalog: PlatformKinds,
        listing: Listing,
        *,
        resync_seconds: float,
        compare_seconds: float,
        drain_seconds: float,
    ) -> None:
        """`resync_seconds`: between two looks for what the watches missed. `compare_seconds`: in which every tenant
        that serves is compared with what there is of it. `drain_seconds`: what runs has so long to
        come to a stop."""
        self._parts = parts
        self._listing = listing
        self._resync = Resync(listing, parts.memory, catalog, parts.inbox)
        self._resync_seconds = resync_seconds
        self._compare_seconds = compare_seconds
        self._drain_seconds = drain_seconds
        self.not_working = "starting"
        """Why it does not work now; empty while it does."""

    async def learn(self) -> None:
        """Find out what there is; plans and organisations first: a tenant is judged by them. Raises ActivityError."""
        inbox = self._parts.inbox
        for kind, hear in (
            (Plan, inbox.plan_changed),
            (Organization, inbox.organization_changed),
            (Tenant, inbox.tenant_changed),
        ):
            async for body in self._listing(kind.definition.plural):
                hear(None, body)
        _log.info("%d tenants known", len(self._parts.memory))

    async def work(self, told_to_end: asyncio.Event, beside: Mapping[str, Coroutine[Any, Any, object]]) -> None:
        """Work until told to end, then drain; `beside` is what has to run meanwhile, by its name. Raises PartEnded if
        any of that ended by itself, after the same drain."""
        self._parts.platform.begin()
        running: dict[str, Coroutine[Any, Any, object]] = {
            "audit courier": self._parts.courier.run(),
            "resync": self._resync.run(self._resync_seconds),
            "comparison": self._parts.comparison.run(self._compare_seconds),
            **beside,
        }
        tasks = [asyncio.create_task(part, name=name) for name, part in running.items()]
        ending = asyncio.create_task(told_to_end.wait())
        self.not_working = ""
        try:
            await asyncio.wait({*tasks, ending}, return_when=asyncio.FIRST_COMPLETED)
            ended = [] if told_to_end.is_set() else [task for task in tasks if task.done()]
        finally:
            self.not_working = "ending"
            await self._drain()
            for task in (*tasks, ending):
                task.cancel()
            await asyncio.gather(*tasks, ending, return_exceptions=True)
        for task in ended:
            raise PartEnded(f"the {task.get_name()} ended by itself") from task.exception()

    async def _drain(self) -> None:
        _log.info("draining")
        self._parts.runner.stop()
        closing = (self._parts.requests, self._parts.queue, self._parts.platform)
        await asyncio.gather(*(each.close(self._drain_seconds) for each in closing))
