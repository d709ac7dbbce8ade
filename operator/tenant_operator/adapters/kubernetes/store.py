"""The Tenants in the API server, whose status is the journal."""

import builtins
import logging
from typing import Any, Final
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from tenant_operator.api.names import (
    ANNOTATION_ACTION,
    ANNOTATION_REQUESTED_BY,
    API_VERSION,
    FIELD_MANAGER,
    GROUP,
)
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, WriteRefused
from tenant_operator.saga.errors import Rejected, Stale

from .client import JSON, MERGE_PATCH, METADATA_LIST, Answer, KubernetesClient
from .errors import bounded, unreadable
from .listing import listed

_log = logging.getLogger(__name__)

_ROOT: Final = f"/apis/{API_VERSION}"
_PLURAL: Final = Tenant.definition.plural
_WRITE: Final = {"fieldManager": FIELD_MANAGER}
_TENANT: Final = TypeAdapter(Tenant)


class KubernetesTenantStore:
    """`ports.TenantStore` over the Kubernetes API."""

    def __init__(self, client: KubernetesClient, *, page_size: int = 500) -> None:
        self._client = client
        self._page_size = page_size

    async def read(self, key: TenantKey) -> Tenant | None:
        """The Tenant as the API server has it now, or None."""
        answer = await self._client.request("GET", _path(key), subject=f"Tenant {key}", expected=(404,))
        return None if answer.status == 404 else _parsed(answer, key)

    async def list(self, namespace: str) -> list[Tenant]:
        """The Tenants of a namespace, read in pages. One that cannot be read is logged and left out."""
        tenants: list[Tenant] = []
        async for item in listed(self._client, _PLURAL, namespace=namespace, page_size=self._page_size):
            try:
                tenants.append(_TENANT.validate_python(item))
            except ValidationError as error:
                _log.warning("Tenant %s cannot be read: %s", _name_of(item), unreadable(error))
        return tenants

    async def count(self, namespace: str) -> int:
        """How many Tenants there are in a namespace: one of them and the number of the others is what is read."""
        path = f"{_ROOT}/namespaces/{quote(namespace, safe='')}/{_PLURAL}"
        answer = await self._client.request(
            "GET", path, subject=f"the Tenants of {namespace}", query={"limit": "1"}, accept=METADATA_LIST
        )
        page = answer.json()
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)

    async def write_status(self, tenant: Tenant) -> Tenant:
        """Replace the status, guarded by the resourceVersion. Raises Stale, also if the object is gone, and
        WriteRefused."""
        key = TenantKey(tenant.metadata.namespace or "", tenant.metadata.name)
        # The server takes nothing but the status from this request: labels, annotations and spec stay as they are.
        body = {
            "apiVersion": API_VERSION,
            "kind": tenant.kind,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": tenant.metadata.uid,
                "resourceVersion": tenant.metadata.resource_version,
            },
            "status": tenant.status.to_wire(),
        }
        answer = await self._write("PUT", key, f"{_path(key)}/status", body, content_type=JSON)
        if answer.status >= 400:
            raise Stale(f"Tenant {key}: {answer.json().get('message')}")
        return _parsed(answer, key)

    async def write_metadata(self, tenant: Tenant) -> Tenant:
        """Make the finalizers and the group's annotations those of `tenant`, guarded by the resourceVersion.

        Annotations of others stay. Returns `tenant` if the object is gone. Raises Stale, WriteRefused.
        """
        key = TenantKey(tenant.metadata.namespace or "", tenant.metadata.name)
        own = {name: value for name, value in tenant.metadata.annotations.items() if _is_own(name)}
        patch = {
            "metadata": {
                "resourceVersion": tenant.metadata.resource_version,
                "finalizers": builtins.list(tenant.metadata.finalizers),
                "annotations": {ANNOTATION_ACTION: None, ANNOTATION_REQUESTED_BY: None, **own},
            }
        }
        answer = await self._write("PATCH", key, _path(key), patch, content_type=MERGE_PATCH)
        if answer.status == 404:
            return tenant
        if answer.status == 409:
            raise Stale(f"Tenant {key}: {answer.json().get('message')}")
        return _parsed(answer, key)

    async def _write(self, method: str, key: TenantKey, path: str, body: Any, *, content_type: str) -> Answer:
        try:
            return await self._client.request(
                method,
                path,
                subject=f"Tenant {key}",
                query=_WRITE,
                body=body,
                content_type=content_type,
                expected=(404, 409),
            )
        except Rejected as error:
            raise WriteRefused(error.message) from None


def _path(key: TenantKey) -> str:
    return f"{_ROOT}/namespaces/{quote(key.namespace, safe='')}/{_PLURAL}/{quote(key.name, safe='')}"


def _is_own(annotation: str) -> bool:
    return annotation.partition("/")[0] == GROUP


def _parsed(answer: Answer, key: TenantKey) -> Tenant:
    try:
        return _TENANT.validate_json(answer.content)
    except ValidationError as error:
        raise Rejected(bounded(f"Tenant {key} cannot be read: {unreadable(error)}")) from error


def _name_of(item: dict[str, Any]) -> str:
    return f"{item['metadata'].get('namespace')}/{item['metadata'].get('name')}"
