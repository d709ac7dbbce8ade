"""What is heard of objects, from the real API server and from one that behaves badly."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest

from devcluster import Environment
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.listener import Listener
from tenant_operator.adapters.kubernetes.object_watch import ObjectWatch, watch_all
from tenant_operator.adapters.kubernetes.watches import Watches
from tests.contract.loopback import listening
from tests.contract.test_kubernetes_client import client_of
from tests.contract.waiting import until


class Ear:
    """Keeps what is heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str | None, dict[str, Any]]] = []

    def __call__(self, event: str | None, body: dict[str, Any]) -> None:
        self.heard.append((event, body))

    def of(self, name: str) -> list[str | None]:
        return [event for event, body in self.heard if body["metadata"]["name"] == name]


async def becomes(holds: Callable[[], bool]) -> None:
    """Returns once it is so."""

    async def asked() -> bool:
        return holds()

    await until(asked)


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Future[None]]:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# The real API server.


@pytest.fixture
async def client(devcluster: Environment) -> AsyncIterator[KubernetesClient]:
    async with await KubernetesClient.connect(Connection(devcluster.kubeconfig)) as connected:
        yield connected


async def write(client: KubernetesClient, method: str, path: str, body: object = None) -> None:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    await client.request(method, path, subject=path, body=body, content_type=kind)


@pytest.mark.parametrize("is_whole", [False, True])
async def test_what_is_there_what_comes_what_changes_and_what_goes(client: KubernetesClient, *, is_whole: bool) -> None:
    mark, path = uuid4().hex[:8], "/api/v1/namespaces/default/configmaps"
    here, coming, foreign = (f"{name}-{mark}" for name in ("here", "coming", "foreign"))

    def config_map(name: str, **labels: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "labels": labels}, "data": {"key": "value"}}

    await write(client, "POST", path, config_map(here, watched=mark))
    await write(client, "POST", path, config_map(foreign))
    ear = Ear()
    listener = Listener("v1", "ConfigMap", "configmaps", ear, {"watched": mark}, is_whole=is_whole)
    watches = Watches([listener.path])
    async with running(watch_all(client.session(watches.observe), client.server, [listener])):
        await becomes(lambda: watches.fault() == "")
        assert ear.of(here) == [None]
        await write(client, "POST", path, config_map(coming, watched=mark))
        await write(client, "PATCH", f"{path}/{here}", {"data": {"key": "other"}})
        await write(client, "DELETE", f"{path}/{coming}")
        await becomes(lambda: ear.of(coming) == ["ADDED", "DELETED"] and ear.of(here) == [None, "MODIFIED"])
    assert ear.of(foreign) == []
    for _, body in ear.heard:
        assert (body["apiVersion"], body["kind"]) == ("v1", "ConfigMap")
        assert ("data" in body) is is_whole
        assert body["metadata"]["uid"]
        assert body["metadata"]["managedFields"]


@pytest.mark.parametrize("is_whole", [False, True])
async def test_where_there_is_nothing_nothing_is_heard(client: KubernetesClient, *, is_whole: bool) -> None:
    ear, labels = Ear(), {"watched": uuid4().hex[:8]}
    listener = Listener("v1", "ConfigMap", "configmaps", ear, labels, is_whole=is_whole)
    watches = Watches([listener.path])
    async with running(watch_all(client.session(watches.observe), client.server, [listener])):
        await becomes(lambda: watches.fault() == "")
    assert ear.heard == []


