"""Kubernetes Events, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Notice, TenantKey


@dataclass(frozen=True, slots=True)
class Published:
    """A notice as it was published."""

    tenant: TenantKey
    reason: str
    message: str
    warning: bool


class FakeNotifier:
    """`ports.Notifier` that remembers, oldest first."""

    def __init__(self) -> None:
        self.published: list[Published] = []

    async def publish(self, tenant: Tenant, notices: Sequence[Notice]) -> None:
        key = TenantKey(tenant.metadata.namespace or "", tenant.metadata.name)
        self.published += [Published(key, notice.reason, notice.message, notice.warning) for notice in notices]

    def reasons(self, tenant: TenantKey) -> list[str]:
        """The reasons of what was published about a Tenant, oldest first."""
        return [each.reason for each in self.published if each.tenant == tenant]
