"""All objects of one of the product's kinds, read in pages."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from tenant_operator.api.names import API_VERSION

from .client import PAGE, KubernetesClient


async def listed(
    client: KubernetesClient, plural: str, *, namespace: str | None = None, page_size: int = PAGE
) -> AsyncIterator[dict[str, Any]]:
    """The objects of a namespace, or of all, as JSON data: no more of them at once than there are on a page. Raises an
    ActivityError."""
    place = plural if namespace is None else f"namespaces/{quote(namespace, safe='')}/{plural}"
    query = {"limit": str(page_size)}
    while True:
        answer = await client.request(
            "GET", f"/apis/{API_VERSION}/{place}", subject=f"the list of {plural}", query=query
        )
        page = answer.json()
        for each in page["items"]:
            yield each
        if not (rest := page["metadata"].get("continue")):
            return
        query["continue"] = rest
