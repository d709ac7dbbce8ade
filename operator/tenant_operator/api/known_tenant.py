"""What of a Tenant concerns others: who it is, what it asks for, and how it fares, without its journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .meta import ObjectMeta
from .states import TenantState
from .tenant import Tenant, TenantSpec


class KnownStatus(Protocol):
    """How a Tenant fares."""

    @property
    def state(self) -> TenantState: ...

    @property
    def attempt(self) -> int: ...

    @property
    def organization_slug(self) -> str | None: ...

    @property
    def allocations(self) -> Sequence[object]:
        """Empty if nothing is held; what there is else is not to be relied on."""


class KnownTenant(Protocol):
    """A Tenant, or what is kept of one."""

    @property
    def metadata(self) -> ObjectMeta: ...

    @property
    def spec(self) -> TenantSpec: ...

    @property
    def status(self) -> KnownStatus: ...

    @property
    def slug(self) -> str: ...


@dataclass(frozen=True, slots=True)
class BriefStatus:
    """Implements `KnownStatus`."""

    state: TenantState
    attempt: int
    organization_slug: str | None
    allocations: Sequence[object]


@dataclass(frozen=True, slots=True)
class BriefTenant:
    """Implements `KnownTenant`, a fifth of the size."""

    metadata: ObjectMeta
    spec: TenantSpec
    status: BriefStatus

    @property
    def slug(self) -> str:
        return self.spec.slug or self.metadata.name


def brief(tenant: Tenant) -> BriefTenant:
    """What concerns others."""
    status = tenant.status
    held = (len(status.allocations),) if status.allocations else ()
    return BriefTenant(
        tenant.metadata, tenant.spec, BriefStatus(status.state, status.attempt, status.organization_slug, held)
    )
