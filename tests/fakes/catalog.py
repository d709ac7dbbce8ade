"""What the platform offers, in memory."""

from collections.abc import Iterable

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tests.fakes.store import FakeTenantStore


class FakeCatalog:
    """`ports.Catalog` that is never stale: it reads the Tenants where they are stored."""

    def __init__(
        self,
        store: FakeTenantStore,
        plans: Iterable[Plan] = (),
        organizations: Iterable[Organization] = (),
    ) -> None:
        self.plans = {plan.metadata.name: plan for plan in plans}
        self.by_name = {each.metadata.name: each for each in organizations}
        self._store = store

    def plan(self, name: str) -> Plan | None:
        return self.plans.get(name)

    def organization(self, name: str) -> Organization | None:
        return self.by_name.get(name)

    def organizations(self) -> list[Organization]:
        return list(self.by_name.values())

    def tenants_in(self, namespace: str) -> int:
        return sum(1 for each in self._store.tenants() if each.metadata.namespace == namespace)

    def tenants(self) -> list[Tenant]:
        return list(self._store.tenants())

    def tenants_with_slug(self, slug: str) -> list[Tenant]:
        return [each for each in self._store.tenants() if each.slug == slug]

    def tenants_of(self, organization: str) -> list[Tenant]:
        return [each for each in self._store.tenants() if each.spec.organization == organization]


class FakeOffers:
    """`ports.Offers`: what the API server has, whether or not a catalogue has heard of it."""

    def __init__(self, plans: Iterable[Plan] = (), organizations: Iterable[Organization] = ()) -> None:
        self.plans = {plan.metadata.name: plan for plan in plans}
        self.by_name = {each.metadata.name: each for each in organizations}

    async def plan(self, name: str) -> Plan | None:
        return self.plans.get(name)

    async def organization(self, name: str) -> Organization | None:
        return self.by_name.get(name)

    async def organizations(self) -> list[Organization]:
        return list(self.by_name.values())
