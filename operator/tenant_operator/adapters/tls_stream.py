"""TLS over a plain stream, for a server that many may connect to: a connection that says nothing costs next to nothing.

asyncio's own TLS sets 256 KiB aside for each connection before its first byte: some hundred strangers would take more
memory than all the rest of the operator.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

_CHUNK: Final = 16 * 1024
"""What one record of TLS holds at most."""
_HEARD_OUT: Final = 64 * 1024
"""Bytes that the other side may still send after the goodbye."""


class TlsStream:
    """The server's side of one connection. Its methods raise OSError and EOFError; the caller bounds their time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader = reader
        self._writer = writer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)

    async def handshake(self) -> dict[str, Any] | None:
        """Agree on keys; the client's certificate, as `ssl` tells of it, if it was asked for."""
        await self._until_done(self._tls.do_handshake)
        found: dict[str, Any] | None = self._tls.getpeercert()
        return found

    async def read(self) -> bytes:
        """Some bytes, as they come; none at the end."""
        return await self._until_done(lambda: self._tls.read(_CHUNK))

    async def write(self, data: bytes) -> None:
        """Returns when the network has taken nearly all of it."""
        for start in range(0, len(data), _CHUNK):
            self._tls.write(data[start : start + _CHUNK])
            await self._flush()

    async def close(self) -> None:
        """Say goodbye, and let the other side say what it is about to: a socket that is closed on bytes that nobody has
        read resets the connection, and that takes back an answer which is on its way."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()
        self._writer.write_eof()
        left = _HEARD_OUT
        while left > 0 and (received := await self._reader.read(_CHUNK)):
            left -= len(received)
        self._writer.close()
        await self._writer.wait_closed()

    def abort(self) -> None:
        """End it now; no harm if it has ended."""
        self._writer.transport.abort()

    async def _until_done(self, step: Callable[[], T]) -> T:
        """Repeat the step as long as it wants to hear more from the other side."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                await self._flush()  # what it has to say, and be it why it goes no further
            received = await self._reader.read(_CHUNK)
            if not received:
                raise EOFError
            self._received.write(received)

    async def _flush(self) -> None:
        if self._to_send.pending:
            self._writer.write(self._to_send.read())
            await self._writer.drain()
