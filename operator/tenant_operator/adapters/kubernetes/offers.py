"""What the platform team offers, read from the API server at the moment of asking."""

from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from tenant_operator.api.names import API_VERSION
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.resource import Resource

from .client import KubernetesClient
from .listing import listed

_ROOT: Final = f"/apis/{API_VERSION}"

AnyResource = TypeVar("AnyResource", bound=Resource)


class KubernetesOffers:
    """`ports.Offers` over the Kubernetes API. An object that cannot be read counts as absent."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def plan(self, name: str) -> Plan | None:
        """The Plan of that name."""
        return await self._read(Plan, name)

    async def organization(self, name: str) -> Organization | None:
        """The Organization of that name."""
        return await self._read(Organization, name)

    async def organizations(self) -> list[Organization]:
        """Every Organization."""
        found = []
        async for item in listed(self._client, Organization.definition.plural):
            with suppress(ValidationError):
                found.append(Organization.model_validate(item))
        return found

    async def _read(self, model: type[AnyResource], name: str) -> AnyResource | None:
        path = f"{_ROOT}/{model.definition.plural}/{quote(name, safe='')}"
        answer = await self._client.request("GET", path, subject=f"{model.definition.kind} {name}", expected=(400, 404))
        if answer.status != 200:
            return None
        try:
            return model.model_validate_json(answer.content)
        except ValidationError:
            return None
