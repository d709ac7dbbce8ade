"""The session of the watches: the operator's own address and credentials, and what is known of each watch."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.watches import PATIENCE_SECONDS, Watches
from tests.contract.loopback import HttpServer, http_server, listening, unused_port
from tests.contract.test_kubernetes_client import client_of, write_kubeconfig

TENANTS, PLANS = "/apis/intelliauth.io/v1alpha1/tenants", "/apis/intelliauth.io/v1alpha1/plans"
WATCH = {"watch": "true"}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Holds watches open until told to let them go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await self.let_go.wait()


@asynccontextmanager
async def session_to(port: int, watches: Watches) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(port) as client, client.session(watches.observe) as session:
        yield session


async def test_a_watch_is_established_as_long_as_its_answer_is_open() -> None:
    clock, server = Clock(), Server()
    watches = Watches([TENANTS, PLANS], monotonic=clock)
    assert watches.fault() == f"no watch of {TENANTS} (not established), {PLANS} (not established)"

    async with listening(server.answer) as port, session_to(port, watches) as session:
        url = f"http://127.0.0.1:{port}"
        async with session.get(url + TENANTS):  # a list is no watch
            assert TENANTS in watches.fault()
        async with session.get(url + TENANTS, params=WATCH) as tenants:
            assert watches.fault() == f"no watch of {PLANS} (not established)"
            async with session.get(f"{url}/clusters/one{PLANS}", params=WATCH):
                assert watches.fault() == ""

                server.let_go.set()
                await tenants.read()
        assert watches.fault() == ""  # it may be back in a moment
        clock.now += PATIENCE_SECONDS
        assert watches.fault() == ""
        clock.now += 1
        server.let_go.clear()
        assert watches.fault() == f"no watch of {TENANTS} (not established), {PLANS} (not established)"
        async with session.get(url + TENANTS, params=WATCH), session.get(url + PLANS, params=WATCH):
            assert watches.fault() == ""


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_a_server_that_does_not_tell_is_a_broken_connection(status: int) -> None:
    """Of anything else kopf would think that it is for good."""
    watches = Watches([TENANTS])
    async with http_server() as server, session_to(server.port, watches) as session:
        server.status, server.body = status, b"{}"
        for params in ({}, WATCH):
            with pytest.raises(aiohttp.ClientConnectionError, match=f"answers {status}"):
                await session.get(f"http://127.0.0.1:{server.port}{TENANTS}", params=params)
        async with session.get(f"http://127.0.0.1:{server.port}/apis") as other:
            assert other.status == status

    assert watches.fault() == f"no watch of {TENANTS} (the API server answers {status})"


@pytest.mark.parametrize("status", [404, 410, 429])
async def test_what_kopf_deals_with_itself_is_left_to_it(status: int) -> None:
    watches = Watches([TENANTS])
    async with http_server() as server, session_to(server.port, watches) as session:
        server.status = status
        async with session.get(f"http://127.0.0.1:{server.port}{TENANTS}", params=WATCH) as answer:
            assert answer.status == status

    assert watches.fault() != ""


async def test_the_cause_is_told() -> None:
    port, watches = unused_port(), Watches([TENANTS])
    async with session_to(port, watches) as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"http://127.0.0.1:{port}{TENANTS}", params=WATCH)

    assert f"no watch of {TENANTS} (Cannot connect to host 127.0.0.1:{port}" in watches.fault()


# Who asks.


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with http_server() as running:
        running.body = json.dumps({}).encode()
        yield running


async def test_it_asks_the_same_server_with_the_same_token(server: HttpServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("mine")
    async with await KubernetesClient.connect(Connection(write_kubeconfig(tmp_path, server.port))) as client:
        assert client.server == f"http://127.0.0.1:{server.port}"
        async with client.session(Watches([]).observe) as session, session.get(client.server + TENANTS) as answer:
            assert answer.status == 200

    (asked,) = server.requests
    assert asked.headers["authorization"] == "Bearer mine"
    assert asked.headers["user-agent"] == "tenant-operator"


async def test_a_token_that_was_renewed_is_used_from_then_on(server: HttpServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    async with await KubernetesClient.connect(Connection(write_kubeconfig(tmp_path, server.port))) as client:
        (tmp_path / "token").write_text("new")
        server.status = 401
        async with client.session(Watches([]).observe) as session:
            async with session.get(client.server + TENANTS) as refused:
                assert refused.status == 401
            server.status = 200
            async with session.get(client.server + TENANTS) as answer:
                assert answer.status == 200

    assert [each.headers["authorization"].split()[1] for each in server.requests] == ["old", "new", "new"]
