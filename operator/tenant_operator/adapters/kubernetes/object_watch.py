"""Watches of what tenants are made of: fifteen objects for each, most of which only have to be known to be there.

Beside kopf, which keeps a memory of each object and reads all of it: with ten thousand tenants that is what the
operator would consist of. The metadata is asked for alone where no more is needed.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from pydantic_core import from_json

from .client import JSON, METADATA_LIST, METADATA_ONLY, PAGE
from .errors import bounded
from .listener import Listener

_log = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 300
"""How long a watch is asked for; then it is made anew where it was."""
_SILENCE_SECONDS: Final = 70.0
"""The server sends a bookmark each minute: one that does not has vanished without a word."""
_ANSWER_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0


class _TooOld(Exception):
    """The server has forgotten the version that was to be gone on from: the list has to be read again."""


class ObjectWatch:
    """Hears of the objects of one kind for as long as it runs, whatever becomes of the server meanwhile."""

    def __init__(
        self, session: aiohttp.ClientSession, server: str, listener: Listener, *, silence: float = _SILENCE_SECONDS
    ) -> None:
        """`session` has the credentials, `server` is the address of the API server. `silence`: seconds without a word
        after which a watch is made anew."""
        self._session = session
        self._url = server.rstrip("/") + listener.path
        self._listener = listener
        labels = ",".join(f"{name}={value}" for name, value in sorted((listener.labels or {}).items()))
        self._selector = {"labelSelector": labels} if labels else {}
        self._accept = {"Accept": JSON if listener.is_whole else METADATA_ONLY}
        self._accept_list = {"Accept": JSON if listener.is_whole else METADATA_LIST}
        self._silence = silence

    async def run(self) -> None:
        """List, then watch, for ever."""
        version, pause = "", _FIRST_PAUSE
        while True:
            try:
                version = version or await self._list()
                async with aclosing(self._events(version)) as events:
                    async for event in events:
                        version, pause = self._heard(event) or version, _FIRST_PAUSE
            except _TooOld:
                version = ""
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                _log.info("watch of %s: %s", self._listener.plural, error or type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spreads, guards nothing)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _list(self) -> str:
        """Tell of all that there is, a page at a time. Returns the version to watch from."""
        further: dict[str, str] = {}
        while True:
            query = {"limit": str(PAGE), **self._selector, **further}
            timeout = aiohttp.ClientTimeout(total=2 * _ANSWER_SECONDS, sock_connect=_ANSWER_SECONDS)
            async with self._session.get(self._url, params=query, headers=self._accept_list, timeout=timeout) as answer:
                page = from_json(await _content(answer))
            for each in page["items"] or ():  # null where there is nothing
                self._tell(None, each)
            further = {"continue": page["metadata"].get("continue") or ""}
            if not further["continue"]:
                return str(page["metadata"]["resourceVersion"])

    async def _events(self, version: str) -> AsyncGenerator[dict[str, Any], None]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            "resourceVersion": version,
            **self._selector,
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_ANSWER_SECONDS, sock_read=self._silence)
        async with self._session.get(self._url, params=query, headers=self._accept, timeout=timeout) as answer:
            if answer.status != HTTPStatus.OK:
                await _content(answer)
            try:
                async for line in _lines(answer.content):
                    yield from_json(line)
            finally:
                _cut_off(answer)

    def _heard(self, event: dict[str, Any]) -> str:
        """Pass an event on. Returns the version up to which all is known; empty if it does not say."""
        kind, body = event["type"], event["object"]
        if kind == "ERROR":
            _raise(int(body.get("code") or 0), str(body.get("message")))
        if kind != "BOOKMARK":
            self._tell(kind, body)
        return str(body["metadata"].get("resourceVersion") or "")

    def _tell(self, event: str | None, body: dict[str, Any]) -> None:
        # In a list nothing says its kind, and metadata alone says another one.
        self._listener.hear(event, {**body, "apiVersion": self._listener.api_version, "kind": self._listener.kind})


async def watch_all(session: aiohttp.ClientSession, server: str, listeners: Iterable[Listener]) -> None:
    """One watch for each listener, until cancelled; what one stumbles over ends them all. Closes the session."""
    async with session, asyncio.TaskGroup() as group:
        for listener in listeners:
            group.create_task(ObjectWatch(session, server, listener).run(), name=f"watch of {listener.plural}")


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    content = await answer.read()
    if answer.status != HTTPStatus.OK:
        _raise(answer.status, bounded(content.decode(errors="replace")))
    return content


def _raise(status: int, message: str) -> None:
    if status == HTTPStatus.GONE:
        raise _TooOld
    raise aiohttp.ClientError(f"the API server answers {status}: {message}")


def _cut_off(answer: aiohttp.ClientResponse) -> None:
    """Close the connection at once: TLS would say goodbye first, and nobody waits for that when the loop ends."""
    if answer.connection is not None and answer.connection.transport is not None:
        answer.connection.transport.abort()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of an answer, however long they are."""
    begun = b""
    async for chunk in content.iter_any():
        *whole, begun = (begun + chunk).split(b"\n")
        for line in whole:
            yield line
