"""The wire between the operator and a server that it needs: whole, or cut."""

import asyncio
import threading
from typing import Any, Self

from devcluster import ports
from tests.contract.relay import Relay


class Wire:
    """Forwards a loopback port to a server as long as it is whole; cut, the port refuses connections."""

    def __init__(self, host: str, port: int) -> None:
        self._relay = Relay((host, port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None
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
        if self._server is None:
            self._do(self._mend())

    def cut(self) -> None:
        """Every connection breaks, and no new one is possible."""
        if self._server is not None:
            self._do(self._cut(self._server))

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _mend(self) -> None:
        self._server = await asyncio.start_server(self._relay.serve, "127.0.0.1", self.port)

    async def _cut(self, server: asyncio.Server) -> None:
        self._server = None
        server.close()
        await self._relay.close()
        await server.wait_closed()
