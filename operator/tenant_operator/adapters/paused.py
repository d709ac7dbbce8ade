"""The responder behind every closed route: a tenant that is not active yet, or is suspended, answers "paused"."""

from contextlib import AbstractAsyncContextManager

from aiohttp import web

from tenant_operator.adapters.web import serving

_RETRY_AFTER_SECONDS = 60
_HEADERS = {"Retry-After": str(_RETRY_AFTER_SECONDS), "Cache-Control": "no-store"}
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Paused</title></head>
<body>
<h1>This service is paused</h1>
<p>It is being set up or has been suspended. Nothing is lost. Please try again later, or ask your administrator.</p>
</body>
</html>
"""


def serve_paused(host: str, port: int) -> AbstractAsyncContextManager[None]:
    """Answer every request with 503 and Retry-After: a page for people, JSON for programs that ask for it."""

    async def paused(request: web.Request) -> web.Response:
        if "application/json" in request.headers.get("Accept", ""):
            body = {"error": "paused", "message": "This service is paused. Try again later."}
            return web.json_response(body, status=503, headers=_HEADERS)
        return web.Response(status=503, text=_PAGE, content_type="text/html", headers=_HEADERS)

    return serving(host, port, [web.route("*", "/{path:.*}", paused)])
