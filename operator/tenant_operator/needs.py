"""What the operator needs beside the API server, and whether it is there: looked at before it begins, and again and
again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tenant_operator.adapters.health import Need
from tenant_operator.ports import Reachable, Storage
from tenant_operator.saga.errors import ActivityError, NotAsked

DATABASE: Final = "database"

_PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between the looks at a database that cannot be used; the last one again and again."""
_LOOK_SECONDS: Final = 60.0
_NOT_LOOKED: Final = "not looked at yet"

_log = logging.getLogger(__name__)


class Needs:
    """The database has to be usable once, with the rights that it takes, before the operator begins: one that cannot
    use it must not take the place of one that can. Later, and for all else, a fault is said and no more: a serving
    tenant, and whoever asks for admission, needs neither.
    """

    def __init__(
        self,
        storage: Storage,
        others: Mapping[str, Reachable],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`others` by the name that they are spoken of."""
        self._storage = storage
        self._others = others
        self._sleep = sleep
        self._began = False
        self._faults = dict.fromkeys((DATABASE, *others), _NOT_LOOKED)
        self._doors: frozenset[str] = frozenset()

    def report(self) -> list[Need]:
        """How it was at the last look."""
        return [Need(name, fault, vital=name == DATABASE and not self._began) for name, fault in self._faults.items()]

    def open_databases(self) -> list[str]:
        """What lets tenants' roles in where they do not belong, by the last look: a sentence each, with the way out."""
        return sorted(self._doors)

    async def wait_for_database(self) -> None:
        """Returns once the database can be used."""
        tries = 0
        while not await self._look_at(DATABASE, self._prepare):
            await self._sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1
        self._began = True

    async def keep_looking(self, seconds: float) -> None:
        """Look at everything every so many seconds, until cancelled; at once at what was not looked at."""
        looks = {name: other.check for name, other in self._others.items()}
        while True:
            await asyncio.gather(*(self._look_at(name, look) for name, look in looks.items()))
            await self._sleep(seconds)
            looks[DATABASE] = self._prepare

    async def _prepare(self) -> None:
        doors = frozenset(await self._storage.prepare())
        for door in sorted(doors - self._doors):
            _log.warning("database: %s", door)
        self._doors = doors

    async def _look_at(self, name: str, look: Callable[[], Awaitable[None]]) -> bool:
        """Whether it can be used; a line in the log for each change."""
        fault = ""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await look()
        except NotAsked as error:  # no look was taken: what was found at the last one stands
            fault = self._faults[name] if self._faults[name] not in ("", _NOT_LOOKED) else error.message
        except ActivityError as error:
            fault = " ".join(error.message.split())
        except TimeoutError:
            fault = f"no answer within {_LOOK_SECONDS:g} s"
        except Exception:  # a defect; whoever looks again and again must not end of it
            _log.exception("%s: the look at it went wrong", name)
            fault = "the look at it went wrong; the log says why"
        before, self._faults[name] = self._faults[name], fault
        if fault and fault != before:
            _log.warning("%s: %s", name, fault)
        elif before and not fault:
            _log.info("%s: ok", name)
        return not fault
