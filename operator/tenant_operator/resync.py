"""Finds what the watches missed: a re-list after a lost watch does not tell of deletions."""

import asyncio
import logging
from collections.abc import AsyncIterable, Callable, Collection, Iterable
from typing import Any, Protocol

from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.names import WatchEvent
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.resource import Resource
from tenant_operator.api.tenant import Tenant
from tenant_operator.saga.errors import ActivityError
from tenant_operator.tenants.memory import TenantMemory

_log = logging.getLogger(__name__)


Listing = Callable[[str], AsyncIterable[dict[str, Any]]]
"""All objects of one of the product's kinds (its plural), one after the other: thousands of them take much room."""


class Inbox(Protocol):
    """Who is told of what was found, as a watch reports it."""

    def tenant_changed(self, event: str | None, body: dict[str, Any]) -> None: ...

    def plan_changed(self, event: str | None, body: dict[str, Any]) -> None: ...

    def organization_changed(self, event: str | None, body: dict[str, Any]) -> None: ...


class PlatformKinds(Protocol):
    """The Plans and Organizations that are known."""

    def plans(self) -> Collection[Plan]: ...

    def organizations(self) -> Collection[Organization]: ...


class Named(Protocol):
    """Anything that has a name and a UID."""

    @property
    def metadata(self) -> ObjectMeta: ...


class Resync:
    """Compares what is known with what is listed, by UID: one that was deleted and made anew is another one. What comes
    while the list is read is not missing from it, nor is what is there and cannot be read."""

    def __init__(self, listing: Listing, memory: TenantMemory, catalog: PlatformKinds, inbox: Inbox) -> None:
        self._listing = listing
        self._memory = memory
        self._catalog = catalog
        self._inbox = inbox

    async def run(self, seconds: float) -> None:
        """Compare every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.once()
            except ActivityError as error:  # the next one may do better
                _log.warning("resync: %s", error.message)

    async def once(self) -> None:
        """Raises ActivityError where the API server does not answer."""
        await self._compare(Tenant, self._memory, self._inbox.tenant_changed, tell_all=True)
        await self._compare(Plan, self._catalog.plans(), self._inbox.plan_changed)
        await self._compare(Organization, self._catalog.organizations(), self._inbox.organization_changed)

    async def _compare(
        self,
        model: type[Resource],
        known: Iterable[Named],
        changed: Callable[[str | None, dict[str, Any]], None],
        *,
        tell_all: bool = False,
    ) -> None:
        """Tell what is known and no longer there, and with `tell_all` what is there."""
        missing = {each.metadata.uid: (each.metadata.namespace, each.metadata.name) for each in known}
        async for body in self._listing(model.definition.plural):
            missing.pop(body["metadata"]["uid"], None)
            if tell_all:
                changed(None, body)
        for uid, (namespace, name) in missing.items():
            changed(WatchEvent.DELETED, {"metadata": {"namespace": namespace, "name": name, "uid": uid}})
