"""Keeps Organizations and Plans honest: members hold their roles, and the status says what is so."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from tenant_operator.api.conditions import Reason
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog import organizations, plans, roles
from tenant_operator.ports import Clock, Cluster, Manifest, ObjectRef, Replicas
from tenant_operator.provisioning import organization_rules
from tenant_operator.provisioning.findings import Finding
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import ActivityError, Stale, Unavailable

_log = logging.getLogger(__name__)

RECHECK_SECONDS: Final = 15.0
"""How soon what is not as it should be is looked at again."""
RESYNC_SECONDS: Final = 300.0
"""How soon what is as it should be is looked at again, in case a watch missed something."""
_BEHIND_SECONDS: Final = 0.5

PlatformResource = TypeVar("PlatformResource", Organization, Plan)


@dataclass(frozen=True, slots=True)
class PlatformKey:
    """Names one object of the platform team's."""

    kind: type[Organization] | type[Plan]
    name: str

    def __str__(self) -> str:
        return f"{self.kind.definition.kind} {self.name}"


class PlatformCatalog(Protocol):
    """What the watches last reported: reading it costs nothing."""

    def plan(self, name: str) -> Plan | None: ...

    def organization(self, name: str) -> Organization | None: ...

    def organizations(self) -> Collection[Organization]: ...

    def tenants(self) -> Collection[KnownTenant]: ...

    def tenants_of(self, organization: str) -> Sequence[KnownTenant]: ...


class PlatformStore(Protocol):
    """Where the status of Organizations and Plans is written, and where RoleBindings are found."""

    async def write_status(self, resource: PlatformResource) -> PlatformResource:
        """Replace the status, guarded by the resourceVersion that `resource` carries. Returns what is stored. Stale
        if it has moved on or is gone; `Unavailable` if the API server did not answer."""

    async def role_bindings(self, organization: str) -> Sequence[Manifest]:
        """The RoleBindings of all namespaces that carry the labels of the organisation's."""


class PlatformReconciler:
    """Called by a work queue with one key at a time; what it knows it reads anew each time."""

    def __init__(
        self,
        store: PlatformStore,
        cluster: Cluster,
        catalog: PlatformCatalog,
        clock: Clock,
        options: Options,
        replicas: Replicas,
        *,
        open_databases: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`open_databases` tells what the last look at the database server found open to tenants' roles."""
        self._store = store
        self._cluster = cluster
        self._catalog = catalog
        self._clock = clock
        self._options = options
        self._replicas = replicas
        self._open_databases = open_databases

    async def reconcile(self, key: PlatformKey, _attention: asyncio.Event) -> float | None:
        """Bring one object up to date; the seconds after which it wants to be looked at again, None if it is gone, or
        another replica's."""
        if not self._replicas.mine(key):
            return None
        try:
            return await (self._plan(key.name) if key.kind is Plan else self._organization(key.name))
        except Stale:
            return _BEHIND_SECONDS  # the watch is about to tell
        except ActivityError as error:
            _log.warning("%s cannot be brought up to date: %s", key, error.message)
            return RECHECK_SECONDS

    async def _plan(self, name: str) -> float | None:
        plan = self._catalog.plan(name)
        if plan is None or plan.metadata.deletion_timestamp is not None:
            return None
        findings = plans.findings_of(plan, self._options)
        tenants = plans.tenants_using(name, self._catalog.tenants())
        status = plans.status_of(plan, tenants, findings, self._clock.now())
        if status != plan.status:
            await self._store.write_status(plan.model_copy(update={"status": status}))
        return RESYNC_SECONDS

    async def _organization(self, name: str) -> float | None:
        organization = self._catalog.organization(name)
        if organization is None or organization.metadata.deletion_timestamp is not None:
            # The RoleBindings name it as their owner: they go with it. An object that cannot be read counts as absent
            # too, and must not cost anyone their access.
            return None
        tenants = self._catalog.tenants_of(name)
        defects = organization_rules.defects(
            organization, self._catalog.organizations(), tenants, self._options.responder_namespace
        )
        findings = [
            *organizations.of_name(organization),
            *organizations.of_neighbours(defects),
            *await self._roles(organization, may_have_roles=organization_rules.may_have_roles(defects)),
            *organizations.of_members(organization),
            *organizations.of_plans(organization, [each for each in organization.spec.plans if not self._has(each)]),
        ]
        home = organization_rules.home_of(organization, defects)
        status = organizations.status_of(
            organization, tenants, findings, self._clock.now(), home=home, open_databases=self._open_databases()
        )
        if status != organization.status:
            await self._store.write_status(organization.model_copy(update={"status": status}))
        return RECHECK_SECONDS if findings else RESYNC_SECONDS

    def _has(self, plan: str) -> bool:
        return self._catalog.plan(plan) is not None

    async def _roles(self, organization: Organization, *, may_have_roles: bool) -> list[Finding]:
        """Make the RoleBindings what the members need, none where they may have no roles; what is in the way."""
        if organizations.of_name(organization):
            return []
        findings: list[Finding] = []
        if may_have_roles:
            ref = ObjectRef("v1", "Namespace", organization.spec.namespace)
            findings = organizations.of_namespace(organization, await self._cluster.get(ref))
        needed = roles.role_bindings(organization) if may_have_roles and not findings else []
        wanted = {roles.binding_ref(each): each for each in needed}
        found = {roles.binding_ref(each): each for each in await self._store.role_bindings(organization.metadata.name)}
        for ref in found.keys() - wanted.keys():
            findings += await self._attempted(self._remove(ref))
        for ref, manifest in wanted.items():
            findings += await self._attempted(self._keep(organization, found.get(ref), manifest))
        return findings

    async def _remove(self, ref: ObjectRef) -> list[Finding]:
        await self._cluster.delete(ref)
        return []

    async def _keep(self, organization: Organization, found: Manifest | None, wanted: Manifest) -> list[Finding]:
        ref = roles.binding_ref(wanted)
        # Creating tells whose the name is, and never takes it from anyone.
        found = found or await self._cluster.create(wanted)
        if not roles.is_kept_for(found, organization):
            return [_taken(ref, found)]
        if not roles.same_role(found, wanted):
            found = await self._cluster.create(wanted) if await self._cluster.delete(ref) else found
            if not roles.same_role(found, wanted):
                raise Unavailable(f"{ref}: it grants another role and is about to be replaced")
        if not roles.in_step(found, wanted):
            await self._cluster.apply(wanted)
        return []

    @staticmethod
    async def _attempted(work: Awaitable[list[Finding]]) -> list[Finding]:
        """What became of one RoleBinding: the trouble with one is no reason to leave the others."""
        try:
            return await work
        except ActivityError as error:
            return [Finding(Reason.ROLE_BINDING_FAILED, error.message, waits=error.can_heal)]


def _taken(ref: ObjectRef, holder: Manifest) -> Finding:
    owner = roles.organization_of(holder)
    if owner is not None:
        whose = f"belongs to Organization {owner}; give each Organization a namespace of its own"
    else:
        whose = "is not kept by the operator, which leaves it alone; delete or rename it"
    return Finding(Reason.ROLE_BINDING_TAKEN, f"{ref} {whose}")
