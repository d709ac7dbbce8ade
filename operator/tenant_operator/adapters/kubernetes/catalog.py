"""What the platform offers and who holds what, in memory: watches write it, activities and admission read it."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from sys import intern
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from structlog import get_logger

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.resource import Resource
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey

from .errors import unreadable

_log = get_logger(__name__)

_DELETED: Final = "DELETED"
_METADATA: Final = ("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp")
_STATUS: Final = ("observedGeneration", "state", "phase", "url", "tenantId", "attempt", "decommissionedAt")
_REPEATED: Final = ("organization", "plan", "region", "desiredState")

AnyResource = TypeVar("AnyResource", bound=Resource)


class WatchedCatalog:
    """`ports.Catalog`, fed by the events of watches: `event` is None, ADDED, MODIFIED or DELETED.

    Tenants are kept without their journal: metadata that identifies and orders them, the spec, and what the status
    says in single values. An object that cannot be read counts as absent, and is logged; a Tenant is counted in its
    namespace all the same, or that could never be known completely.
    """

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._organizations: dict[str, Organization] = {}
        self._tenants: dict[TenantKey, Tenant] = {}
        self._unreadable: set[TenantKey] = set()
        self._by_organization: defaultdict[str, dict[TenantKey, Tenant]] = defaultdict(dict)
        self._by_slug: defaultdict[str, dict[TenantKey, Tenant]] = defaultdict(dict)

    def plan(self, name: str) -> Plan | None:
        """The Plan of that name."""
        return self._plans.get(name)

    def plans(self) -> Collection[Plan]:
        """All Plans."""
        return tuple(self._plans.values())

    def organization(self, name: str) -> Organization | None:
        """The Organization of that name."""
        return self._organizations.get(name)

    def organizations(self) -> Collection[Organization]:
        """All Organizations."""
        return tuple(self._organizations.values())

    def tenant(self, key: TenantKey) -> Tenant | None:
        """The Tenant at that key, without its journal."""
        return self._tenants.get(key)

    def tenants(self) -> Collection[Tenant]:
        """All Tenants, without their journals."""
        return tuple(self._tenants.values())

    def tenants_of(self, organization: str) -> tuple[Tenant, ...]:
        """Every Tenant of the organisation, without their journals."""
        return tuple(self._by_organization.get(organization, {}).values())

    def tenants_with_slug(self, slug: str) -> tuple[Tenant, ...]:
        """Every Tenant of that slug, without their journals."""
        return tuple(self._by_slug.get(slug, {}).values())

    def tenants_in(self, namespace: str) -> int:
        """How many Tenants are known in a namespace."""
        return sum(1 for key in (*self._tenants, *self._unreadable) if key.namespace == namespace)

    def observe_plan(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take over what a watch of Plans reports."""
        self._observe(self._plans, Plan, event, body)

    def observe_organization(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take over what a watch of Organizations reports."""
        self._observe(self._organizations, Organization, event, body)

    def observe_tenant(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take over what a watch of Tenants reports."""
        metadata = body["metadata"]
        key = TenantKey(metadata["namespace"], metadata["name"])
        if event == _DELETED and _is_of_a_namesake(self._tenants.get(key), body):
            return
        tenant = None if event == _DELETED else _parsed(Tenant, _without_journal(body))
        if tenant is None:
            self.drop_tenant(key)
            if event != _DELETED:
                self._unreadable.add(key)
            return
        self._unreadable.discard(key)
        previous = self._tenants.get(key)
        if previous is not None and _place(previous) != _place(tenant):
            self.drop_tenant(key)
        self._tenants[key] = tenant
        self._by_organization[tenant.spec.organization][key] = tenant
        self._by_slug[tenant.slug][key] = tenant

    def drop_tenant(self, key: TenantKey) -> None:
        """Forget a Tenant whose deletion no watch reported."""
        self._unreadable.discard(key)
        tenant = self._tenants.pop(key, None)
        if tenant is None:
            return
        for index, name in ((self._by_organization, tenant.spec.organization), (self._by_slug, tenant.slug)):
            del index[name][key]
            if not index[name]:
                del index[name]

    @staticmethod
    def _observe(
        known: dict[str, AnyResource], model: type[AnyResource], event: str | None, body: Mapping[str, Any]
    ) -> None:
        name = body["metadata"]["name"]
        if event == _DELETED and _is_of_a_namesake(known.get(name), body):
            return
        resource = None if event == _DELETED else _parsed(model, body)
        if resource is None:
            known.pop(name, None)
        else:
            known[name] = resource


def _parsed(model: type[AnyResource], body: Mapping[str, Any]) -> AnyResource | None:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        name = body["metadata"]["name"]
        _log.warning("unreadable object", kind=model.definition.kind, name=name, error=unreadable(error))
        return None


def _place(tenant: Tenant) -> tuple[str, str]:
    """What it is found by; both never change, unless another Tenant takes its name."""
    return tenant.spec.organization, tenant.slug


def _is_of_a_namesake(known: Resource | None, body: Mapping[str, Any]) -> bool:
    """Whether the event is about an earlier object of the same name: those of two objects come in any order."""
    return known is not None and known.metadata.uid != body["metadata"].get("uid", known.metadata.uid)


def _without_journal(body: Mapping[str, Any]) -> dict[str, Any]:
    spec = dict(body.get("spec") or {})
    for name in _REPEATED:
        # Thousands of tenants share a handful of these values.
        if isinstance(spec.get(name), str):
            spec[name] = intern(spec[name])
    return {
        "metadata": _only(_METADATA, body["metadata"]),
        "spec": spec,
        "status": _only(_STATUS, body.get("status") or {}),
    }


def _only(names: Collection[str], source: Mapping[str, Any]) -> dict[str, Any]:
    return {name: source[name] for name in names if name in source}
