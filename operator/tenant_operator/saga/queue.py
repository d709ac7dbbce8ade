"""A work queue of keys: each key at most once at a time, a bounded number at once, deadlines without polling."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from tenant_operator.saga.errors import ActivityError, Outage

K = TypeVar("K", bound=Hashable)

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_OUTAGE_PAUSE = 5.0
"""The longest pause while the API server is away: its return is told by nobody."""


class WorkQueue(Generic[K]):
    """Calls `reconcile(key, attention)` for every key that was woken.

    `reconcile` returns the seconds after which it wants to be called again, or None to be left alone until the next
    wake. A key woken while it is being worked on has its `attention` event set, and is worked on once more after. A
    `reconcile` that raises is logged and called again after a pause that doubles from 1 s to 60 s; to 5 s if it was an
    Outage, which ends without a word; after 1 s if the key was woken meanwhile.
    """

    def __init__(self, reconcile: Callable[[K, asyncio.Event], Awaitable[float | None]], *, concurrency: int) -> None:
        self._reconcile = reconcile
        self._concurrency = concurrency
        self._waiting: deque[K] = deque()
        self._queued: set[K] = set()
        self._running: dict[K, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._timers: dict[K, tuple[float, asyncio.Handle]] = {}
        self._failures: dict[K, int] = {}
        self._closing = False

    @property
    def depth(self) -> int:
        """Keys that wait for a free place."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Keys being worked on."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits, or is due later."""
        return not (self._running or self._waiting or self._timers)

    def wake(self, key: K) -> None:
        """See to it that `key` is looked at soon. Cheap, and safe to call any number of times."""
        if self._closing:
            return
        self._unset(key)
        if key in self._running:
            self._running[key][1].set()
        elif key not in self._queued:
            self._queued.add(key)
            self._waiting.append(key)
            self._fill()

    def wake_after(self, key: K, seconds: float) -> None:
        """Wake `key` once, after `seconds`; a wake or a nearer date before that wins."""
        loop = asyncio.get_running_loop()
        due = loop.time() + max(seconds, 0.0)
        if key in self._timers and self._timers[key][0] <= due:
            return
        self._unset(key)
        self._timers[key] = (due, loop.call_at(due, self._ring, key))

    async def close(self, grace: float) -> None:
        """Start nothing more, let what runs come to a stop within `grace` seconds, then cancel it."""
        self._closing = True
        for key in tuple(self._timers):
            self._unset(key)
        self._waiting.clear()
        self._queued.clear()
        tasks = [task for task, _ in self._running.values()]
        for _, attention in self._running.values():
            attention.set()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _ring(self, key: K) -> None:
        self._timers.pop(key, None)
        self.wake(key)

    def _unset(self, key: K) -> None:
        _, timer = self._timers.pop(key, (0.0, None))
        if timer is not None:
            timer.cancel()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            key = self._waiting.popleft()
            self._queued.discard(key)
            attention = asyncio.Event()
            task = asyncio.create_task(self._work(key, attention), name=f"reconcile {key}")
            self._running[key] = (task, attention)

    async def _work(self, key: K, attention: asyncio.Event) -> None:
        try:
            again = await self._reconcile(key, attention)
            self._failures.pop(key, None)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            again = self._failed(key, attention, error)  # something within was cancelled, not this
        except Exception as error:
            again = self._failed(key, attention, error)
        finally:
            del self._running[key]
        if attention.is_set():
            self.wake(key)
        elif again is not None and not self._closing:
            self.wake_after(key, again)
        self._fill()

    def _failed(self, key: K, attention: asyncio.Event, error: BaseException) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = _OUTAGE_PAUSE if isinstance(error, Outage) else _LONGEST_PAUSE
        if attention.is_set():
            longest = _FIRST_PAUSE
        pause: float = min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), longest)
        attention.clear()
        if isinstance(error, ActivityError):  # the other side's, such as an API server that is away: no traceback
            _log.warning("reconcile of %s failed: %s; trying again in %g s", key, error.message, pause)
        else:
            _log.exception("reconcile of %s failed; trying again in %g s", key, pause)
        return pause
