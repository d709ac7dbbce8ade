"""The start of a replica: patience with an API server that does not answer yet, and an ear for the signal to end."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from tenant_operator.saga.errors import ActivityError

T = TypeVar("T")

PATIENCE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


class ToldToEnd(Exception):
    """The signal to end came before the work was done."""


async def patiently(ask: Callable[[], Awaitable[T]], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Ask until there is an answer. After so many seconds without one it raises what stood in the way, an
    ActivityError."""
    deadline = time.monotonic() + seconds
    said = ""
    while True:
        try:
            return await ask()
        except ActivityError as error:
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                raise
            if error.message != said:
                said = error.message
                _log.warning("%s; asking again for %g s", said, deadline - time.monotonic())
        await asyncio.sleep(_PAUSE_SECONDS)


async def unless(told_to_end: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. ToldToEnd if the event comes first: the work is given up."""
    working, ending = asyncio.create_task(work), asyncio.create_task(told_to_end.wait())
    await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if not working.done():
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        raise ToldToEnd
    return working.result()
