"""What admission may rely on when it reads Plans and Organizations from where they are."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from devcluster import Environment
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.offers import KubernetesOffers
from tenant_operator.api.names import API_VERSION
from tenant_operator.api.organization import Organization
from tenant_operator.ports import Offers
from tests.fakes.catalog import FakeOffers


@dataclass(frozen=True)
class World:
    """Offers, and the way to have an Organization made."""

    offers: Offers
    create: Callable[[str], Awaitable[None]]


@pytest.fixture
async def fake() -> World:
    offers = FakeOffers()

    async def create(name: str) -> None:
        offers.by_name[name] = Organization.model_validate({"metadata": {"name": name}, "spec": {"namespace": name}})

    return World(offers, create)


@pytest.fixture
async def real(devcluster: Environment) -> AsyncIterator[World]:
    path, made = f"/apis/{API_VERSION}/organizations", []
    async with await KubernetesClient.connect(Connection(devcluster.kubeconfig)) as client:

        async def create(name: str) -> None:
            metadata = {"name": name}
            body = {
                "apiVersion": API_VERSION,
                "kind": "Organization",
                "metadata": metadata,
                "spec": {"namespace": name},
            }
            await client.request("POST", path, subject=name, body=body)
            made.append(name)

        yield World(KubernetesOffers(client), create)
        for name in made:
            await client.request("DELETE", f"{path}/{name}", subject=name)


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


async def test_what_was_just_created_is_there(world: World) -> None:
    names = {f"offers-{uuid4().hex[:8]}" for _ in range(3)}
    for name in names:
        await world.create(name)

    everyone = {each.metadata.name: each for each in await world.offers.organizations()}

    assert names <= everyone.keys()
    for name in names:
        one = await world.offers.organization(name)
        assert one is not None
        assert one.spec.namespace == everyone[name].spec.namespace == name


async def test_what_is_not_there_is_none(world: World) -> None:
    assert await world.offers.organization("offers-nobody") is None
    assert await world.offers.plan("offers-nothing") is None
