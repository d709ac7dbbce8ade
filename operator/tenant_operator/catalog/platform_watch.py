"""Which Organizations and Plans an observation concerns, and how soon they are looked at."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import TENANT_NAMESPACE_PREFIX, WatchEvent
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog.platform_reconciler import PlatformCatalog, PlatformKey
from tenant_operator.catalog.roles import PREFIX
from tenant_operator.provisioning.organization_rules import concern_each_other, homes
from tenant_operator.saga.queue import WorkQueue

COALESCING_SECONDS: Final = 2.0
"""Changes of the numbers of tenants are gathered for so long: hundreds of them make one write."""
DRIFT_SECONDS: Final = 0.5
"""So long after a change of a RoleBinding it is looked at: an own change has been heard of completely by then."""

_CONCURRENCY: Final = 4


def counted_by(before: KnownTenant | None, after: KnownTenant | None) -> set[PlatformKey]:
    """Whose numbers change when a tenant that was `before` is `after`; None stands for no tenant."""
    if _counts(before) == _counts(after):
        return set()
    return {
        key
        for tenant in (before, after)
        if tenant is not None
        for key in (PlatformKey(Organization, tenant.spec.organization), PlatformKey(Plan, tenant.spec.plan))
    }


def _counts(tenant: KnownTenant | None) -> tuple[str, str, str] | None:
    return None if tenant is None else (tenant.spec.organization, tenant.spec.plan, tenant.status.state.value)


class PlatformWatch:
    """Hears what the watches report, and has `reconcile` called with the keys that it concerns.

    Nothing is called before `begin`: numbers of tenants that are only half known must not be written.
    """

    def __init__(
        self, catalog: PlatformCatalog, reconcile: Callable[[PlatformKey, asyncio.Event], Awaitable[float | None]]
    ) -> None:
        self._catalog = catalog
        self._queue = WorkQueue(reconcile, concurrency=_CONCURRENCY)
        self._begun = False

    def begin(self) -> None:
        """Every Tenant is known. The watches of Organizations and Plans are about to list all there are."""
        self._begun = True

    async def close(self, grace: float) -> None:
        """Start nothing more, and let what runs end within `grace` seconds."""
        await self._queue.close(grace)

    def organization_changed(self, event: str | None, body: Mapping[str, Any]) -> None:
        """An Organization was listed, added, modified or deleted; the catalogue knows."""
        name = body["metadata"]["name"]
        self._changed(PlatformKey(Organization, name), event, body)
        changed = self._catalog.organization(name)
        if changed is None or _is_judged(body) or event not in (WatchEvent.ADDED, WatchEvent.MODIFIED):
            return
        # Of two that cannot stand beside each other the later one is at fault, and that may be the one known before.
        for other in self._catalog.organizations():
            if other is not changed and concern_each_other(changed, other):
                self._wake_after(_key_of(other), COALESCING_SECONDS)

    def plan_changed(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A Plan was listed, added, modified or deleted; the catalogue knows."""
        name = body["metadata"]["name"]
        self._changed(PlatformKey(Plan, name), event, body)
        if event != WatchEvent.MODIFIED:
            for organization in self._catalog.organizations():
                if name in organization.spec.plans:
                    self._wake_after(_key_of(organization), COALESCING_SECONDS)

    def tenant_changed(self, before: KnownTenant | None, after: KnownTenant | None) -> None:
        """A tenant that was `before` is `after`; None stands for no tenant."""
        for key in counted_by(before, after):
            self._wake_after(key, COALESCING_SECONDS)

    def role_binding_changed(self, body: Mapping[str, Any]) -> None:
        """Any RoleBinding of the cluster was listed, added, modified or deleted. It concerns who lives in its
        namespace, whatever it says itself: labels can be copied, by anybody and as often as they please."""
        metadata = body["metadata"]
        if metadata["name"].startswith(PREFIX):
            self._concerns(metadata["namespace"])

    def namespace_changed(self, body: Mapping[str, Any]) -> None:
        """Any namespace of the cluster was listed, added, modified or deleted."""
        name: str = body["metadata"]["name"]
        if not name.startswith(TENANT_NAMESPACE_PREFIX):  # there are thousands of these, and nobody else lives there
            self._concerns(name)

    def _changed(self, key: PlatformKey, event: str | None, body: Mapping[str, Any]) -> None:
        if event == WatchEvent.DELETED:
            return
        if not _is_judged(body):
            self._wake_after(key, 0)
        else:
            # The echo of an own write most likely; in a burst of tenants it must not lead straight to the next one.
            self._wake_after(key, COALESCING_SECONDS)

    def _wake_after(self, key: PlatformKey, seconds: float) -> None:
        if self._begun:
            self._queue.wake_after(key, seconds)

    def _concerns(self, namespace: str) -> None:
        """Something changed in a namespace, or about it."""
        for organization in self._catalog.organizations():
            if namespace in homes(organization):
                self._wake_after(_key_of(organization), DRIFT_SECONDS)


def _is_judged(body: Mapping[str, Any]) -> bool:
    """Whether the status speaks of the spec as it is."""
    return bool((body.get("status") or {}).get("observedGeneration") == body["metadata"].get("generation"))


def _key_of(organization: Organization) -> PlatformKey:
    return PlatformKey(Organization, organization.metadata.name)
