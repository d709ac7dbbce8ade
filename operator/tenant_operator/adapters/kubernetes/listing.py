"""All objects of one of the product's kinds, read in pages."""

from typing import Any
from urllib.parse import quote

from tenant_operator.api.names import API_VERSION

from .client import KubernetesClient


async def list_objects(
    client: KubernetesClient, plural: str, *, namespace: str | None = None, page_size: int = 500
) -> list[dict[str, Any]]:
    """The objects of a namespace, or of all, as JSON data."""
    place = plural if namespace is None else f"namespaces/{quote(namespace, safe='')}/{plural}"
    objects: list[dict[str, Any]] = []
    query = {"limit": str(page_size)}
    while True:
        answer = await client.request(
            "GET", f"/apis/{API_VERSION}/{place}", subject=f"the list of {plural}", query=query
        )
        page = answer.json()
        objects += page["items"]
        if not (rest := page["metadata"].get("continue")):
            return objects
        query["continue"] = rest
