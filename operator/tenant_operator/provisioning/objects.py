"""What the activities do with Kubernetes objects: tell whose they are, apply and delete many at once."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final, TypeVar

from tenant_operator.api import names as api_names
from tenant_operator.ports import Cluster, Manifest, ObjectRef
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.errors import ActivityError

COMPONENT: Final = "app.kubernetes.io/component"
"""The label that says what an object is to its tenant: `workload`, `route`."""

T = TypeVar("T")


def ref_of(manifest: Manifest) -> ObjectRef:
    """The name of an object."""
    metadata = manifest["metadata"]
    return ObjectRef(manifest["apiVersion"], manifest["kind"], metadata["name"], metadata.get("namespace"))


def namespace_ref(names: Names) -> ObjectRef:
    """The tenant's namespace."""
    return ObjectRef("v1", "Namespace", names.namespace)


def belongs_to(manifest: Manifest, names: Names) -> bool:
    """Whether the object carries the tenant's UID."""
    labels: dict[str, str] = manifest["metadata"].get("labels") or {}
    return labels.get(api_names.LABEL_TENANT_UID) == names.uid


def is_going(manifest: Manifest) -> bool:
    """Whether the object is being deleted."""
    return bool(manifest["metadata"].get("deletionTimestamp"))


def taken_by(namespace: Manifest, names: Names) -> str:
    """Why the tenant cannot have its host: the namespace that stands for it is someone else's. Only a tenant of its own
    organisation is named: of others, whoever reads this may know nothing."""
    metadata = namespace["metadata"]
    labels: dict[str, str] = metadata.get("labels") or {}
    held = f"host {names.host} is taken: namespace {metadata['name']}"
    uid = labels.get(api_names.LABEL_TENANT_UID)
    if uid is None:
        return f"{held} exists and belongs to no tenant; choose another slug, or remove the namespace"
    organization = labels.get(api_names.LABEL_ORGANIZATION)
    if organization != names.organization_name:
        return f"host {names.host} is taken; choose another slug"
    tenant = labels.get(api_names.LABEL_TENANT, "?")
    going = ", which is being released; retry when it is gone" if is_going(namespace) else "; choose another slug"
    return f"{held} belongs to tenant {organization}/{tenant} (UID {uid}){going}"


async def all_of(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """The results, once every one has ended; of several failures one that cannot heal is raised before one that can.

    None is left running behind a failure: a late effect could follow its own compensation.
    """
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if failures:
        raise min(failures, key=_urgency)
    return [result for result in results if not isinstance(result, BaseException)]


def _urgency(failure: BaseException) -> int:
    if not isinstance(failure, ActivityError):
        return 0
    return 2 if failure.can_heal else 1


async def apply_all(cluster: Cluster, manifests: Sequence[Manifest]) -> None:
    """Apply the objects, all at once."""
    await all_of(cluster.apply(manifest) for manifest in manifests)


async def delete_all(cluster: Cluster, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
    """Ask for the deletion of all; those that are not gone yet."""
    gone = await all_of(cluster.delete(ref) for ref in refs)
    return [ref for ref, is_gone in zip(refs, gone, strict=True) if not is_gone]
