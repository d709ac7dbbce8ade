"""Clocks that are wrong, and clocks that are set: what is measured by them, and what is not."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.api.names import ActivityName
from tenant_operator.saga.decide import Act, Wait
from tenant_operator.saga.decide import Record as Recorded
from tenant_operator.saga.errors import Outage, Unavailable
from tenant_operator.saga.evolve import Worker, evolve
from tenant_operator.saga.facts import ActivityFailed, Fact, Pulsed, RunTakenOver, TryFailed
from tenant_operator.saga.host import Pulse
from tenant_operator.saga.model import Outcome, RowState, Saga
from tenant_operator.saga.sight import COUNTED, LAST_LOOK, SILENCE, next_time, seems_held
from tenant_operator.saga.step import Done, NotYet, Progress, RetryPolicy
from tests.unit.saga.interpreter import START, Interpreter, all_steps, seeded
from tests.unit.saga.test_runner import FIRST, SECOND, MemoryHost, Record, hang, lives, outcome, rest

HOUR = timedelta(hours=1)
wrong = st.sampled_from([-1, 1]).flatmap(
    lambda sign: st.integers(1, 400 * 86400).map(lambda s: timedelta(seconds=sign * s))
)


def running(**changes: object) -> Interpreter:
    """A saga whose first activity runs, in the hands of `worker-1`."""
    life = Interpreter(all_steps(**changes), seeded())
    life.start()
    return life


def inherited(life: Interpreter, *, error: timedelta) -> Interpreter:
    """Another process looks at it, a second later, with a wall clock that is wrong by `error`."""
    life.now += timedelta(seconds=1)
    life.error = error
    life.succeeded()
    return life


# A clock that is behind.


@given(wrong)
def test_a_run_of_a_dead_worker_goes_on_however_wrong_the_clock_is(error: timedelta) -> None:
    life = inherited(running(), error=error)
    life.sleep(SILENCE.total_seconds())
    assert life.decision() == Recorded(RunTakenOver())


def test_at_a_start_nobody_waits_for_whoever_wrote_before_it() -> None:
    assert inherited(running(), error=timedelta(0)).decision() == Recorded(RunTakenOver())


@given(wrong)
def test_a_living_worker_keeps_its_run_however_wrong_its_clock_is(error: timedelta) -> None:
    life = running()
    mine, life.worker = life.worker, Worker("stranger", 2, START - 2 * HOUR)
    life.sight = None
    life.look()
    for beat in range(20):
        life.sleep(10)
        life.saga = evolve(
            life.saga, Pulsed(ActivityName.VALIDATE_REQUEST, f"beat {beat}"), life.now + error, mine, life.steps
        )
        assert isinstance(life.decision(), Wait)
    life.sleep(SILENCE.total_seconds())
    assert life.decision() == Recorded(RunTakenOver())


@given(wrong)
def test_a_next_try_that_a_former_worker_put_far_away_comes_in_time(error: timedelta) -> None:
    retry = RetryPolicy(maximum=timedelta(seconds=20), stalled_every=timedelta(seconds=40))
    life = running(retry=retry, timeout=timedelta(minutes=10))
    life.happen(life.failure(ActivityName.VALIDATE_REQUEST, Unavailable("busy")))
    life = inherited(life, error=error)
    life.sleep(SILENCE.total_seconds())
    life.happen()
    decision = life.decision()
    if isinstance(decision, Wait):
        assert decision.until - life.moment.elapsed <= 40
    life.sleep(40.001)
    assert isinstance(life.decision(), Act)


@pytest.mark.parametrize("error", [timedelta(0), -HOUR, HOUR])
def test_a_cancel_of_a_dead_workers_run_is_heard_at_once_and_carried_out(error: timedelta) -> None:
    async def tell(host: MemoryHost) -> None:
        host.deeds[SECOND] = hang
        first = asyncio.create_task(rest(host))
        await asyncio.sleep(3)
        first.cancel()
        await asyncio.sleep(1)
        host.clock.error = error
        host.worker = Worker("worker-2", 2, host.clock.now())
        host.store(stop=True)
        heir = asyncio.create_task(rest(host))
        await asyncio.sleep(0.1)
        assert host.stored.saga.run is not None
        assert host.stored.saga.run.reason == "Cancelled"
        await heir
        assert asyncio.get_running_loop().time() <= 4 + SILENCE.total_seconds() + 1

    host = lives(tell)
    assert host.undone == [SECOND, FIRST]
    assert outcome(host) is Outcome.CANCELLED


@given(wrong)
def test_admission_goes_by_the_journal_and_lets_pass_what_it_cannot_judge(error: timedelta) -> None:
    life = running()
    assert seems_held(life.saga.run, START + error) is (abs(error) < SILENCE)


# A clock that is set while an activity runs.


@pytest.mark.parametrize("step", [HOUR, -HOUR, timedelta(days=365), -timedelta(days=365)])
def test_a_step_of_the_clock_changes_nothing_for_a_run_that_is_well(step: timedelta) -> None:
    async def tell(host: MemoryHost) -> None:
        async def deed(pulse: Pulse) -> Progress:
            await asyncio.sleep(15)
            host.clock.error += step
            await asyncio.sleep(20)
            return Done("done")

        async def not_yet(pulse: Pulse) -> Progress:
            time = asyncio.get_running_loop().time()
            if 50 < time < 51.5:
                host.clock.error -= 2 * step
            return Done("ready") if time > 80 else NotYet("0 of 1 pods ready", 1)

        host.deeds[FIRST], host.deeds[SECOND] = deed, not_yet
        await rest(host)

    host = lives(tell)
    assert outcome(host) is Outcome.COMPLETED
    assert host.acts.count(FIRST) == 1
    beats = [0.0, *(time for time, _ in host.journal)]
    assert max(later - earlier for earlier, later in pairwise(beats)) <= 12, "and all the time it shows that it lives"


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_step_of_the_clock_moves_no_deadline_and_no_try(step: timedelta) -> None:
    times: list[float] = []

    async def tell(host: MemoryHost) -> None:
        async def failing(pulse: Pulse) -> Progress:
            times.append(asyncio.get_running_loop().time())
            host.clock.error += step
            if len(times) < 3:
                raise Unavailable("busy")
            return await hang(pulse)

        host.deeds[FIRST] = failing
        await rest(host)

    host = lives(tell, timeout=timedelta(seconds=45), retry=RetryPolicy(initial=timedelta(seconds=4)))
    assert len(host.facts(TryFailed)) == 2
    assert times[1] - times[0] <= 4.1
    assert times[2] - times[1] <= 8.1
    assert host.when(ActivityFailed) == [45]


# A process that stands still, or comes late.


def test_after_a_long_gap_there_is_one_more_look() -> None:
    life = running(timeout=timedelta(minutes=1))
    life.sleep(50)
    assert isinstance(life.decision(), Act)
    life.now += timedelta(hours=5)  # a paused process, a queue, an API server that was away
    decision = life.decision()
    assert isinstance(decision, Act)
    assert decision.deadline - life.moment.elapsed == pytest.approx(LAST_LOOK)
    life.now += timedelta(seconds=LAST_LOOK)
    assert isinstance(life.decision(), Recorded), "and then it is over"


@pytest.mark.parametrize("away", [5, 40, 600])
def test_an_api_server_that_is_away_when_the_work_is_done_fails_no_run(away: float) -> None:
    async def tell(host: MemoryHost) -> None:
        loop = asyncio.get_running_loop()

        def unreachable() -> None:
            if 10 < loop.time() < 10 + away:
                raise Outage("the API server did not answer")

        async def deed(pulse: Pulse) -> Progress:
            await asyncio.sleep(25 if loop.time() == 0 else 1)
            return Done("done")

        host.faults = [unreachable] * 10_000
        host.deeds[FIRST] = deed
        runner = host.runner()
        while host.stored.saga.run is None or not host.stored.saga.run.finished:
            try:
                await runner.advance(host.stored, asyncio.Event())
            except Outage:  # the queue comes again
                await asyncio.sleep(5)

    host = lives(tell, timeout=timedelta(seconds=30))
    assert outcome(host) is Outcome.COMPLETED


def test_only_the_first_gap_is_forgiven() -> None:
    life = running(timeout=timedelta(minutes=1))
    for _ in range(60):
        life.now += timedelta(hours=5)
        if isinstance(life.decision(), Recorded):
            break
    assert life.moment.elapsed / 3600 / 5 <= 60 / COUNTED + 2


# An operator that restarts more often than the activity's time lasts.


def test_a_timeout_fires_however_often_the_operator_restarts() -> None:
    life = running(timeout=timedelta(minutes=10), max_takeovers=3)
    first = ActivityName.VALIDATE_REQUEST
    restarts = 0
    while life.saga.row(first).state is RowState.RUNNING:
        life.sleep(300)
        inherited(life, error=timedelta(0))
        life.happen()
        restarts += 1
        assert restarts < 10
    assert restarts == 5, "three times its whole time again, and then the rest of that"
    assert life.saga.run is not None
    assert life.saga.run.error == "timed out after 10 min"


def test_another_activity_has_its_own_takeovers() -> None:
    life = running(timeout=timedelta(minutes=10), max_takeovers=1)
    for name in list(ActivityName)[:3]:
        inherited(life, error=timedelta(0))
        life.happen()
        assert life.saga.row(name).takeovers == 1
        life.turn()


# What is written down.


@pytest.mark.parametrize(
    ("behind", "written"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(seconds=-5), timedelta(seconds=-5)),
        (timedelta(seconds=5), timedelta(milliseconds=-1)),
        (HOUR, HOUR),
    ],
)
def test_the_journal_does_not_go_back_in_time_by_a_little(behind: timedelta, written: timedelta) -> None:
    life = running()
    assert next_time(START - behind, life.saga) == START - written


def test_the_times_of_a_run_are_in_order_though_the_clock_is_set_back_a_little_again_and_again() -> None:
    async def tell(host: MemoryHost) -> None:
        async def deed(pulse: Pulse) -> Progress:
            for _ in range(5):
                await asyncio.sleep(10.5)
                host.clock.error -= timedelta(seconds=11)
            return Done("done")

        host.deeds[FIRST] = deed
        seen: list[datetime] = []
        original = host.write

        async def write(record: Record, saga: Saga, facts: Sequence[Fact], now: datetime) -> Record:
            seen.append(now)
            return await original(record, saga, facts, now)

        host.write = write  # type: ignore[method-assign]
        await rest(host)
        assert seen == sorted(seen)
        assert len(set(seen)) == len(seen), "each heartbeat is seen as one"

    assert outcome(lives(tell, timeout=timedelta(minutes=5))) is Outcome.COMPLETED
