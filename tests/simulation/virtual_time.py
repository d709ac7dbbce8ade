"""An event loop whose clock jumps: where a real one would wait, it is later at once. Hours pass in milliseconds."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_TICK = 1e-6
"""Seconds that pass at least where one waits: less could be lost in rounding, and nothing would ever be later."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Deadlock(Exception):
    """Everything waits, and for nothing."""


class _JumpingSelector(selectors.SelectSelector):
    """Turns the time that select would block into time that has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self.passed += max(timeout, _TICK)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed

    def call_at(self, when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        # A date that rounding has left between now and the next instant would come at once, again and again.
        return super().call_at(max(when, self.time() + _TICK), *arguments, **options)


class VirtualClock:
    """`ports.Clock` on the time of the running loop. Its wall clock is wrong by `error`, which a test may change at any
    time; the monotonic one is never wrong."""

    def __init__(self, error: timedelta = timedelta(0)) -> None:
        self.error = error

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self.error

    def elapsed(self) -> float:
        return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a loop of its own, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
