"""A small HTTPS server in a thread of its own, for one kind of client, bounded in all that others can do to it."""

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

import h11

from tenant_operator.adapters.serving_tls import CertificateError, ServingTls
from tenant_operator.adapters.tls_stream import TlsStream

Handler = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""From the body of a POST to the status and the JSON of the answer. It bounds its own time."""

_BACKLOG: Final = 128
_BUFFER: Final = 16 * 1024
_RENEWAL_SECONDS: Final = 2.0
_END_SECONDS: Final = 2.0
"""Time for the questions in hand when the server is told to end."""
_CLOSE_SECONDS: Final = 1.0
_WRITE_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.1
_REMINDER_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take; sizes in bytes, times in seconds.

    A connection has `first_seconds` from its beginning to the end of the head of its first request, the handshake
    included; each body has `body_seconds`; between two requests it may rest for `idle_seconds`. Of bodies above
    `large_body`, `large_bodies` are in memory at once.
    """

    connections: int = 256
    first_seconds: float = 5.0
    body_seconds: float = 5.0
    idle_seconds: float = 120.0
    head: int = 16 * 1024
    body: int = 16 * 1024 * 1024
    large_body: int = 128 * 1024
    large_bodies: int = 4


class _Refused(Exception):
    """A request that gets a bare status, and the end of its connection."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(eq=False, slots=True)
class _Connection:
    """`known`: it has asked at a path that exists, so it is the client. `busy`: a request of its is in hand."""

    task: asyncio.Task[None] | None = None
    stream: TlsStream | None = None
    since: float = 0.0
    known: bool = False
    busy: bool = False


class HttpsServer:
    """Answers POSTs at the given paths; to anybody who asks for another it is bare 404s.

    Open it as a context in the loop that is to hear of its end: `ended` is set if it ends by itself, which is a defect.
    When all connections are taken, a new one takes the place of the one that has been silent longest; of those first
    that have asked nothing yet.
    """

    def __init__(
        self, host: str, port: int, tls: ServingTls, routes: Mapping[str, Handler], limits: Limits | None = None
    ) -> None:
        self.ended = asyncio.Event()
        self.is_listening = False
        self._host = host
        self._port = port
        self._tls = tls
        self._routes = routes
        self._limits = limits or Limits()
        self._connections: set[_Connection] = set()
        self._reminded = float("-inf")
        self._told_to_end = asyncio.Event()
        self._large = asyncio.Semaphore(self._limits.large_bodies)

    async def __aenter__(self) -> Self:
        """Raises OSError if the port cannot be had."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        listener.setblocking(False)
        self._owner = loop
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(listener,), name="webhooks", daemon=True)
        self.is_listening = True
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Questions in hand are answered, for a moment; then all connections are closed."""
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._told_to_end.set)
        await asyncio.to_thread(self._thread.join)

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(listener))
        except Exception:
            _log.exception("the server of the webhooks has ended")
        finally:
            self.is_listening = False
            self._loop.close()
            with suppress(RuntimeError):  # nobody is left to hear it
                self._owner.call_soon_threadsafe(self.ended.set)

    async def _serve(self, listener: socket.socket) -> None:
        told = asyncio.create_task(self._told_to_end.wait())
        parts = {asyncio.create_task(self._accept(listener)), asyncio.create_task(self._renew())}
        done, _ = await asyncio.wait({told, *parts}, return_when=asyncio.FIRST_COMPLETED)
        self.is_listening = False
        await _cancelled({told, *parts})
        listener.close()
        if busy := [each.task for each in self._connections if each.busy and each.task]:
            await asyncio.wait(busy, timeout=_END_SECONDS)
        await _cancelled({each for each in asyncio.all_tasks() if each is not asyncio.current_task()})
        for task in done & parts:
            task.result()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            try:
                if self._tls.renew():
                    _log.info("the certificate of the webhooks was renewed")
            except CertificateError as error:
                # Half of a renewal may be written; the certificate in use goes on being used.
                _log.warning("%s", error)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:  # it was gone before it was taken, or too many files are open
                _log.debug("a connection was not taken: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if len(self._connections) >= self._limits.connections and not self._make_room():
                client.close()
                continue
            connection = _Connection(since=loop.time())
            connection.task = loop.create_task(self._keep(connection, client))
            self._connections.add(connection)
            await asyncio.sleep(0)  # it takes the socket over before it can be told to make room

    def _make_room(self) -> bool:
        """Whether the most silent connection could be ended. Not by cancelling: a task that was cancelled keeps, by its
        traceback, itself and what OpenSSL has for the connection, until the garbage collector looks for circles."""
        silent = [each for each in self._connections if each.stream is not None and not each.busy]
        if not silent:
            return False
        longest = min(silent, key=lambda each: (each.known, each.since))
        self._connections.discard(longest)
        if longest.stream is not None:
            longest.stream.abort()
        return True

    async def _keep(self, connection: _Connection, client: socket.socket) -> None:
        """One connection from its beginning to its end, however that comes."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.first_seconds) as deadline:
                reader = asyncio.StreamReader(_BUFFER)
                protocol = asyncio.StreamReaderProtocol(reader)
                transport, _ = await loop.connect_accepted_socket(lambda: protocol, client)
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                stream = connection.stream = TlsStream(reader, writer, self._tls.context)
                if self._tls.admits(await stream.handshake()):
                    await self._converse(connection, stream, deadline)
                deadline.reschedule(loop.time() + _CLOSE_SECONDS)
                await stream.close()
        except (OSError, EOFError, TimeoutError):
            pass  # of no interest to anybody but the client, who knows
        except Exception:
            _log.exception("a connection to the webhooks went wrong")
        finally:
            self._connections.discard(connection)
            if connection.stream is None:
                client.close()
            else:
                connection.stream.abort()

    async def _converse(self, connection: _Connection, stream: TlsStream, deadline: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head)
        while True:
            is_last = False
            try:
                request = await _next_event(http, stream)
                if not isinstance(request, h11.Request):
                    return  # it hung up
                handler, length = self._understood(request)
                connection.known = connection.busy = True
                deadline.reschedule(loop.time() + self._limits.body_seconds)
                async with self._large if length > self._limits.large_body else nullcontext():
                    body = await _body(http, stream)
                    deadline.reschedule(None)
                    status, answer = await handler(body)
                    del body
            except _Refused as refusal:
                status, answer, is_last = refusal.status, b"", True
            except h11.RemoteProtocolError as error:
                status, answer, is_last = error.error_status_hint, b"", True
            is_last = is_last or self._told_to_end.is_set()
            deadline.reschedule(loop.time() + _WRITE_SECONDS)
            await stream.write(_answer(http, status, answer, is_last=is_last))
            if http.our_state is not h11.DONE:  # one of the two wants no more
                return
            http.start_next_cycle()
            connection.busy, connection.since = False, loop.time()
            deadline.reschedule(loop.time() + self._limits.idle_seconds)

    def _understood(self, request: h11.Request) -> tuple[Handler, int]:
        """Who answers, and how long the body is. Raises _Refused."""
        if request.http_version != b"1.1":
            raise _Refused(HTTPStatus.BAD_REQUEST)
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        handler = self._routes.get(path) if request.method == b"POST" else None
        if handler is None:
            self._remind()
            raise _Refused(HTTPStatus.NOT_FOUND)
        headers = dict(request.headers)
        if b"content-length" not in headers or b"transfer-encoding" in headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED)
        length = int(headers[b"content-length"])
        if length > self._limits.body:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return handler, length

    def _remind(self) -> None:
        """A stranger's knock is nobody's business; but it may be the API server with a path from before."""
        now = asyncio.get_running_loop().time()
        if now - self._reminded > _REMINDER_SECONDS:
            self._reminded = now
            _log.warning(
                "somebody asked the webhooks at a path that does not exist: if that was the API server, the webhook "
                "configurations do not have the token of this operator"
            )


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel them, and return when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _next_event(http: h11.Connection, stream: TlsStream) -> object:
    """Raises RemoteProtocolError if what comes is no HTTP, or too long to be a head."""
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.read())
    return event


async def _body(http: h11.Connection, stream: TlsStream) -> bytes:
    chunks = []
    while isinstance(event := await _next_event(http, stream), h11.Data):
        chunks.append(event.data)
    return b"".join(chunks)


def _answer(http: h11.Connection, status: int, body: bytes, *, is_last: bool) -> bytes:
    headers = [("Content-Length", str(len(body)))]
    headers += [("Content-Type", "application/json")] if body else []
    headers += [("Connection", "close")] if is_last else []
    response = h11.Response(status_code=status, reason=HTTPStatus(status).phrase.encode(), headers=headers)
    events = (response, h11.Data(data=body), h11.EndOfMessage())
    return b"".join(http.send(event) or b"" for event in events)
