"""The newest version of each Tenant that this process has seen, from watch events and from its own writes."""

from collections.abc import Iterator

from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, key_of


class KnownTenants:
    """A map that never goes back in time."""

    def __init__(self) -> None:
        self._tenants: dict[TenantKey, Tenant] = {}

    def __len__(self) -> int:
        return len(self._tenants)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def keys(self) -> set[TenantKey]:
        """Every tenant known now."""
        return set(self._tenants)

    def get(self, key: TenantKey) -> Tenant | None:
        """The newest version known."""
        return self._tenants.get(key)

    def observe(self, tenant: Tenant) -> bool:
        """Note a version; False if it is not news (an echo of an own write, or a late event)."""
        key = key_of(tenant)
        known = self._tenants.get(key)
        if known is not None and not _newer(tenant, known):
            return False
        self._tenants[key] = tenant
        return True

    def forget(self, key: TenantKey, uid: str | None = None) -> None:
        """The tenant is gone (if it is still the one of that UID that is known)."""
        known = self._tenants.get(key)
        if known is not None and (uid is None or known.metadata.uid == uid):
            del self._tenants[key]


def _newer(tenant: Tenant, known: Tenant) -> bool:
    """Kubernetes 1.35 and later promise that the resourceVersions of one resource compare as whole numbers."""
    return int(tenant.metadata.resource_version) > int(known.metadata.resource_version)
