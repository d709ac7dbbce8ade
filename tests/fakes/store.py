"""The Tenants of an API server, in memory."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from tenant_operator.api.names import API_VERSION, FINALIZER, GROUP
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock, TenantKey, WriteRefused
from tenant_operator.saga.errors import Stale
from tests.fakes.hooks import Hook, nothing_happens
from tests.fakes.jsondata import copied

Subscriber = Callable[[TenantKey], None]

ANNOTATION_BYTES = 256 * 1024
"""What the API server lets pass of annotations: all names and values of an object."""


class FakeTenantStore:
    """`ports.TenantStore` in memory, with what kubectl would do to Tenants as methods.

    `before` and `after` are awaited around each write with ("write_status" | "write_metadata", "namespace/name").
    `writes` counts them. Subscribers are called with the key after every change, as a watch would report it.
    """

    def __init__(self, clock: Clock) -> None:
        self.before: Hook = nothing_happens
        self.after: Hook = nothing_happens
        self.writes = 0
        self._clock = clock
        self._objects: dict[TenantKey, dict[str, Any]] = {}
        self._cache: dict[TenantKey, Tenant] = {}
        self._subscribers: list[Subscriber] = []
        self._version = 0
        self._born = 0

    async def read(self, key: TenantKey) -> Tenant | None:
        return self.peek(key)

    async def list(self, namespace: str) -> list[Tenant]:
        return [tenant for tenant in self.tenants() if tenant.metadata.namespace == namespace]

    async def count(self, namespace: str) -> int:
        return sum(1 for key in self._objects if key.namespace == namespace)

    async def write_status(self, tenant: Tenant) -> Tenant:
        key = _key(tenant)
        await self.before("write_status", str(key))
        stored = self._guarded(tenant)
        if stored is None:
            raise Stale(f"Tenant {key}: not found")
        self.writes += 1
        written = self._replace(key, {**stored, "status": tenant.status.to_wire()})
        await self.after("write_status", str(key))
        return written

    async def write_metadata(self, tenant: Tenant) -> Tenant:
        key = _key(tenant)
        await self.before("write_metadata", str(key))
        stored = self._guarded(tenant)
        if stored is None:
            return tenant
        metadata = copied(stored["metadata"])
        foreign = {name: value for name, value in metadata["annotations"].items() if not _is_own(name)}
        own = {name: value for name, value in tenant.metadata.annotations.items() if _is_own(name)}
        metadata |= {"finalizers": [*tenant.metadata.finalizers], "annotations": foreign | own}
        if sum(len(name) + len(value) for name, value in metadata["annotations"].items()) > ANNOTATION_BYTES:
            raise WriteRefused(
                f"Tenant {key}: metadata.annotations: Too long: may not be more than {ANNOTATION_BYTES} bytes"
            )
        self.writes += 1
        written = self._replace(key, {**stored, "metadata": metadata})
        await self.after("write_metadata", str(key))
        return written

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with the key of every Tenant that changes from now on."""
        self._subscribers.append(subscriber)

    def peek(self, key: TenantKey) -> Tenant | None:
        """The Tenant as it is now, or None."""
        return self._parsed(key) if key in self._objects else None

    def body(self, key: TenantKey) -> dict[str, Any] | None:
        """The object as it is now, as a watch tells of it; None if there is none."""
        return self._objects.get(key)

    def tenants(self) -> Sequence[Tenant]:
        """All Tenants as they are now."""
        return [self._parsed(key) for key in self._objects]

    def apply(self, manifest: dict[str, Any]) -> Tenant:
        """Create the Tenant, or give it the spec, the labels and the annotations of the manifest; the status stays."""
        metadata = manifest["metadata"]
        key = TenantKey(metadata["namespace"], metadata["name"])
        spec = {"desiredState": "Active", **copied(manifest["spec"])}
        stored = self._objects.get(key)
        if stored is None:
            self._born += 1
            # The same in every run of a simulation, and spread over the shards as random ones are.
            uid = UUID(int=self._born * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128, version=4)
            stored = {
                "apiVersion": API_VERSION,
                "kind": "Tenant",
                "metadata": {
                    "name": key.name,
                    "namespace": key.namespace,
                    "uid": str(uid),
                    "generation": 1,
                    "creationTimestamp": self._timestamp(),
                    "finalizers": [*metadata.get("finalizers", [])],
                    "labels": {},
                    "annotations": {},
                },
                "spec": spec,
            }
        merged = copied(stored)
        for name in ("labels", "annotations"):
            merged["metadata"][name] |= metadata.get(name, {})
        if spec != stored["spec"]:
            merged["spec"] = spec
            merged["metadata"]["generation"] += 1
        return self._replace(key, merged)

    def patch_spec(self, key: TenantKey, **changes: Any) -> Tenant:
        """Set fields of the spec, by their names in the API."""
        stored = self._objects[key]
        return self.apply({"metadata": stored["metadata"], "spec": {**stored["spec"], **changes}})

    def annotate(self, key: TenantKey, **annotations: str) -> Tenant:
        """Set annotations of this group, by their names without the group; `_` stands for `-`."""
        changed = copied(self._objects[key])
        for name, value in annotations.items():
            changed["metadata"]["annotations"][f"{GROUP}/{name.replace('_', '-')}"] = value
        return self._replace(key, changed)

    def replace_status(self, key: TenantKey, status: dict[str, Any]) -> Tenant:
        """`kubectl replace --subresource=status`, by whoever may do so."""
        return self._replace(key, {**copied(self._objects[key]), "status": copied(status)})

    def restored(self, key: TenantKey, *, with_status: bool) -> Tenant:
        """The Tenant made anew as it is now, under another UID, as from a backup of objects."""
        backup = copied(self._objects.pop(key))
        for subscriber in self._subscribers:
            subscriber(key)
        metadata = {name: backup["metadata"][name] for name in ("name", "namespace", "labels", "annotations")}
        tenant = self.apply({"metadata": {**metadata, "finalizers": [FINALIZER]}, "spec": backup["spec"]})
        return self.replace_status(key, backup.get("status", {})) if with_status else tenant

    def delete(self, key: TenantKey) -> None:
        """Delete the Tenant, or mark it if finalizers hold it. What is absent stays absent."""
        stored = self._objects.get(key)
        if stored is None or "deletionTimestamp" in stored["metadata"]:
            return
        marked = copied(stored)
        marked["metadata"]["deletionTimestamp"] = self._timestamp()
        marked["metadata"]["generation"] += 1
        self._replace(key, marked)

    def _guarded(self, tenant: Tenant) -> dict[str, Any] | None:
        """What is stored, if `tenant` is a change of just that."""
        key = _key(tenant)
        stored = self._objects.get(key)
        if stored is None:
            return None
        metadata = stored["metadata"]
        if (metadata["uid"], metadata["resourceVersion"]) != (
            tenant.metadata.uid,
            tenant.metadata.resource_version,
        ):
            raise Stale(f"Tenant {key}: the object has been modified")
        return stored

    def _replace(self, key: TenantKey, changed: dict[str, Any]) -> Tenant:
        """Store, unless nothing changed, and tell the subscribers."""
        if changed != self._objects.get(key):
            self._version += 1
            changed["metadata"] = {**changed["metadata"], "resourceVersion": str(self._version)}
            self._objects[key] = changed
            if "deletionTimestamp" in changed["metadata"] and not changed["metadata"]["finalizers"]:
                del self._objects[key]
            for subscriber in self._subscribers:
                subscriber(key)
        return Tenant.model_validate(changed)

    def _parsed(self, key: TenantKey) -> Tenant:
        """The stored Tenant; parsed once a version, for simulations look at it all the time."""
        stored = self._objects[key]
        known = self._cache.get(key)
        if known is None or known.metadata.resource_version != stored["metadata"]["resourceVersion"]:
            known = self._cache[key] = Tenant.model_validate(stored)
        return known

    def _timestamp(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(tenant: Tenant) -> TenantKey:
    return TenantKey(tenant.metadata.namespace or "", tenant.metadata.name)


def _is_own(annotation: str) -> bool:
    return annotation.partition("/")[0] == GROUP
