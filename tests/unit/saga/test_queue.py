"""Each key once at a time, a few at once, nothing forgotten."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
import uvloop

from tenant_operator.saga.errors import Outage, Unavailable
from tenant_operator.saga.queue import WorkQueue
from tests.simulation.virtual_time import run


class Work:
    """A reconcile that remembers when it was called, and does what the test says."""

    def __init__(self, answer: Callable[[str, int], Any] = lambda key, turn: None) -> None:
        self.calls: list[tuple[str, float]] = []
        self.running: set[str] = set()
        self.most = 0
        self._answer = answer

    async def __call__(self, key: str, attention: asyncio.Event) -> float | None:
        assert key not in self.running, "worked on twice at once"
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        self.calls.append((key, asyncio.get_running_loop().time()))
        try:
            answer = self._answer(key, sum(each == key for each, _ in self.calls))
            if isinstance(answer, Coroutine):
                answer = await answer
            if isinstance(answer, Exception):
                raise answer
            return answer if answer is None else float(answer)
        finally:
            self.running.discard(key)

    def times(self, key: str = "a") -> list[float]:
        return [round(time, 3) for each, time in self.calls if each == key]


async def quiet(queue: WorkQueue[str]) -> None:
    while not queue.idle:  # noqa: ASYNC110 (virtual time: this costs nothing)
        await asyncio.sleep(0.5)


def test_a_key_woken_many_times_before_its_turn_is_worked_on_once() -> None:
    async def story() -> Work:
        work = Work()
        queue = WorkQueue(work, concurrency=1)
        for key in "abababab":
            queue.wake(key)
        assert (queue.active, queue.depth) == (1, 1)
        await quiet(queue)
        return work

    # `a` was being worked on already when it was woken again.
    assert [key for key, _ in run(story()).calls] == ["a", "b", "a"]


def test_only_so_many_keys_at_once_and_every_one_of_them_in_the_end() -> None:
    async def story() -> Work:
        work = Work(lambda key, turn: asyncio.sleep(1))
        queue = WorkQueue(work, concurrency=3)
        for number in range(10):
            queue.wake(str(number))
        await quiet(queue)
        return work

    work = run(story())
    assert work.most == 3
    assert [key for key, _ in work.calls] == [str(number) for number in range(10)]


def test_a_wake_during_the_work_is_seen_by_it_and_worked_on_afterwards() -> None:
    seen = []

    async def reconcile(key: str, attention: asyncio.Event) -> float | None:
        seen.append(attention.is_set())
        await asyncio.sleep(1)
        seen.append(attention.is_set())
        return None

    async def story() -> None:
        queue = WorkQueue(reconcile, concurrency=1)
        queue.wake("a")
        await asyncio.sleep(0.5)
        queue.wake("a")
        await quiet(queue)

    run(story())
    assert seen == [False, True, False, False]


def test_work_comes_again_when_it_asked_to() -> None:
    async def story() -> Work:
        work = Work(lambda key, turn: 30 if turn < 3 else None)
        queue = WorkQueue(work, concurrency=1)
        queue.wake("a")
        await quiet(queue)
        return work

    assert run(story()).times() == [0, 30, 60]


@pytest.mark.parametrize(("dates", "expected"), [((10, 5), [5]), ((5, 10), [5]), ((5, 5), [5]), ((-3,), [0])])
def test_the_nearer_date_wins(dates: tuple[float, ...], expected: list[float]) -> None:
    async def story() -> Work:
        work = Work()
        queue = WorkQueue(work, concurrency=1)
        for date in dates:
            queue.wake_after("a", date)
        await quiet(queue)
        return work

    assert run(story()).times() == expected


def test_a_wake_replaces_a_later_date() -> None:
    async def story() -> Work:
        work = Work()
        queue = WorkQueue(work, concurrency=1)
        queue.wake_after("a", 60)
        queue.wake("a")
        await quiet(queue)
        return work

    assert run(story()).times() == [0]


def test_dates_that_are_over_and_dates_that_are_near_on_the_loop_that_the_operator_runs_on() -> None:
    """In real time: that loop makes no timer of what is due at once."""

    async def story() -> Work:
        work = Work(lambda key, turn: 0.0 if turn < 3 else None)
        queue = WorkQueue(work, concurrency=1)
        for seconds in (0.0, -1.0, 0.001, 0.0):
            queue.wake_after("a", seconds)
        async with asyncio.timeout(10):
            while not queue.idle:  # noqa: ASYNC110 (the queue tells nobody)
                await asyncio.sleep(0.01)
        return work

    assert [key for key, _ in uvloop.run(story()).calls] == ["a", "a", "a"]


def test_failing_work_is_tried_again_after_pauses_that_double(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> Work:
        work = Work(lambda key, turn: ValueError("broken") if turn not in (9, 11) else (5 if turn == 9 else None))
        queue = WorkQueue(work, concurrency=1)
        queue.wake("a")
        await quiet(queue)
        return work

    with caplog.at_level(logging.CRITICAL + 1):
        times = run(story()).times()
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 5, 1]  # a success in between starts it afresh


def test_a_wake_during_failing_work_does_not_wait_out_the_pause(caplog: pytest.LogCaptureFixture) -> None:
    times = []

    async def reconcile(key: str, attention: asyncio.Event) -> float | None:
        times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.5)
        if len(times) <= 6:
            raise ValueError("broken")
        return None

    async def story() -> None:
        queue = WorkQueue(reconcile, concurrency=1)
        queue.wake("a")
        while len(times) < 6:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.1)
        queue.wake("a")
        await quiet(queue)

    with caplog.at_level(logging.CRITICAL + 1):
        run(story())
    assert round(times[-1] - times[-2], 1) == 1.5, "its half second, and the first pause: not 32 s"


def test_work_that_met_an_outage_comes_back_soon_however_long_that_lasted() -> None:
    async def story() -> Work:
        work = Work(lambda key, turn: Outage("the API server did not answer") if turn < 9 else None)
        queue = WorkQueue(work, concurrency=1)
        queue.wake("a")
        await quiet(queue)
        return work

    pauses = [later - earlier for earlier, later in pairwise(run(story()).times())]
    assert pauses == [1, 2, 4, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("error", "level", "has_traceback"),
    [(Unavailable("the API server does not answer"), "WARNING", False), (ValueError("broken"), "ERROR", True)],
)
def test_only_what_nobody_foresaw_is_logged_with_a_traceback(
    caplog: pytest.LogCaptureFixture, error: Exception, level: str, has_traceback: bool
) -> None:
    async def story() -> None:
        queue = WorkQueue(Work(lambda key, turn: error if turn == 1 else None), concurrency=1)
        queue.wake("a")
        await quiet(queue)

    run(story())

    (record,) = caplog.records
    assert (record.levelname, record.exc_info is not None) == (level, has_traceback)
    assert has_traceback or str(error) in record.getMessage()


def test_work_that_is_cancelled_from_within_is_not_lost() -> None:
    async def story() -> Work:
        def answer(key: str, turn: int) -> Any:
            if key == "a" and turn == 1:
                raise asyncio.CancelledError  # what a driver's own cancelled task leaks
            return None

        work = Work(answer)
        queue = WorkQueue(work, concurrency=1)
        queue.wake("a")
        queue.wake("b")
        await asyncio.sleep(120)
        return work

    assert [key for key, _ in run(story()).calls] in (["a", "b", "a"], ["a", "a", "b"])


def test_closing_starts_nothing_more_and_cancels_what_is_late() -> None:
    ended: list[str] = []

    async def reconcile(key: str, attention: asyncio.Event) -> float | None:
        try:
            if key == "obedient":
                await attention.wait()
            else:
                await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append(f"{key} cancelled at {asyncio.get_running_loop().time():g}")
            raise
        ended.append(f"{key} stopped at {asyncio.get_running_loop().time():g}")
        return 1.0

    async def story() -> WorkQueue[str]:
        queue = WorkQueue(reconcile, concurrency=2)
        for key in ("obedient", "stubborn", "never"):
            queue.wake(key)
        queue.wake_after("later", 3)
        await asyncio.sleep(1)
        await queue.close(10)
        queue.wake("too late")
        await asyncio.sleep(100)
        return queue

    assert run(story()).idle
    assert ended == ["obedient stopped at 1", "stubborn cancelled at 11"]
