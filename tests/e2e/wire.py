"""The wire between the operator and a server that it needs: whole, cut, or answered by somebody who hangs up."""

import asyncio
import threading
import time
from typing import Any, Self

from devcluster import ports
from tests.contract.relay import Relay


class Wire:
    """Forwards a loopback port to a server as long as it is whole; cut, the port refuses connections. `calls` has the
    time (seconds, monotonic) of each connection that was made, `turned_away` of those that were hung up on."""

    def __init__(self, host: str, port: int) -> None:
        self._relay = Relay((host, port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None
        self._is_hanging_up = False
        self.calls: list[float] = []
        self.turned_away: list[float] = []
        (self.port,) = ports.choose(1)

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mend(self) -> None:
        """Connections are possible again, at the same port as before."""
        self._is_hanging_up = False
        if self._server is None:
            self._do(self._mend())

    def cut(self) -> None:
        """Every connection breaks, and no new one is possible."""
        if self._server is not None:
            self._do(self._cut(self._server))

    def hang_up(self) -> None:
        """Every connection breaks, and so does each new one: as if cut, but it can be counted who tries."""
        self._is_hanging_up = True
        self._do(self._break())

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls.append(time.monotonic())
        if self._is_hanging_up:
            self.turned_away.append(self.calls[-1])
            writer.transport.abort()
        else:
            await self._relay.serve(reader, writer)

    async def _break(self) -> None:
        self._relay.cut()

    async def _cut(self, server: asyncio.Server) -> None:
        self._server = None
        server.close()
        await self._relay.close()
        await server.wait_closed()
