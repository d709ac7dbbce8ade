"""The objects a tenant is made of, in a real cluster."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tenant_operator.api.names import FIELD_MANAGER
from tenant_operator.ports import Difference, Manifest, ObjectRef
from tenant_operator.provisioning import field_owners
from tenant_operator.saga.errors import Unavailable

from .client import APPLY_PATCH, JSON_PATCH, METADATA_ONLY, Answer, KubernetesClient
from .resources import collection_path, object_path, ref_of

_APPLY: Final = {"fieldManager": FIELD_MANAGER, "force": "true"}
_CREATE: Final = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
_DELETE: Final = {"propagationPolicy": "Background"}
_TRIES: Final = 3


class KubernetesCluster:
    """`ports.Cluster` over the Kubernetes API."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def get(self, ref: ObjectRef) -> Manifest | None:
        """The object as the API server has it now, or None."""
        answer = await self._request("GET", object_path(ref), ref, expected=(404,))
        return None if answer.status == 404 else _object(answer)

    async def list(self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        """The objects of a kind in a namespace that carry all `labels`."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        answer = await self._client.request(
            "GET",
            collection_path(api_version, kind, namespace),
            subject=f"{kind} in {namespace}",
            query={"labelSelector": selector} if selector else None,
        )
        # Items of built-in kinds do not repeat what the list says for all of them.
        return [{"apiVersion": api_version, "kind": kind, **item} for item in answer.json()["items"]]

    async def create(self, manifest: Manifest) -> Manifest:
        """Create and return the object as stored, or return the one that holds the name."""
        ref = ref_of(manifest)
        path = collection_path(ref.api_version, ref.kind, ref.namespace)
        for _ in range(_TRIES):
            answer = await self._request("POST", path, ref, query=_CREATE, body=manifest, expected=(409,))
            if answer.status != 409:
                return _object(answer)
            if answer.json().get("reason") != "AlreadyExists":
                raise Unavailable(f"{ref}: {answer.json().get('message')}")
            if (holder := await self.get(ref)) is not None:
                return holder
        raise Unavailable(f"{ref}: appears and disappears while it is being created")

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply as field manager `tenant-operator`, taking over the fields it names."""
        ref = ref_of(manifest)
        await self._request(
            "PATCH",
            object_path(ref),
            ref,
            query=_APPLY,
            body=manifest,
            content_type=APPLY_PATCH,
            # Nobody reads the object that comes back: ask for the smallest form of it.
            accept=METADATA_ONLY,
        )

    async def compare(self, manifest: Manifest) -> Sequence[Difference]:
        """In what the object is not as the manifest has it."""
        metadata = await self._metadata(ref_of(manifest))
        return [Difference("")] if metadata is None else field_owners.differences(manifest, _managed(metadata))

    async def correct(self, manifest: Manifest) -> None:
        """Make what others own ours, and apply: what is ours and not named goes."""
        ref = ref_of(manifest)
        for _ in range(_TRIES):
            metadata = await self._metadata(ref) or {}
            taken_over = field_owners.taken_over(manifest, _managed(metadata))
            if taken_over is None:
                break
            change = [
                {"op": "replace", "path": "/metadata/managedFields", "value": taken_over},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
            ]
            answer = await self._request(
                "PATCH",
                object_path(ref),
                ref,
                query={"fieldManager": FIELD_MANAGER},
                body=change,
                content_type=JSON_PATCH,
                accept=METADATA_ONLY,
                expected=(404, 409),
            )
            if answer.status not in (404, 409):
                break
        await self.apply(manifest)

    async def _metadata(self, ref: ObjectRef) -> dict[str, Any] | None:
        answer = await self._request("GET", object_path(ref), ref, accept=METADATA_ONLY, expected=(404,))
        return None if answer.status == 404 else dict(answer.json()["metadata"])

    async def delete(self, ref: ObjectRef) -> bool:
        """Ask for deletion, dependents included; True once the object is gone."""
        answer = await self._request("DELETE", object_path(ref), ref, query=_DELETE, expected=(404, 409))
        if answer.status == 404:
            return True
        body = answer.json()
        if answer.status == 200 and body.get("kind") == "Status":
            return True
        # The object came back: some kinds return it although it is gone, others wait for finalizers.
        deleted = body.get("metadata", {}).get("uid")
        current = await self.get(ref)
        return current is None or (deleted is not None and current["metadata"]["uid"] != deleted)

    async def _request(self, method: str, path: str, ref: ObjectRef, **options: Any) -> Answer:
        return await self._client.request(method, path, subject=str(ref), confidential=ref.kind == "Secret", **options)


def _managed(metadata: Mapping[str, Any]) -> field_owners.ManagedFields:
    found: field_owners.ManagedFields = metadata.get("managedFields") or ()
    return found


def _object(answer: Answer) -> Manifest:
    manifest: Manifest = answer.json()
    return manifest
