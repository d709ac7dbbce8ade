"""What the reconciler of Organizations and Plans may rely on where their status and their RoleBindings are kept."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import pytest

from devcluster import Environment
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.kubernetes.client import MERGE_PATCH, Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.platform_store import KubernetesPlatformStore
from tenant_operator.api.names import API_VERSION
from tenant_operator.api.organization import MemberRole, Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog.platform_reconciler import PlatformStore
from tenant_operator.catalog.roles import RBAC_VERSION, in_step, role_bindings
from tenant_operator.ports import Cluster, ObjectRef
from tenant_operator.saga.errors import Stale
from tests.fakes.cluster import FakeCluster
from tests.fakes.platform_store import FakePlatformStore

Kind = type[Organization] | type[Plan]

PLAN: dict[str, Any] = {
    "workloads": [{"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}]
}
MEMBERS = [
    {"kind": "User", "name": "Ann Lee <ann@acme.example>", "role": "owner"},
    {"kind": "Group", "name": "acme:support", "role": "viewer"},
    {"kind": "ServiceAccount", "name": "argo.cd", "namespace": "argocd", "role": "owner"},
]


class People(Protocol):
    """What the platform team does."""

    async def apply(self, kind: Kind, name: str, spec: dict[str, Any]) -> None: ...

    async def delete(self, kind: Kind, name: str) -> None: ...

    async def organization(self, name: str) -> Organization: ...

    async def plan(self, name: str) -> Plan: ...


class FakePeople:
    def __init__(self, store: FakePlatformStore) -> None:
        self._store = store

    async def apply(self, kind: Kind, name: str, spec: dict[str, Any]) -> None:
        self._store.apply(kind, name, spec)

    async def delete(self, kind: Kind, name: str) -> None:
        self._store.delete(kind, name)

    async def organization(self, name: str) -> Organization:
        return self._store.organization(name)

    async def plan(self, name: str) -> Plan:
        return self._store.plan(name)


class RealPeople:
    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def apply(self, kind: Kind, name: str, spec: dict[str, Any]) -> None:
        root = f"/apis/{API_VERSION}/{kind.definition.plural}"
        body = {"apiVersion": API_VERSION, "kind": kind.definition.kind, "metadata": {"name": name}, "spec": spec}
        answer = await self._client.request("POST", root, subject=name, body=body, expected=(409,))
        if answer.status == 409:
            await self._client.request("PATCH", f"{root}/{name}", subject=name, body=body, content_type=MERGE_PATCH)

    async def delete(self, kind: Kind, name: str) -> None:
        await self._client.request("DELETE", f"/apis/{API_VERSION}/{kind.definition.plural}/{name}", subject=name)

    async def organization(self, name: str) -> Organization:
        return Organization.model_validate(await self._read(Organization, name))

    async def plan(self, name: str) -> Plan:
        return Plan.model_validate(await self._read(Plan, name))

    async def _read(self, kind: Kind, name: str) -> Any:
        path = f"/apis/{API_VERSION}/{kind.definition.plural}/{name}"
        return (await self._client.request("GET", path, subject=name)).json()


@dataclass(frozen=True)
class World:
    """A store, the cluster it belongs to, and people who use both; every name begins with `prefix`."""

    store: PlatformStore
    cluster: Cluster
    people: People
    prefix: str

    async def organization(self, **spec: Any) -> Organization:
        await self.people.apply(Organization, self.prefix, {"namespace": self.prefix, "plans": [], **spec})
        return await self.people.organization(self.prefix)

    async def plan(self, **spec: Any) -> Plan:
        await self.people.apply(Plan, self.prefix, PLAN | spec)
        return await self.people.plan(self.prefix)


@pytest.fixture(params=["fake", "kubernetes"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    prefix = f"contract-{uuid4().hex[:8]}"
    if request.param == "fake":
        cluster = FakeCluster(SystemClock())
        store = FakePlatformStore(cluster)
        yield World(store, cluster, FakePeople(store), prefix)
        return
    environment: Environment = request.getfixturevalue("devcluster")
    async with await KubernetesClient.connect(Connection(environment.kubeconfig)) as client:
        yield World(KubernetesPlatformStore(client), KubernetesCluster(client), RealPeople(client), prefix)


def counting(organization: Organization, **tenants: int) -> Organization:
    status = organization.status.model_copy(update={"tenants": tenants})
    return organization.model_copy(update={"status": status})


async def test_a_written_status_is_stored_and_nothing_else_changes(world: World) -> None:
    before = await world.organization(members=MEMBERS)

    written = await world.store.write_status(counting(before, Active=3))

    assert written.status.tenants == {"Active": 3}
    assert written == await world.people.organization(world.prefix)
    assert (written.spec, written.metadata.generation) == (before.spec, before.metadata.generation)
    assert written.metadata.resource_version != before.metadata.resource_version


async def test_a_status_is_replaced_as_a_whole(world: World) -> None:
    first = await world.store.write_status(counting(await world.organization(), Active=3, Failed=1))

    await world.store.write_status(counting(first, Active=4))

    assert (await world.people.organization(world.prefix)).status.tenants == {"Active": 4}


async def test_the_status_of_a_plan_is_written_too(world: World) -> None:
    plan = await world.plan()
    status = plan.status.model_copy(update={"tenants": 7, "observed_generation": plan.metadata.generation})

    written = await world.store.write_status(plan.model_copy(update={"status": status}))

    assert written == await world.people.plan(world.prefix)
    assert (written.status.tenants, written.status.observed_generation) == (7, 1)


async def test_writing_the_same_status_again_is_no_write(world: World) -> None:
    written = await world.store.write_status(counting(await world.organization(), Active=1))

    assert await world.store.write_status(written) == written


async def test_what_moved_on_is_not_overwritten(world: World) -> None:
    read = await world.organization()
    await world.organization(displayName="Acme")

    with pytest.raises(Stale):
        await world.store.write_status(counting(read, Active=1))

    assert (await world.people.organization(world.prefix)).status.tenants == {}


async def test_what_is_gone_is_a_conflict(world: World) -> None:
    read = await world.organization()
    await world.people.delete(Organization, world.prefix)

    with pytest.raises(Stale):
        await world.store.write_status(counting(read, Active=1))


async def test_an_object_of_the_same_name_is_not_taken_for_the_one_that_was_read(world: World) -> None:
    read = await world.organization()
    await world.people.delete(Organization, world.prefix)
    await world.organization()

    with pytest.raises(Stale):
        await world.store.write_status(counting(read, Active=1))


async def test_the_role_bindings_of_an_organization_are_found_wherever_they_are(world: World) -> None:
    here, there = world.prefix, f"{world.prefix}-there"
    for namespace in (here, there):
        await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    organization = await world.organization(members=MEMBERS)
    owners, viewers = role_bindings(organization)
    await world.cluster.create(owners)
    viewers["metadata"]["namespace"] = there
    await world.cluster.create(viewers)
    foreign = {**owners, "metadata": {"name": "by-hand", "namespace": here}}
    await world.cluster.create(foreign)

    found = {each["metadata"]["namespace"]: each for each in await world.store.role_bindings(world.prefix)}

    assert set(found) == {here, there}
    assert in_step(found[here], owners)
    assert in_step(found[there], viewers)
    assert await world.store.role_bindings(f"{world.prefix}-other") == []


async def test_what_was_applied_is_found_as_it_was_applied(world: World) -> None:
    """Every kind of subject comes back as it was sent, or the reconciler would apply it again for ever."""
    await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": world.prefix}})
    organization = await world.organization(members=[member | {"role": "admin"} for member in MEMBERS])
    (admins,) = role_bindings(organization)
    await world.cluster.create({**admins, "subjects": admins["subjects"][:1]})
    await world.cluster.apply(admins)

    (found,) = await world.store.role_bindings(world.prefix)

    assert in_step(found, admins)
    assert [subject["name"] for subject in found["subjects"]] == [member["name"] for member in MEMBERS]
    ref = ObjectRef(RBAC_VERSION, "RoleBinding", f"intelliauth-{MemberRole.ADMIN.value}", world.prefix)
    assert found == await world.cluster.get(ref)
