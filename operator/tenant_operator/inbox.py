"""What a replica hears: each report of a watch goes into memory, and wakes whom it concerns. Nothing here waits."""

from typing import Any

from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.adapters.kubernetes.listener import Listener
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import (
    ANNOTATION_ACTION,
    API_VERSION,
    FIELD_MANAGER,
    LABEL_MANAGED_BY,
    LABEL_TENANT_UID,
    WatchEvent,
)
from tenant_operator.catalog.platform_watch import PlatformWatch
from tenant_operator.ports import TenantKey, key_of
from tenant_operator.provisioning.objects import is_going
from tenant_operator.provisioning.options import RouteKind
from tenant_operator.provisioning.readiness import rollout
from tenant_operator.saga.queue import WorkQueue
from tenant_operator.tenants.drift import DriftWatch
from tenant_operator.tenants.health import Health
from tenant_operator.tenants.reconciler import Reconciler
from tenant_operator.tenants.repair import Repair
from tenant_operator.tenants.standing import standing_of
from tenant_operator.tenants.steps import TenantSteps


class Inbox:
    """`event` is None (first listing), ADDED, MODIFIED or DELETED."""

    def __init__(
        self,
        catalog: WatchedCatalog,
        steps: TenantSteps,
        reconciler: Reconciler,
        repair: Repair,
        health: Health,
        platform: PlatformWatch,
        *,
        queue: WorkQueue[TenantKey],
        requests: WorkQueue[TenantKey],
    ) -> None:
        """`queue` looks at a tenant, `requests` takes requests off its annotation."""
        self._catalog = catalog
        self._memory = catalog.memory
        self._steps = steps
        self._reconciler = reconciler
        self._repair = repair
        self._health = health
        self._platform = platform
        self._queue = queue
        self._requests = requests
        self._drift = DriftWatch()
        self._hosts: dict[str, TenantKey] = {}
        """Whose a namespace is, by its name."""

    def tenant_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A Tenant was listed, added, modified or deleted."""
        metadata = body["metadata"]
        key = TenantKey(metadata["namespace"], metadata["name"])
        if event == WatchEvent.DELETED:
            if (gone := self._memory.known(key)) is not None:
                self._hosts.pop(self._steps.names(gone).namespace, None)
            self._reconciler.forget(key, metadata["uid"])
            self._queue.wake(key)  # a run in hand has to learn of it
            return
        if self._catalog.observe_tenant(body):
            self._queue.wake(key)
            if (tenant := self._memory.known(key)) is not None:
                self._hosts[self._steps.names(tenant).namespace] = key
        if ANNOTATION_ACTION in (metadata.get("annotations") or {}):
            self._requests.wake(key)

    def plan_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A Plan was listed, added, modified or deleted."""
        name = body["metadata"]["name"]
        before = self._catalog.plan(name)
        self._catalog.observe_plan(event, body)
        self._platform.plan_changed(event, body)
        plan = self._catalog.plan(name)
        if plan is None or before is None or plan.spec is not before.spec:  # the catalogue keeps one that is equal
            for tenant in self._memory:
                if tenant.spec.plan == name:
                    self._queue.wake(key_of(tenant))  # its workloads may have to follow

    def organization_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """An Organization was listed, added, modified or deleted."""
        self._catalog.observe_organization(event, body)
        self._platform.organization_changed(event, body)

    def namespace_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A namespace was listed, added, modified or deleted: a tenant's own, or perhaps an organisation's."""
        self.child_changed(event, body)
        self._platform.namespace_changed(body)

    def role_binding_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A RoleBinding was listed, added, modified or deleted: perhaps one that a member needs."""
        self._platform.role_binding_changed(body)

    def child_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """Something that a tenant is made of changed: its saga may be waiting for that, or have to put it right."""
        if (tenant := self._owner(body)) is None:
            self._drift.forget(body)
            return
        is_drift = self._drift.is_drift(event, body)
        if is_drift and (whole := self._memory.get(key_of(tenant))) is not None:
            self._repair.noticed(whole, body["kind"], body["metadata"]["name"])
        is_deployment = body.get("kind") == "Deployment"
        is_news = is_deployment and self._health.heard(tenant, event, body)
        # Deployments that are not complete are looked at every few seconds.
        if is_drift or is_news or is_going(body) or (is_deployment and rollout(body).complete):
            self._queue.wake(key_of(tenant))

    def server_is_back(self) -> None:
        """Whoever waits for a server goes on. Who that is shows when it is asked."""
        for tenant in self._memory.at_work():
            run = tenant.status.run
            if (run is not None and run.finished_at is None) or standing_of(tenant.status).trouble is not None:
                self._queue.wake(key_of(tenant))

    def _owner(self, body: dict[str, Any]) -> KnownTenant | None:
        """The tenant that an object is part of: it is the tenant's own namespace, or is in it. Labels alone are no
        proof: whoever may write an object anywhere can copy them, or take them away."""
        metadata = body["metadata"]
        uid = (metadata.get("labels") or {}).get(LABEL_TENANT_UID, "")
        place = metadata.get("namespace", metadata["name"])
        for key in (self._memory.key_of_identity(uid), self._hosts.get(place)):
            tenant = None if key is None else self._memory.known(key)
            if tenant is not None and self._steps.names(tenant).namespace == place:
                return tenant
        return None


def own_kinds(inbox: Inbox) -> list[Listener]:
    """What people apply."""
    return [
        Listener(API_VERSION, "Tenant", "tenants", inbox.tenant_changed),
        Listener(API_VERSION, "Plan", "plans", inbox.plan_changed),
        Listener(API_VERSION, "Organization", "organizations", inbox.organization_changed),
    ]


def kinds_of_children(inbox: Inbox, route_kind: RouteKind) -> list[Listener]:
    """What tenants and organisations are made of, where routes are of that kind."""
    managed = {LABEL_MANAGED_BY: FIELD_MANAGER}
    routes = {
        RouteKind.INGRESS: ("networking.k8s.io/v1", "Ingress", "ingresses"),
        RouteKind.HTTP_ROUTE: ("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes"),
    }
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        Listener("v1", "Namespace", "namespaces", inbox.namespace_changed),
        Listener(rbac, "RoleBinding", "rolebindings", inbox.role_binding_changed),
        Listener("apps/v1", "Deployment", "deployments", inbox.child_changed, managed, is_whole=True),
        Listener("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", inbox.child_changed, managed),
        Listener(*routes[route_kind], inbox.child_changed, managed),
        Listener("v1", "Service", "services", inbox.child_changed, managed),
        Listener("v1", "ResourceQuota", "resourcequotas", inbox.child_changed, managed),
        Listener("v1", "LimitRange", "limitranges", inbox.child_changed, managed),
        Listener("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", inbox.child_changed, managed),
    ]
