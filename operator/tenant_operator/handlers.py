"""What kopf hears, which is the product's own kinds: each handler hands an event to the inbox and returns. No saga
depends on kopf's own state."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import kopf

from tenant_operator.adapters.kubernetes.client import PAGE
from tenant_operator.adapters.kubernetes.listener import Hear, Listener


@asynccontextmanager
async def watching(
    heard: Iterable[Listener], server: str, session: Callable[[], aiohttp.ClientSession]
) -> AsyncIterator[Coroutine[Any, Any, object]]:
    """Watch the API server at `server`, by sessions that `session` makes, a new one each time. Yields what is over once
    a part of kopf is; raises what it failed with. kopf's graceful end takes 5 s for every task of the process and
    cancels what is left: so it is not told to end before everything else is at rest."""
    ours, at_rest = asyncio.all_tasks(), asyncio.Event()
    parts = await kopf.spawn_tasks(
        registry=_registry(heard, server, session),
        settings=_settings(),
        standalone=True,
        clusterwide=True,
        stop_flag=at_rest,
    )
    try:
        yield asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    finally:
        at_rest.set()
        await kopf.run_tasks(parts, ignored=ours)


def _registry(
    heard: Iterable[Listener], server: str, session: Callable[[], aiohttp.ClientSession]
) -> kopf.OperatorRegistry:
    """In a registry of its own: nothing is registered by importing a module."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=server, aiohttp_session=session())

    for listener in heard:
        kopf.on.event(
            listener.api_version, listener.plural, id=listener.plural, labels=listener.labels, registry=handlers
        )(_handing_over(listener.hear))
    return handlers


def _handing_over(hear: Hear) -> Callable[..., Awaitable[None]]:
    # A coroutine, because kopf runs plain functions in threads, and the inbox belongs to the event loop.
    async def hand_over(event: kopf.RawEvent, **_: Any) -> None:
        hear(event["type"], dict(event["object"]))

    return hand_over


class _NothingToCompare(kopf.DiffBaseStorage):
    """kopf copies each object to tell what changed in it; nobody here asks, and a Tenant is large."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NothingInProgress(kopf.ProgressStorage):
    """No handler here has a progress: the journal is elsewhere."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def _settings() -> kopf.OperatorSettings:
    """How kopf watches: it reconnects for ever, notices a dead connection, and writes nothing of its own."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.posting.loggers = False
    chosen.persistence.diffbase_storage = _NothingToCompare()
    chosen.persistence.progress_storage = _NothingInProgress()
    chosen.scanning.disabled = True
    chosen.queueing.worker_limit = None
    # Each object has a task for so long, which holds it: at the start that is everything that there is.
    chosen.queueing.idle_timeout = 0.1
    chosen.watching.chunk_size = PAGE
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 310
    chosen.watching.connect_timeout = 30
    chosen.watching.inactivity_timeout = 70
    chosen.networking.request_timeout = 30
    chosen.networking.error_backoffs = (0.5, 1, 2, 3, 5, 8, 13)
    return chosen
