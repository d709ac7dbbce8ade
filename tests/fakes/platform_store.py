"""The Organizations and Plans of an API server, in memory."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tenant_operator.api.names import API_VERSION
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog.platform_reconciler import PlatformResource
from tenant_operator.catalog.roles import labels
from tenant_operator.ports import Manifest
from tenant_operator.saga.errors import Stale
from tests.fakes.cluster import FakeCluster
from tests.fakes.hooks import Hook, nothing_happens
from tests.fakes.jsondata import copied

_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
Subscriber = Callable[[str, dict[str, Any]], None]


class FakePlatformStore:
    """`PlatformStore` in memory, over the RoleBindings of a cluster; `apply` and `delete` are what people do.

    `before` is awaited before each write with ("write_status", "Kind name"). `writes` counts those that changed
    something. Subscribers are called with the event (ADDED, MODIFIED, DELETED) and the object.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        self.before: Hook = nothing_happens
        self.writes = 0
        self._cluster = cluster
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._subscribers: list[Subscriber] = []
        self._version = 0

    async def write_status(self, resource: PlatformResource) -> PlatformResource:
        name = f"{resource.kind} {resource.metadata.name}"
        await self.before("write_status", name)
        stored = self._objects.get((resource.kind, resource.metadata.name))
        seen = (resource.metadata.uid, resource.metadata.resource_version)
        if stored is None or (stored["metadata"]["uid"], stored["metadata"]["resourceVersion"]) != seen:
            raise Stale(f"{name}: the object has been modified")
        changed = {**copied(stored), "status": resource.status.to_wire()}
        if changed != stored:
            self.writes += 1
            self._store(changed, "MODIFIED")
        return type(resource).model_validate(self._objects[resource.kind, resource.metadata.name])

    async def role_bindings(self, organization: str) -> list[Manifest]:
        wanted = labels(organization).items()
        return [
            each
            for each in self._cluster.objects("RoleBinding")
            if wanted <= (each["metadata"].get("labels") or {}).items()
        ]

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with what changes from now on, as a watch would report it."""
        self._subscribers.append(subscriber)

    def apply(self, kind: type[Organization] | type[Plan], name: str, spec: dict[str, Any]) -> None:
        """Create the object, or give it the spec; the status stays."""
        stored = self._objects.get((kind.definition.kind, name))
        if stored is None:
            created = (_BEGINNING + timedelta(seconds=self._version)).isoformat()
            uid = f"uid-{self._version + 1}"
            metadata = {"name": name, "uid": uid, "generation": 1, "creationTimestamp": created}
            body = {"apiVersion": API_VERSION, "kind": kind.definition.kind, "metadata": metadata, "spec": copied(spec)}
            self._store(body, "ADDED")
        elif stored["spec"] != spec:
            changed = {**copied(stored), "spec": copied(spec)}
            changed["metadata"]["generation"] += 1
            self._store(changed, "MODIFIED")

    def delete(self, kind: type[Organization] | type[Plan], name: str) -> None:
        """Delete the object."""
        body = self._objects.pop((kind.definition.kind, name))
        for subscriber in self._subscribers:
            subscriber("DELETED", body)

    def bodies(self, kind: type[Organization] | type[Plan]) -> list[dict[str, Any]]:
        """All objects of a kind as they are now, as a list or a watch tells of them."""
        return [body for (name, _), body in self._objects.items() if name == kind.definition.kind]

    def organization(self, name: str) -> Organization:
        """The Organization as it is now."""
        return Organization.model_validate(self._objects["Organization", name])

    def plan(self, name: str) -> Plan:
        """The Plan as it is now."""
        return Plan.model_validate(self._objects["Plan", name])

    def _store(self, body: dict[str, Any], event: str) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self._objects[body["kind"], body["metadata"]["name"]] = body
        for subscriber in self._subscribers:
            subscriber(event, body)
