"""What the watches missed is found by UID, and what came while the list was read is not taken away."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.ports import TenantKey
from tenant_operator.resync import Resync
from tenant_operator.saga.errors import Unavailable
from tests.fakes.store import FakeTenantStore

KEY = TenantKey("acme", "banking")
MANIFEST: dict[str, Any] = {
    "metadata": {"name": KEY.name, "namespace": KEY.namespace},
    "spec": {"organization": "acme", "plan": "starter", "admin": {"email": "ann@acme.example"}},
}


def of_platform(kind: str, name: str, uid: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "uid": uid}, "spec": spec}


PORT = {"name": "http", "containerPort": 80}
PLAN = of_platform("Plan", "starter", "plan-1", workloads=[{"name": "auth", "image": "auth:1", "ports": [PORT]}])
ORGANIZATION = of_platform("Organization", "acme", "organization-1", namespace="acme", plans=["starter"])


class World:
    """What is known, what is listed, and what was heard."""

    def __init__(self) -> None:
        self.store = FakeTenantStore(SystemClock())
        self.catalog = WatchedCatalog()
        self.memory = self.catalog.memory
        self.listed: dict[str, list[dict[str, Any]]] = {"plans": [PLAN], "organizations": [ORGANIZATION]}
        self.heard: list[tuple[str, str]] = []
        self.catalog.observe_plan(None, PLAN)
        self.catalog.observe_organization(None, ORGANIZATION)
        self.resync = Resync(self.listing, self.memory, self.catalog, self)

    async def listing(self, plural: str) -> AsyncIterator[dict[str, Any]]:
        body = self.store.body(KEY)
        for each in ([] if body is None else [body]) if plural == "tenants" else self.listed[plural]:
            yield each

    def tenant_changed(self, event: str | None, body: dict[str, Any]) -> None:
        uid = body["metadata"]["uid"]
        if event != "DELETED":
            self.heard.append(("listed", uid))
        elif self.memory.forget(TenantKey(body["metadata"]["namespace"], body["metadata"]["name"]), uid):
            self.heard.append(("gone", uid))

    def plan_changed(self, event: str | None, body: dict[str, Any]) -> None:
        self.heard.append((f"plan {event}", body["metadata"]["uid"]))
        self.catalog.observe_plan(event, body)

    def organization_changed(self, event: str | None, body: dict[str, Any]) -> None:
        self.heard.append((f"organization {event}", body["metadata"]["uid"]))
        self.catalog.observe_organization(event, body)


async def test_what_is_there_is_told_and_nothing_is_missed() -> None:
    world = World()
    tenant = world.store.apply(MANIFEST)
    world.memory.observe(tenant)

    await world.resync.once()

    assert world.heard == [("listed", tenant.metadata.uid)]


async def test_a_tenant_that_is_gone_is_found() -> None:
    world = World()
    tenant = world.store.apply(MANIFEST)
    world.memory.observe(tenant)
    world.store.delete(KEY)

    await world.resync.once()

    assert world.heard == [("gone", tenant.metadata.uid)]


async def test_a_tenant_that_is_made_anew_while_the_list_is_read_is_not_taken_away() -> None:
    world = World()
    world.memory.observe(world.store.apply(MANIFEST))
    world.store.delete(KEY)
    read = world.listing

    async def list_then_make_anew(plural: str) -> AsyncIterator[dict[str, Any]]:
        async for each in read(plural):
            yield each
        if plural == "tenants":
            world.memory.observe(world.store.apply(MANIFEST))

    world.resync = Resync(list_then_make_anew, world.memory, world.catalog, world)
    await world.resync.once()

    assert world.heard == []
    assert world.memory.get(KEY) is not None


async def test_a_tenant_that_can_no_longer_be_read_is_not_gone() -> None:
    world = World()
    tenant = world.store.apply(MANIFEST)
    world.memory.observe(tenant)
    broken = {**tenant.to_wire(), "spec": {}}
    broken["metadata"] = {**broken["metadata"], "resourceVersion": "8"}

    async def unreadable(plural: str) -> AsyncIterator[dict[str, Any]]:
        for each in [broken] if plural == "tenants" else world.listed[plural]:
            yield each

    await Resync(unreadable, world.memory, world.catalog, world).once()

    assert ("gone", tenant.metadata.uid) not in world.heard
    mended = tenant.metadata.model_copy(update={"resource_version": "9"})
    assert world.memory.observe(tenant.model_copy(update={"metadata": mended})), "it is heard of when it is mended"


async def test_a_plan_and_an_organization_that_are_gone_are_found() -> None:
    world = World()
    world.listed = {"plans": [], "organizations": []}

    await world.resync.once()

    assert world.heard == [("plan DELETED", "plan-1"), ("organization DELETED", "organization-1")]
    assert world.catalog.plan("starter") is None
    assert world.catalog.organization("acme") is None


async def test_an_api_server_that_does_not_answer_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world, asked = World(), asyncio.Event()

    async def away(plural: str) -> AsyncIterator[dict[str, Any]]:
        if not asked.is_set():
            asked.set()
            raise Unavailable("no answer")
        async for each in world.listing(plural):
            yield each

    world.resync = Resync(away, world.memory, world.catalog, world)
    task = asyncio.create_task(world.resync.run(0.01))
    world.store.apply(MANIFEST)
    async with asyncio.timeout(5):
        while len(world.heard) < 2:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.01)
    task.cancel()

    assert "resync: no answer" in caplog.text
