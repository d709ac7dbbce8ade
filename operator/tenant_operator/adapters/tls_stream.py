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


class TlsStream:
    """The server's side of one connection. Its methods raise OSError and EOFError; the caller bounds their time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader = reader
        self._writer = writer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._buffer = bytearray()

    async def handshake(self) -> dict[str, Any] | None:
        """Agree on keys; the client's certificate, as `ssl` tells of it, if it was asked for."""
        await self._until_done(self._tls.do_handshake)
        found: dict[str, Any] | None = self._tls.getpeercert()
        return found

    async def read_until(self, end: bytes, most: int) -> bytes:
        """What comes up to `end` and with it. Raises EOFError if that is more than so many bytes."""
        while (place := self._buffer.find(end)) < 0:
            if len(self._buffer) > most:
                raise EOFError
            await self._read_more()
        return self._take(place + len(end))

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < count:
            await self._read_more()
        return self._take(count)

    async def write(self, data: bytes) -> None:
        """Returns when the network has taken nearly all of it."""
        for start in range(0, len(data), _CHUNK):
            self._tls.write(data[start : start + _CHUNK])
            await self._flush()

    async def close(self) -> None:
        """Say goodbye, and do not wait for an answer."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()
        self._writer.close()
        await self._writer.wait_closed()

    def abort(self) -> None:
        """End it now; no harm if it has ended."""
        self._writer.transport.abort()

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _read_more(self) -> None:
        chunk = await self._until_done(lambda: self._tls.read(_CHUNK))
        if not chunk:
            raise EOFError
        self._buffer += chunk

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
