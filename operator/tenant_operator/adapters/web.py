"""A small HTTP server beside the operator's loop."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def serving(host: str, port: int, routes: Iterable[web.AbstractRouteDef]) -> AsyncIterator[None]:
    """Serve `routes` for as long as the context is open."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
