"""A port of another address of this machine that leads to the same loopback port: `python -m tests.e2e.forward ADDRESS
PORT`."""

import asyncio
import sys

from tests.contract.relay import Relay


async def forward(address: str, port: int) -> None:
    """Forward until cancelled. The server sees clients of its own machine, whom it may trust more than others."""
    server = await asyncio.start_server(Relay(("127.0.0.1", port)).serve, address, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(forward(sys.argv[1], int(sys.argv[2])))
