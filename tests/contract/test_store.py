"""What the engine may rely on when it keeps its journal in a Tenant."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import pytest

from devcluster import Environment
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.kubernetes.client import MERGE_PATCH, Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.store import KubernetesTenantStore
from tenant_operator.api.names import ANNOTATION_ACTION, ANNOTATION_REQUESTED_BY, API_VERSION, FINALIZER
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import TenantKey, TenantStore, WriteRefused
from tenant_operator.saga.errors import Stale
from tests.fakes.store import ANNOTATION_BYTES, FakeTenantStore


class People(Protocol):
    """What people do to Tenants while the engine works."""

    async def apply(self, manifest: dict[str, Any]) -> None: ...

    async def delete(self, key: TenantKey) -> None: ...


class FakePeople:
    def __init__(self, store: FakeTenantStore) -> None:
        self._store = store

    async def apply(self, manifest: dict[str, Any]) -> None:
        self._store.apply(manifest)

    async def delete(self, key: TenantKey) -> None:
        self._store.delete(key)


class RealPeople:
    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        self._client = client
        self._path = f"/apis/{API_VERSION}/namespaces/{namespace}/tenants"

    async def apply(self, manifest: dict[str, Any]) -> None:
        answer = await self._client.request(
            "POST", self._path, subject="Tenant", body={"apiVersion": API_VERSION, **manifest}, expected=(409,)
        )
        if answer.status == 409:
            path = f"{self._path}/{manifest['metadata']['name']}"
            await self._client.request("PATCH", path, subject="Tenant", body=manifest, content_type=MERGE_PATCH)

    async def delete(self, key: TenantKey) -> None:
        await self._client.request("DELETE", f"{self._path}/{key.name}", subject="Tenant")


@dataclass(frozen=True)
class World:
    """A store, the people who use the same Tenants, and a Tenant of theirs."""

    store: TenantStore
    people: People
    key: TenantKey

    def manifest(self, **spec: Any) -> dict[str, Any]:
        return {
            "kind": "Tenant",
            "metadata": {
                "name": self.key.name,
                "namespace": self.key.namespace,
                "labels": {"team": "payments"},
                "annotations": {ANNOTATION_ACTION: "cancel", ANNOTATION_REQUESTED_BY: "ann", "example.com/x": "kept"},
            },
            "spec": {"organization": "acme", "plan": "starter", "admin": {"email": "ann@acme.example"}, **spec},
        }

    async def tenant(self) -> Tenant:
        tenant = await self.store.read(self.key)
        assert tenant is not None
        return tenant


@pytest.fixture(params=["fake", "kubernetes"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    key = TenantKey(f"contract-{uuid4().hex[:8]}", "banking")
    if request.param == "fake":
        fake = FakeTenantStore(SystemClock())
        world = World(fake, FakePeople(fake), key)
        await world.people.apply(world.manifest())
        yield world
        return
    environment: Environment = request.getfixturevalue("devcluster")
    async with await KubernetesClient.connect(Connection(environment.kubeconfig)) as client:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": key.namespace}}
        await client.request("POST", "/api/v1/namespaces", subject="Namespace", body=namespace)
        world = World(KubernetesTenantStore(client, page_size=1), RealPeople(client, key.namespace), key)
        await world.people.apply(world.manifest())
        yield world


def in_state(tenant: Tenant, state: TenantState) -> Tenant:
    return tenant.model_copy(update={"status": tenant.status.model_copy(update={"state": state, "attempt": 1})})


def with_metadata(tenant: Tenant, **changes: Any) -> Tenant:
    return tenant.model_copy(update={"metadata": tenant.metadata.model_copy(update=changes)})


async def test_a_tenant_is_read_as_it_was_applied(world: World) -> None:
    tenant = await world.tenant()

    assert tenant.spec.desired_state is DesiredState.ACTIVE
    assert tenant.status.state is TenantState.PENDING
    assert tenant.metadata.generation == 1
    assert tenant.metadata.uid
    assert tenant.metadata.creation_timestamp is not None
    assert tenant.metadata.annotations[ANNOTATION_ACTION] == "cancel"


async def test_an_absent_tenant_is_none(world: World) -> None:
    assert await world.store.read(TenantKey(world.key.namespace, "absent")) is None
    assert await world.store.read(TenantKey("contract-absent", "absent")) is None


async def test_a_written_status_is_stored_and_nothing_else_changes(world: World) -> None:
    before = await world.tenant()

    written = await world.store.write_status(in_state(before, TenantState.PROVISIONING))

    assert written.status.state is TenantState.PROVISIONING
    assert written.metadata.resource_version != before.metadata.resource_version
    assert written == await world.tenant()
    assert written.spec == before.spec
    assert with_metadata(written, resource_version="") == with_metadata(
        in_state(before, TenantState.PROVISIONING), resource_version=""
    )


async def test_a_status_is_replaced_as_a_whole(world: World) -> None:
    first = await world.store.write_status(in_state(await world.tenant(), TenantState.PROVISIONING))
    located = first.model_copy(update={"status": first.status.model_copy(update={"url": "https://x.example"})})
    second = await world.store.write_status(located)
    assert second.status.url == "https://x.example"

    third = await world.store.write_status(
        second.model_copy(update={"status": second.status.model_copy(update={"url": None})})
    )

    assert third.status.url is None
    assert (await world.tenant()).status.url is None


async def test_writing_the_same_status_again_is_no_write(world: World) -> None:
    written = await world.store.write_status(in_state(await world.tenant(), TenantState.ACTIVE))

    assert await world.store.write_status(written) == written


async def test_the_status_of_a_tenant_that_moved_on_is_not_overwritten(world: World) -> None:
    read = await world.tenant()
    await world.store.write_status(in_state(read, TenantState.PROVISIONING))

    with pytest.raises(Stale):
        await world.store.write_status(in_state(read, TenantState.FAILED))

    assert (await world.tenant()).status.state is TenantState.PROVISIONING


async def test_a_change_of_the_spec_is_a_conflict_too_and_keeps_the_status(world: World) -> None:
    read = await world.store.write_status(in_state(await world.tenant(), TenantState.ACTIVE))
    await world.people.apply(world.manifest(desiredState="Suspended"))

    with pytest.raises(Stale):
        await world.store.write_status(in_state(read, TenantState.FAILED))

    now = await world.tenant()
    assert now.status.state is TenantState.ACTIVE
    assert now.spec.desired_state is DesiredState.SUSPENDED
    assert now.metadata.generation == 2


async def test_a_written_status_does_not_undo_a_request(world: World) -> None:
    """The action annotation is the users' until the operator takes it with a write of the metadata."""
    read = await world.tenant()

    written = await world.store.write_status(with_metadata(read, annotations={}))

    assert written.metadata.annotations[ANNOTATION_ACTION] == "cancel"


