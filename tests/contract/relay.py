"""A wire to a server that a test can listen to and cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Relay:
    """Forwards a loopback port to a server. `sent` is what clients have sent, a chunk for each read."""

    target: tuple[str, int]
    port: int = 0
    sent: list[bytes] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None] | None] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        """Cut, and wait until nothing is forwarded any more."""
        self.cut()
        await asyncio.gather(*filter(None, self._serving))

    def cut(self) -> None:
        """Every connection breaks; new ones are possible."""
        for writer in self._writers:
            writer.transport.abort()

    async def heard(self, chunks: int) -> None:
        """Returns once clients have sent so many chunks in all."""
        while len(self.sent) < chunks:
            self._changed.clear()
            await self._changed.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection in both directions until one end is closed."""
        task = asyncio.current_task()
        self._serving.add(task)
        self._writers.add(writer)
        server_reader, server_writer = await asyncio.open_connection(*self.target)
        self._writers.add(server_writer)
        try:
            await asyncio.gather(
                self._forward(reader, server_writer, True), self._forward(server_reader, writer, False)
            )
        finally:
            for each in (writer, server_writer):
                self._writers.discard(each)
                with suppress(OSError):
                    await each.wait_closed()
            self._serving.discard(task)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bool) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                if record:
                    self.sent.append(chunk)
                    self._changed.set()
                sink.write(chunk)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def relay(host: str, port: int) -> AsyncIterator[Relay]:
    """A relay to host and port, gone with all its connections at the end."""
    wire = Relay((host, port))
    server = await asyncio.start_server(wire.serve, "127.0.0.1")
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        await wire.close()
        await server.wait_closed()
