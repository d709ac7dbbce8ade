"""Judges a write before it is stored: reads what the rules need, and asks them in order."""

from collections.abc import Collection, Mapping
from typing import Any

from tenant_operator.admission.rules import (
    CONFLICT,
    Ask,
    Refusal,
    Verb,
    ask_of,
    check_action,
    check_edit,
    check_finalizer,
    check_identity,
    check_offer,
    claims_host,
    concerns_offer,
    host_taken,
    lets_go,
    may_always,
    needed,
    not_a_member,
    not_allowed,
    organization_in_use,
    organization_refused,
    plan_in_use,
    stamps,
    still_held,
    users_of_plan,
)
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.organization import Organization
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import (
    AccessReview,
    Caller,
    Clock,
    Cluster,
    Directory,
    Manifest,
    Offers,
    TenantKey,
    TenantStore,
    key_of,
)
from tenant_operator.provisioning.claims import claim_of, is_own
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import namespace_ref, taken_by
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.organization_rules import Defect, defects, defects_of_write


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
        options: Options,
        catalog: Directory,
        offers: Offers,
        access: AccessReview,
        cluster: Cluster,
        store: TenantStore,
        clock: Clock,
    ) -> None:
        self._operator = operator
        self._options = options
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
        verbs, namespace = needed(ask, caller), new.metadata.namespace or ""
        return (
            await self._check_role(caller, verbs, namespace, new.metadata.name)
            or check_identity(ask)
            # What is created elsewhere than its organisation lives is refused to everybody, below.
            or (await self._check_membership(caller, verbs, key_of(old), old.spec.organization) if old else None)
            or check_action(ask, self._clock.now())
            or check_edit(ask)
            or await self._check_offer(ask)
            or await self._check_host(ask)
        )

    async def removal(self, key: TenantKey, organization: str, caller: Caller) -> Refusal | None:
        """Judge the deletion of a Tenant that names an organisation."""
        if caller.name == self._operator or may_always(caller):
            return None
        verbs = (Verb.DECOMMISSION,)
        return await self._check_role(caller, verbs, key.namespace, key.name) or await self._check_membership(
            caller, verbs, key, organization
        )

    async def removal_of_plan(self, name: str, caller: Caller) -> Refusal | None:
        """Judge the deletion of a Plan."""
        users = users_of_plan(name, self._catalog.tenants())
        return plan_in_use(name, users, discreetly=bool(users) and not await self._sees(caller, Tenant))

    async def write_of_organization(
        self, old: Organization | None, new: Organization, caller: Caller
    ) -> Refusal | None:
        """Judge a creation (`old` is None) or an update of an Organization."""
        everyone, tenants = await self._offers.organizations(), self._catalog.tenants_of(new.metadata.name)
        found = defects_of_write(old, new, everyone, tenants, self._options.responder_namespace)
        if not found:
            return None
        return organization_refused(found, discreetly=not await self._sees(caller, Organization))

    async def removal_of_organization(self, name: str, caller: Caller) -> Refusal | None:
        """Judge the deletion of an Organization."""
        users = self._catalog.tenants_of(name)
        return organization_in_use(name, users, discreetly=bool(users) and not await self._sees(caller, Tenant))

    async def _sees(self, caller: Caller, kind: type[Organization] | type[Tenant]) -> bool:
        """Whether a refusal may name objects of that kind to the caller, whosever they are."""
        return await self._access.may_list(caller, kind.definition.plural)

    async def _check_role(self, caller: Caller, verbs: tuple[Verb, ...], namespace: str, name: str) -> Refusal | None:
        lacking = [verb for verb in verbs if not await self._access.allowed(caller, verb, namespace, name)]
        return not_allowed(caller, lacking, namespace) if lacking else None

    async def _check_membership(
        self, caller: Caller, verbs: tuple[Verb, ...], key: TenantKey, name: str
    ) -> Refusal | None:
        """A role counts for the organisation that a Tenant names: it is asked for where that lives, too."""
        if not verbs or not name:
            return None
        organization = self._catalog.organization(name)
        if organization is None or organization.spec.namespace != key.namespace:
            organization = await self._offers.organization(name)
        if organization is None or organization.spec.namespace == key.namespace:
            return None
        home = organization.spec.namespace
        lacking = [verb for verb in verbs if not await self._access.allowed(caller, verb, home, key.name)]
        return not_a_member(caller, lacking, key.namespace, name) if lacking else None

    async def _check_offer(self, ask: Ask) -> Refusal | None:
        if not concerns_offer(ask):
            return None
        spec, tenants = ask.new.spec, self._catalog.tenants_of(ask.new.spec.organization)
        plan, organization = self._catalog.plan(spec.plan), self._catalog.organization(spec.organization)
        found = self._defects(organization, self._catalog.organizations(), tenants)
        if check_offer(ask, plan, organization, tenants, self._names(ask.new), found) is None:
            return None
        plan, organization = await self._offers.plan(spec.plan), await self._offers.organization(spec.organization)
        everyone = await self._offers.organizations() if found else self._catalog.organizations()
        found = self._defects(organization, everyone, tenants)
        refused = check_offer(ask, plan, organization, tenants, self._names(ask.new), found)
        if refused is None or plan is None or plan.spec.limits.tenants is None:
            return refused
        tenants = await self._store.list(ask.new.metadata.namespace or "")  # somebody may just have made room
        return check_offer(ask, plan, organization, tenants, self._names(ask.new), found)

    def _defects(
        self, organization: Organization | None, everyone: Collection[Organization], tenants: Collection[KnownTenant]
    ) -> list[Defect]:
        if organization is None:
            return []
        return defects(organization, everyone, tenants, self._options.responder_namespace)

    async def _check_host(self, ask: Ask) -> Refusal | None:
        """What the organisation's own tenants have is told by their records already; what anybody has, by the namespace
        that stands for the host."""
        if not ask.begins:
            return None
        names = self._names(ask.new)
        for other in self._namesakes(ask.new):
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

    def _namesakes(self, tenant: Tenant) -> list[KnownTenant]:
        """The organisation's tenants that, by the catalogue, claim the host. It is no other organisation's to claim."""
        return [
            other
            for other in self._catalog.tenants_with_slug(tenant.slug)
            if (other.spec.organization, other.metadata.namespace)
            == (tenant.spec.organization, tenant.metadata.namespace)
            and key_of(other) != key_of(tenant)
            and claims_host(other)
        ]

    def _names(self, tenant: KnownTenant) -> Names:
        organization = self._catalog.organization(tenant.spec.organization)
        return Names(
            slug=tenant.slug,
            organization=organization.slug if organization else tenant.spec.organization,
            organization_name=tenant.spec.organization,
            uid=tenant.metadata.uid,
            base_domain=self._options.base_domain,
        )