async def test_a_status_for_a_tenant_that_is_gone_is_a_conflict(world: World) -> None:
    read = await world.tenant()
    await world.people.delete(world.key)

    with pytest.raises(Stale):
        await world.store.write_status(in_state(read, TenantState.ACTIVE))


async def test_a_tenant_of_the_same_name_is_not_taken_for_the_one_that_was_read(world: World) -> None:
    read = await world.tenant()
    await world.people.delete(world.key)
    await world.people.apply(world.manifest())

    with pytest.raises(Stale):
        await world.store.write_status(in_state(read, TenantState.ACTIVE))
    with pytest.raises(Stale):
        await world.store.write_metadata(with_metadata(read, finalizers=(FINALIZER,)))

    now = await world.tenant()
    assert now.metadata.uid != read.metadata.uid
    assert now.status.state is TenantState.PENDING


async def test_taking_a_request_removes_its_annotations_and_no_others(world: World) -> None:
    read = await world.store.write_status(in_state(await world.tenant(), TenantState.PROVISIONING))

    written = await world.store.write_metadata(
        with_metadata(read, finalizers=(FINALIZER,), annotations={ANNOTATION_REQUESTED_BY: "ann"})
    )

    assert written.metadata.finalizers == (FINALIZER,)
    assert written.metadata.annotations == {ANNOTATION_REQUESTED_BY: "ann", "example.com/x": "kept"}
    assert written.metadata.labels == {"team": "payments"}
    assert written.metadata.generation == 1
    assert written.status.state is TenantState.PROVISIONING
    assert written == await world.tenant()


async def test_the_metadata_of_a_tenant_that_moved_on_is_not_overwritten(world: World) -> None:
    read = await world.tenant()
    await world.store.write_status(in_state(read, TenantState.PROVISIONING))

    with pytest.raises(Stale):
        await world.store.write_metadata(with_metadata(read, finalizers=(FINALIZER,)))

    assert (await world.tenant()).metadata.finalizers == ()


async def test_what_the_api_server_does_not_take_is_refused_and_changes_nothing(world: World) -> None:
    read = await world.tenant()
    swollen = with_metadata(read, annotations={ANNOTATION_REQUESTED_BY: "x" * ANNOTATION_BYTES})

    with pytest.raises(WriteRefused, match=f"Tenant {world.key}: .*Too long"):
        await world.store.write_metadata(swollen)

    assert await world.tenant() == read


async def test_the_metadata_of_a_tenant_that_is_gone_comes_back_unchanged(world: World) -> None:
    changed = with_metadata(await world.tenant(), finalizers=(FINALIZER,))
    await world.people.delete(world.key)

    assert await world.store.write_metadata(changed) is changed


async def test_a_deleted_tenant_stays_until_its_finalizer_is_removed(world: World) -> None:
    await world.store.write_metadata(with_metadata(await world.tenant(), finalizers=(FINALIZER,)))
    await world.people.delete(world.key)
    leaving = await world.tenant()
    assert leaving.metadata.deletion_timestamp is not None
    assert leaving.metadata.generation == 2

    journalled = await world.store.write_status(in_state(leaving, TenantState.DECOMMISSIONING))
    await world.store.write_metadata(with_metadata(journalled, finalizers=()))

    assert await world.store.read(world.key) is None


async def test_the_store_lists_every_tenant_of_a_namespace(world: World) -> None:
    other = world.manifest()
    other["metadata"]["name"] = "retail"
    await world.people.apply(other)
    assert isinstance(world.store, FakeTenantStore | KubernetesTenantStore)

    listed = {tenant.metadata.name: tenant for tenant in await world.store.list(world.key.namespace)}

    assert set(listed) == {"banking", "retail"}
    assert await world.store.list("nobody-lives-here") == []
    assert listed["banking"] == await world.tenant()