# One that behaves badly.


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def event(type_: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": type_, "object": body}).encode() + b"\n"


def page(version: int, *names: str, more: str = "") -> bytes:
    metadata = {"resourceVersion": str(version), "continue": more}
    return json.dumps({"metadata": metadata, "items": [thing(name, version) for name in names]}).encode()


Answer = tuple[int, list[bytes]]
"""The status, and the pieces in which the content comes; an empty one stands for silence from there on."""


class Server:
    """Gives one answer after the other to whoever asks, then holds its peace."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split(" ")[1])
        status, pieces = self.answers.pop(0) if self.answers else (200, [b""])
        writer.write(f"HTTP/1.1 {status} Whatever\r\nConnection: close\r\n\r\n".encode())
        for piece in pieces:
            await writer.drain()
            if not piece:
                await reader.read()
            writer.write(piece)
            await asyncio.sleep(0.01)
        await writer.drain()

    def watched_from(self) -> list[str]:
        """The version that each watch went on from."""
        return [each.partition("resourceVersion=")[2].partition("&")[0] for each in self.asked if "watch=true" in each]


async def heard_of(server: Server, *, then: int) -> Ear:
    """What is heard until so many requests have come."""
    ear = Ear()
    # Where nothing is to be silent, the last watch is one that waits when it is told to end.
    silence = 0.3 if any(b"" in pieces for _, pieces in server.answers) else 60.0
    async with listening(server.serve) as port, client_of(port) as client:
        session = client.session(Watches(["/api/v1/things"]).observe)
        watch = ObjectWatch(session, client.server, Listener("v1", "Thing", "things", ear), silence=silence)
        async with session, running(watch.run()):
            await becomes(lambda: len(server.asked) >= then)
    del server.asked[then:]  # whoever waits in vain asks again
    return ear


async def test_a_list_is_read_page_by_page_before_the_watch_begins() -> None:
    server = Server((200, [page(7, "a", "b", more="token=/+")]), (200, [page(7, "c")]))
    ear = await heard_of(server, then=3)
    assert [(event, body["metadata"]["name"]) for event, body in ear.heard] == [(None, "a"), (None, "b"), (None, "c")]
    assert "continue=token%3D%2F%2B" in server.asked[1] or "continue=token%3D/%2B" in server.asked[1]
    assert server.watched_from() == ["7"]


async def test_a_watch_that_ends_goes_on_where_it_was_and_nothing_is_listed_again() -> None:
    server = Server(
        (200, [page(7)]),
        (200, [event("ADDED", thing("a", 8)), event("BOOKMARK", thing("", 20))]),
        (200, [event("DELETED", thing("a", 21))]),
    )
    ear = await heard_of(server, then=4)
    assert ear.of("a") == ["ADDED", "DELETED"]
    assert server.watched_from() == ["7", "20", "21"]


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_a_pause() -> None:
    server = Server((200, [page(7)]), *[(200, [])] * 1000)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await heard_of(server, then=4)
    assert loop.time() - begin > 0.7, "a quarter of a second, then half a second at least"


async def test_events_come_in_any_pieces() -> None:
    whole = event("ADDED", thing("a", 8)) + event("MODIFIED", thing("a", 9))
    server = Server((200, [page(7)]), (200, [bytes([byte]) for byte in whole[:40]] + [whole[40:]]))
    ear = await heard_of(server, then=3)
    assert ear.of("a") == ["ADDED", "MODIFIED"]
    assert server.watched_from() == ["7", "9"]


@pytest.mark.parametrize(
    "answer",
    [
        (200, [event("ERROR", {"code": 410, "message": "too old"})]),
        (410, [b"{}"]),
    ],
)
async def test_what_the_server_has_forgotten_is_listed_again(answer: Answer) -> None:
    server = Server((200, [page(7, "a")]), answer, (200, [page(30, "b")]))
    ear = await heard_of(server, then=4)
    assert [body["metadata"]["name"] for _, body in ear.heard] == ["a", "b"]
    assert server.watched_from() == ["7", "30"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, [b"broken"]),
        (403, [b"no"]),
        (404, [b"no such kind"]),
        (429, [b"later"]),
        (200, [event("ERROR", {"code": 500, "message": "broken"})]),
        (200, [b"not JSON\n"]),
        (200, [b'{"type": "ADDED", "object": {"metad']),  # cut off
        (200, [b""]),  # silent
    ],
)
async def test_whatever_a_watch_meets_it_goes_on_from_where_it_was(answer: Answer) -> None:
    server = Server((200, [page(7)]), answer, (200, [event("ADDED", thing("a", 8))]))
    ear = await heard_of(server, then=4)
    assert ear.of("a") == ["ADDED"]
    assert server.watched_from() == ["7", "7", "8"]


@pytest.mark.parametrize("answer", [(500, [b"broken"]), (200, [b'{"items": [']), (410, [b"{}"])])
async def test_a_list_that_fails_is_read_again_from_its_beginning(answer: Answer) -> None:
    server = Server((200, [page(7, "a", more="token")]), answer, (200, [page(8, "a")]))
    ear = await heard_of(server, then=4)
    assert ear.of("a") == [None, None]
    assert server.watched_from() == ["8"]


async def test_whoever_stumbles_over_what_he_hears_ends_the_watch_and_is_named() -> None:
    def stumble(event: str | None, body: dict[str, Any]) -> None:
        raise RuntimeError("broken")

    server = Server((200, [page(7, "a")]))
    async with listening(server.serve) as port, client_of(port) as client:
        session = client.session(Watches(["/api/v1/things"]).observe)
        with pytest.raises(ExceptionGroup) as raised:
            await watch_all(session, client.server, [Listener("v1", "Thing", "things", stumble)])
    assert [str(each) for each in raised.value.exceptions] == ["broken"]
