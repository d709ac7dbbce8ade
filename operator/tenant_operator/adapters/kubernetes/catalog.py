"""What the platform offers and who holds what, in memory: watches write it, activities and admission read it."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import WatchEvent
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.resource import Resource
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey
from tenant_operator.tenants.memory import TenantMemory

from .errors import unreadable

_log = logging.getLogger(__name__)


AnyResource = TypeVar("AnyResource", bound=Resource)


class WatchedCatalog:
    """`ports.Directory`, fed by the events of watches: `event` is None, ADDED, MODIFIED or DELETED.

    An object that cannot be read counts as absent, and is logged; a Tenant is counted in its namespace all the same, or
    that could never be known completely.
    """

    def __init__(self) -> None:
        self.memory = TenantMemory()
        self._plans: dict[str, Plan] = {}
        self._organizations: dict[str, Organization] = {}

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

    def tenants(self) -> Collection[KnownTenant]:
        """All Tenants."""
        return self.memory.readable()

    def tenants_of(self, organization: str) -> Sequence[KnownTenant]:
        """Every Tenant of the organisation."""
        return self.memory.of_organization(organization)

    def tenants_with_slug(self, slug: str) -> Sequence[KnownTenant]:
        """Every Tenant of that slug."""
        return self.memory.with_slug(slug)

    def tenants_in(self, namespace: str) -> int:
        """How many Tenants are known in a namespace."""
        return self.memory.count_in(namespace)

    def observe_plan(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take over what a watch of Plans reports."""
        name = body["metadata"]["name"]
        before = self._plans.get(name)
        self._observe(self._plans, Plan, event, body)
        plan = self._plans.get(name)
        if plan is not None and before is not None and plan.spec == before.spec:
            # Whoever remembers what follows from a spec knows it again: a status changes with each tenant.
            self._plans[name] = plan.model_copy(update={"spec": before.spec})

    def observe_organization(self, event: str | None, body: Mapping[str, Any]) -> None:
        """Take over what a watch of Organizations reports."""
        self._observe(self._organizations, Organization, event, body)

    def observe_tenant(self, body: Mapping[str, Any]) -> bool:
        """Take over a version of a Tenant. False if it is not news: an echo is told before anything is parsed."""
        metadata = body["metadata"]
        key = TenantKey(metadata["namespace"], metadata["name"])
        if not self.memory.is_news(key, metadata["uid"], metadata["resourceVersion"]):
            return False
        tenant = _parsed(Tenant, body)
        if tenant is None:
            self.memory.cannot_be_read(key, metadata["uid"])
            return False
        return self.memory.observe(tenant)

    @staticmethod
    def _observe(
        known: dict[str, AnyResource], model: type[AnyResource], event: str | None, body: Mapping[str, Any]
    ) -> None:
        name = body["metadata"]["name"]
        if event == WatchEvent.DELETED and _is_of_a_namesake(known.get(name), body):
            return
        resource = None if event == WatchEvent.DELETED else _parsed(model, body)
        if resource is None:
            known.pop(name, None)
        else:
            known[name] = resource


def _parsed(model: type[AnyResource], body: Mapping[str, Any]) -> AnyResource | None:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        name = body["metadata"]["name"]
        _log.warning("%s %s cannot be read: %s", model.definition.kind, name, unreadable(error))
        return None


def _is_of_a_namesake(known: Resource | None, body: Mapping[str, Any]) -> bool:
    """Whether the event is about an earlier object of the same name: those of two objects come in any order."""
    return known is not None and known.metadata.uid != body["metadata"].get("uid", known.metadata.uid)
