"""The newest version of each Tenant that this process has seen, from watch events and from its own writes."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Final

from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, key_of

Change = Callable[[Tenant | None, Tenant | None], None]
"""Told of a tenant that was the first and is the second; None stands for no tenant."""


def _nothing(before: Tenant | None, after: Tenant | None) -> None:
    """Nobody listens."""


_GONE_KEPT: Final = 10_000
"""UIDs of deleted Tenants that are remembered: answers to requests that were under way when they went come soon."""


class KnownTenants:
    """A map that never goes back in time, with the indexes by which tenants are found. A UID that is gone stays gone:
    the answer to an own write may come after the report of the deletion.

    `on_change` is told of every change, whoever noticed it. A Tenant that cannot be read in its newest version is kept
    as it was read last, for the saga that carries it, but found by no index: nobody may rely on it.
    """

    def __init__(self) -> None:
        self.on_change: Change = _nothing
        self._tenants: dict[TenantKey, Tenant] = {}
        self._keys: dict[str, TenantKey] = {}
        self._gone: dict[str, None] = {}
        self._unreadable: set[TenantKey] = set()
        self._by_organization: defaultdict[str, dict[TenantKey, Tenant]] = defaultdict(dict)
        self._by_slug: defaultdict[str, dict[TenantKey, Tenant]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._tenants)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def get(self, key: TenantKey) -> Tenant | None:
        """The newest version that could be read."""
        return self._tenants.get(key)

    def key_of_uid(self, uid: str) -> TenantKey | None:
        """Where the Tenant of that UID is."""
        return self._keys.get(uid)

    def readable(self) -> Collection[Tenant]:
        """All Tenants that can be read."""
        return tuple(tenant for key, tenant in self._tenants.items() if key not in self._unreadable)

    def of_organization(self, name: str) -> Collection[Tenant]:
        """Every Tenant of the organisation that can be read."""
        return self._by_organization.get(name, {}).values()

    def with_slug(self, slug: str) -> Collection[Tenant]:
        """Every Tenant of that slug that can be read."""
        return self._by_slug.get(slug, {}).values()

    def count_in(self, namespace: str) -> int:
        """How many Tenants there are in a namespace, whether they can be read or not."""
        never_read = self._unreadable - self._tenants.keys()
        return sum(1 for key in chain(self._tenants, never_read) if key.namespace == namespace)

    def is_news(self, key: TenantKey, uid: str, resource_version: str) -> bool:
        """Whether a version is newer than what is known at that key, and of a Tenant that is not gone."""
        if uid in self._gone:
            return False
        known = self._tenants.get(key)
        # Kubernetes 1.35 and later promise that the resourceVersions of one resource compare as whole numbers.
        return known is None or int(resource_version) > int(known.metadata.resource_version)

    def observe(self, tenant: Tenant) -> bool:
        """Note a version; False if it is not news (an echo of an own write, or a late event)."""
        key = key_of(tenant)
        if not self.is_news(key, tenant.metadata.uid, tenant.metadata.resource_version):
            return False
        before = self._hide(key)
        if (known := self._tenants.get(key)) is not None:
            self._keys.pop(known.metadata.uid, None)
        self._unreadable.discard(key)
        self._tenants[key] = tenant
        self._keys[tenant.metadata.uid] = key
        self._by_organization[tenant.spec.organization][key] = tenant
        self._by_slug[tenant.slug][key] = tenant
        self.on_change(before, tenant)
        return True

    def cannot_be_read(self, key: TenantKey) -> None:
        """There is a newer version, and it makes no sense."""
        before = self._hide(key)
        self._unreadable.add(key)
        if before is not None:
            self.on_change(before, None)

    def forget(self, key: TenantKey, uid: str) -> bool:
        """The Tenant of that UID is gone. False if another one is known at its place."""
        self._gone[uid] = None
        if len(self._gone) > _GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        known = self._tenants.get(key)
        if known is not None and known.metadata.uid != uid:
            return False
        before = self._hide(key)
        self._unreadable.discard(key)
        self._tenants.pop(key, None)
        self._keys.pop(uid, None)
        if before is not None:
            self.on_change(before, None)
        return True

    def _hide(self, key: TenantKey) -> Tenant | None:
        """Take it out of the indexes. Returns what was found there."""
        tenant = self._tenants.get(key)
        if tenant is None or key in self._unreadable:
            return None
        for index, name in ((self._by_organization, tenant.spec.organization), (self._by_slug, tenant.slug)):
            del index[name][key]
            if not index[name]:
                del index[name]
        return tenant
