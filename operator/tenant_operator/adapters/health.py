"""The endpoints by which the kubelet tells a living replica from a dead one, and a ready one from a starting one."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from aiohttp import web

from tenant_operator.adapters.web import serving


@dataclass(frozen=True, slots=True)
class Need:
    """Something that the operator needs, and what is wrong with it; nothing is if `fault` is empty. A fault of what is
    `vital` means that it is not ready."""

    name: str
    fault: str = ""
    vital: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.fault or 'ok'}"


def serve_health(host: str, port: int, needs: Callable[[], Sequence[Need]]) -> AbstractAsyncContextManager[None]:
    """Serve /livez (200 while the operator's event loop turns: it is that which answers) and /readyz (200 if no vital
    need has a fault, else 503; its body has a line for each need)."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = needs()
        status = 503 if any(need.vital and need.fault for need in found) else 200
        return web.Response(status=status, text="".join(f"{need}\n" for need in found))

    return serving(host, port, [web.get("/livez", livez), web.get("/readyz", readyz)])
