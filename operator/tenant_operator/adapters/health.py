"""The endpoints by which the kubelet tells a living replica from a dead one, and a ready one from a starting one."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from tenant_operator.adapters.web import serving


def serve_health(host: str, port: int, ready: Callable[[], bool]) -> AbstractAsyncContextManager[None]:
    """Serve /livez (200 while the event loop turns) and /readyz (200 once `ready()`, 503 before and while draining)."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready() else web.Response(status=503, text="not ready\n")

    return serving(host, port, [web.get("/livez", livez), web.get("/readyz", readyz)])
