"""Judges a write before it is stored: reads what the rules need, and asks them in order."""

from collections.abc import Mapping
from typing import Any

from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.admission_rules import (
    CONFLICT,
    Ask,
    Refusal,
    Verb,
    ask_of,
    check_action,
    check_edit,
    check_finalizer,
    check_offer,
    claims_host,
    concerns_offer,
    host_taken,
    lets_go,
    may_always,
    needed,
    not_allowed,
    organization_in_use,
    plan_in_use,
    stamps,
    still_held,
)
from tenant_operator.provisioning.claims import claim_of, is_own
from tenant_operator.provisioning.known import key_of
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import namespace_ref, taken_by
from tenant_operator.provisioning.ports import (
    AccessReview,
    Caller,
    Clock,
    Cluster,
    Directory,
    Manifest,
    Offers,
    TenantStore,
)


class Admission:
    """What the API server asks about every write. `operator` is the user name of the operator itself.

    The catalogue answers first, because it costs nothing; but it trails behind, so that nobody is turned away on its
    word alone: a refusal that rests on it is given after a look at the API server. Reads and never writes: a dry run is
    judged like any other. Raises `saga.errors` if something cannot be read.
    """

    def __init__(
        self,
        *,
        operator: str,
        base_domain: str,
        catalog: Directory,
        offers: Offers,
        access: AccessReview,
        cluster: Cluster,
        store: TenantStore,
        clock: Clock,
    ) -> None:
        self._operator = operator
        self._base_domain = base_domain
        self._catalog = catalog
        self._offers = offers
        self._access = access
        self._cluster = cluster
        self._store = store
        self._clock = clock

    def stamps(self, old: Mapping[str, Any] | None, new: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """The merge patch of the metadata of a write to a Tenant; empty if it is truthful as it is."""
        return {} if caller.name == self._operator else stamps(old, new, caller.name)

    async def write(self, old: Tenant | None, new: Tenant, caller: Caller) -> Refusal | None:
        """Judge a creation (`old` is None) or an update of a Tenant."""
        if caller.name == self._operator:
            return None
        if old is not None and (refused := check_finalizer(old, new) or await self._check_holds(old, new)):
            return refused
        ask = ask_of(old, new)
        if not ask.is_anything:
            return None
        return (
            await self._check_role(caller, needed(ask, caller), new.metadata.namespace or "", new.metadata.name)
            or check_action(ask, self._clock.now())
            or check_edit(ask)
            or await self._check_offer(ask)
            or await self._check_host(ask)
        )

    async def removal(self, namespace: str, name: str, caller: Caller) -> Refusal | None:
        """Judge the deletion of a Tenant."""
        if caller.name == self._operator or may_always(caller):
            return None
        return await self._check_role(caller, (Verb.DECOMMISSION,), namespace, name)

    async def removal_of_plan(self, name: str) -> Refusal | None:
        """Judge the deletion of a Plan."""
        return plan_in_use(name, self._catalog.tenants())

    async def removal_of_organization(self, name: str) -> Refusal | None:
        """Judge the deletion of an Organization."""
        return organization_in_use(name, self._catalog.tenants_of(name))

    async def _check_role(self, caller: Caller, verbs: tuple[Verb, ...], namespace: str, name: str) -> Refusal | None:
        lacking = [verb for verb in verbs if not await self._access.allowed(caller, verb, namespace, name)]
        return not_allowed(caller, lacking, namespace) if lacking else None

    async def _check_offer(self, ask: Ask) -> Refusal | None:
        if not concerns_offer(ask):
            return None
        spec = ask.new.spec
        plan, organization = self._catalog.plan(spec.plan), self._catalog.organization(spec.organization)
        tenants = self._catalog.tenants_of(spec.organization)
        if check_offer(ask, plan, organization, tenants, self._names(ask.new)) is None:
            return None
        plan, organization = await self._offers.plan(spec.plan), await self._offers.organization(spec.organization)
        return check_offer(ask, plan, organization, tenants, self._names(ask.new))

    async def _check_host(self, ask: Ask) -> Refusal | None:
        if not ask.begins:
            return None
        names = self._names(ask.new)
        for other in self._others_at(names, ask.new):
            now = await self._store.read(key_of(other))
            if now is not None and claims_host(now):
                return host_taken(ask.new, names, now)
        namespace = await self._cluster.get(namespace_ref(names))
        if namespace is not None and not self._is_own(namespace, ask.new):
            return Refusal(CONFLICT, f"spec.slug '{ask.new.slug}': {taken_by(namespace, names)}")
        return None

    async def _check_holds(self, old: Tenant, new: Tenant) -> Refusal | None:
        """A record is not let go by hand while its namespace is there: its ledger may have been lost."""
        if not lets_go(old, new):
            return None
        namespace = await self._cluster.get(namespace_ref(self._names(old)))
        if namespace is None or not self._is_own(namespace, old):
            return None
        return still_held(f"namespace {namespace['metadata']['name']}")

    @staticmethod
    def _is_own(namespace: Manifest, tenant: Tenant) -> bool:
        claim = claim_of(namespace)
        return claim is not None and is_own(claim, tenant)

    def _others_at(self, names: Names, tenant: Tenant) -> list[Tenant]:
        """The tenants that, by the catalogue, claim the host: every way to cut its label in two is looked up."""
        parts = names.host_label.split("-")
        slugs = ["-".join(parts[:end]) for end in range(1, len(parts))]
        return [
            other
            for slug in slugs
            for other in self._catalog.tenants_with_slug(slug)
            if key_of(other) != key_of(tenant)
            and self._names(other).host_label == names.host_label
            and claims_host(other)
        ]

    def _names(self, tenant: Tenant) -> Names:
        organization = self._catalog.organization(tenant.spec.organization)
        return Names(
            slug=tenant.slug,
            organization=organization.slug if organization else tenant.spec.organization,
            organization_name=tenant.spec.organization,
            uid=tenant.metadata.uid,
            base_domain=self._base_domain,
        )
