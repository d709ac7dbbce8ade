"""The Organizations and Plans in the API server, and the RoleBindings of an organisation's members."""

from typing import Final
from urllib.parse import quote

from pydantic import ValidationError

from tenant_operator.api.names import API_VERSION, FIELD_MANAGER
from tenant_operator.catalog.platform_reconciler import PlatformResource
from tenant_operator.catalog.roles import RBAC_VERSION, labels
from tenant_operator.ports import Manifest
from tenant_operator.saga.errors import Rejected, Stale

from .client import KubernetesClient
from .errors import bounded, unreadable

_WRITE: Final = {"fieldManager": FIELD_MANAGER}


class KubernetesPlatformStore:
    """`platform_reconciler.PlatformStore` over the Kubernetes API."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def write_status(self, resource: PlatformResource) -> PlatformResource:
        """Replace the status, guarded by the resourceVersion. Raises Stale, also if the object is gone."""
        definition, metadata = resource.definition, resource.metadata
        subject = f"{definition.kind} {metadata.name}"
        # The server takes nothing but the status from this request: labels, annotations and spec stay as they are.
        body = {
            "apiVersion": API_VERSION,
            "kind": definition.kind,
            "metadata": {"name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version},
            "status": resource.status.to_wire(),
        }
        answer = await self._client.request(
            "PUT",
            f"/apis/{API_VERSION}/{definition.plural}/{quote(metadata.name, safe='')}/status",
            subject=subject,
            query=_WRITE,
            body=body,
            expected=(404, 409),
        )
        if answer.status >= 400:
            raise Stale(f"{subject}: {answer.json().get('message')}")
        try:
            return type(resource).model_validate_json(answer.content)
        except ValidationError as error:
            raise Rejected(bounded(f"{subject} cannot be read: {unreadable(error)}")) from error

    async def role_bindings(self, organization: str) -> list[Manifest]:
        """The RoleBindings of all namespaces that carry the labels of the organisation's."""
        answer = await self._client.request(
            "GET",
            f"/apis/{RBAC_VERSION}/rolebindings",
            subject=f"RoleBindings of Organization {organization}",
            query={"labelSelector": ",".join(f"{key}={value}" for key, value in labels(organization).items())},
        )
        # Items of built-in kinds do not repeat what the list says for all of them.
        return [{"apiVersion": RBAC_VERSION, "kind": "RoleBinding", **item} for item in answer.json()["items"]]
