"""Whether the watches that the operator lives by are established: told by the very requests that make them."""

import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType

PATIENCE_SECONDS: Final = 30.0
"""A watch is made anew every few minutes, and whenever a connection breaks; what comes back in time was never down."""

_TELLS_NOTHING: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_NAMED: Final = 3


class Watches:
    """One watch for each path; `observe` is a middleware of the session that the watches are made with.

    A watch is only asked for when the list before it was read, so that an established one means that all that was there
    is known. It counts as long as its answer is open: a server that vanishes without a word is noticed when kopf misses
    the server's bookmarks (70 s). Not noticed: a server that keeps the connection and leaves events out.
    """

    def __init__(self, paths: Collection[str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._answers: dict[str, aiohttp.ClientResponse | None] = dict.fromkeys(paths)
        self._causes: dict[str, str] = {}
        self._down_since: dict[str, float] = dict.fromkeys(paths, float("-inf"))  # the first one has to come

    async def observe(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        """Take note of the requests about what is watched.

        What the server refuses to tell or cannot tell is made a broken connection: kopf would give up on a watch for
        good after some tries, and that would end the process.
        """
        path = self._watched(request.url.path)
        if path is None:
            return await handler(request)
        try:
            answer = await handler(request)
        except (aiohttp.ClientError, OSError) as error:
            self._causes[path] = str(error) or type(error).__name__
            raise
        if answer.status in _TELLS_NOTHING or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._causes[path] = f"the API server answers {answer.status}"
            answer.release()
            raise aiohttp.ClientConnectionError(f"{path}: {self._causes[path]}")
        if answer.status == HTTPStatus.OK and request.url.query.get("watch") == "true":
            self._answers[path] = answer
            self._causes.pop(path, None)
        return answer

    def fault(self) -> str:
        """Which watches are not established, and have not been for a while; empty if all is well."""
        now = self._monotonic()
        down = []
        for path, answer in self._answers.items():
            if answer is not None and not answer.closed:
                self._down_since.pop(path, None)
            elif now - self._down_since.setdefault(path, now) > PATIENCE_SECONDS:
                down.append(path)
        if not down:
            return ""
        named = ", ".join(f"{path} ({self._causes.get(path, 'not established')})" for path in down[:_NAMED])
        more = f" and {len(down) - _NAMED} more" if len(down) > _NAMED else ""
        return f"no watch of {named}{more}"

    def _watched(self, path: str) -> str | None:
        # The server may live below a path of its own.
        return next((each for each in self._answers if path.endswith(each)), None)
