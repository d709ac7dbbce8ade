"""Finds what the watches missed: a re-list after a lost watch does not tell of deletions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.resource import Resource
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, TenantStore, key_of
from tenant_operator.saga.errors import ActivityError
from tenant_operator.tenants.known import KnownTenants

_log = logging.getLogger(__name__)


Listing = Callable[[str], Awaitable[list[dict[str, Any]]]]
"""All objects of one of the product's kinds (its plural)."""


class Inbox(Protocol):
    """Who is told of what was found."""

    def tenant_listed(self, tenant: Tenant) -> None:
        """A Tenant is there, in this version or a newer one."""

    def tenant_gone(self, key: TenantKey, uid: str) -> None:
        """The Tenant of that UID is there no more."""

    def plan_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """As a watch reports it."""

    def organization_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """As a watch reports it."""


class PlatformKinds(Protocol):
    """The Plans and Organizations that are known."""

    def plans(self) -> Collection[Plan]: ...

    def organizations(self) -> Collection[Organization]: ...


class Resync:
    """Compares what is known with what is listed, by UID: one that was deleted and made anew is another one. What comes
    while the list is read is not missing from it."""

    def __init__(
        self, store: TenantStore, listing: Listing, known: KnownTenants, catalog: PlatformKinds, inbox: Inbox
    ) -> None:
        self._store = store
        self._listing = listing
        self._known = known
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
        await self._tenants()
        await self._platform(Plan, self._catalog.plans, self._inbox.plan_changed)
        await self._platform(Organization, self._catalog.organizations, self._inbox.organization_changed)

    async def _tenants(self) -> None:
        before = {tenant.metadata.uid: key_of(tenant) for tenant in self._known}
        listed = await self._store.list()
        for uid in before.keys() - {tenant.metadata.uid for tenant in listed}:
            self._inbox.tenant_gone(before[uid], uid)
        for tenant in listed:
            self._inbox.tenant_listed(tenant)

    async def _platform(
        self,
        model: type[Resource],
        known: Callable[[], Collection[Resource]],
        changed: Callable[[str | None, dict[str, Any]], None],
    ) -> None:
        before = {each.metadata.uid: each.metadata.name for each in known()}
        listed = await self._listing(model.definition.plural)
        for uid in before.keys() - {each["metadata"]["uid"] for each in listed}:
            changed("DELETED", {"metadata": {"name": before[uid], "uid": uid}})
