"""Servers on loopback that behave as badly as a test asks."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.certificates import Authority

_TURNS_OF_THE_LOOP = 5

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """An HTTP request as received; the names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpServer:
    """Answers every request with `status`, `headers` and `body`, and keeps the requests.

    `hangs_up` closes the connection instead of answering, `silent` says nothing and keeps it open.
    """

    port: int = 0
    scheme: str = "http"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs_up: bool = False
    silent: bool = False
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1/things"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request of one connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        request = Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))
        if self.silent:
            await reader.read()
            return
        if self.hangs_up:
            return
        self.requests.append(request)
        lines = [f"HTTP/1.1 {self.status} Whatever", f"Content-Length: {len(self.body)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + self.body)
        await writer.drain()


@contextlib.asynccontextmanager
async def listening(connection: Connection, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve each connection on a free port until the block ends; connections still open are cut then."""
    open_connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await connection(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        open_connections.add(task)
        task.add_done_callback(open_connections.discard)
        # Not in `serve`: cancelled before it has begun, that does nothing at all.
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for _ in range(_TURNS_OF_THE_LOOP):
            await asyncio.sleep(0)  # what was accepted a moment ago becomes a connection
        for task in list(open_connections):
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)


@contextlib.asynccontextmanager
async def http_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpServer]:
    """An HTTP (or HTTPS) server on a free port."""
    server = HttpServer(scheme="http" if tls is None else "https")
    async with listening(server.answer, tls) as server.port:
        yield server


def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def own_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """The TLS context of a server on loopback, and the file of the authority that nobody but its reader trusts."""
    authority = Authority(folder, "test-authority")
    pair = authority.serving_certificate("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context, authority.pair.certificate
