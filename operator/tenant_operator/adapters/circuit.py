"""A circuit to a server that all sagas share: a server that is away is asked by one, not by hundreds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

from tenant_operator.ports import Clock, Mail, Mailer
from tenant_operator.saga.errors import ActivityError, NotAsked, Outage

LONGEST_PAUSE: Final = 2.0
"""Seconds between two questions to a server that is away, at most: so long after its return work goes on."""

_FIRST_PAUSE: Final = 0.25
_ANSWER_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class Circuit:
    """Entered around each call: at most `limit` calls are in it at a time, the others wait.

    A call that ends with an Outage opens it. While it is open nobody is let in: whoever wants to, or waits to, gets a
    NotAsked at once. Meanwhile `ask` is called, at once and then at growing pauses, until it does not raise an Outage
    (a refusal is an answer, too): then the circuit is closed, and `on_closed` is called. So a failure that was one
    call's alone costs the others one question, and a server that is away is asked by nobody else.
    """

    def __init__(self, server: str, ask: Callable[[], Awaitable[None]], *, limit: int, clock: Clock) -> None:
        """`server`: what it is called in messages."""
        self.on_closed: Callable[[], None] = lambda: None
        self._server = server
        self._ask = ask
        self._clock = clock
        self._permits = asyncio.Semaphore(limit)
        self._why = ""
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._refuse_if_open()
        await self._permits.acquire()
        try:
            self._refuse_if_open()
        except NotAsked:
            self._permits.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._permits.release()
        if isinstance(error, Outage) and self._asking is None:
            cause = error.message.removeprefix(self._server).lstrip(": ")
            self._why = f"{self._server} has been out of service since {self._clock.now():%H:%M:%S} UTC ({cause})"
            _log.warning("%s", self._why)
            self._asking = asyncio.create_task(self._until_it_answers(), name=f"asking {self._server}")

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    def _refuse_if_open(self) -> None:
        if self._asking is not None:
            raise NotAsked(f"{self._why}; it is asked every {LONGEST_PAUSE:g} s")

    async def _until_it_answers(self) -> None:
        pause = _FIRST_PAUSE
        while await self._is_away():
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        self._asking = None
        _log.info("%s is in service again", self._server)
        self.on_closed()

    async def _is_away(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._ask()
        except (Outage, TimeoutError):
            return True
        except ActivityError:
            return False
        except Exception:  # better that a call finds out than that none is ever let in
            _log.exception("asking %s failed unexpectedly", self._server)
        return False


class SparingMailer:
    """A Mailer behind a circuit."""

    def __init__(self, mailer: Mailer, circuit: Circuit) -> None:
        self._mailer = mailer
        self._circuit = circuit

    async def send(self, mail: Mail) -> None:
        """See `ports.Mailer`; while the circuit is open NotAsked."""
        async with self._circuit:
            await self._mailer.send(mail)
