"""From the outbox to the sink, and what a replica knows of its tenants."""

import asyncio
import logging
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.audit.courier import Courier
from tenant_operator.ports import TenantKey
from tenant_operator.replicas.alone import Alone
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.fakes.audit import FakeAudit
from tests.simulation.virtual_time import VirtualClock, run
from tests.simulation.world import KEY, TENANT, Life, World
from tests.unit.saga.interpreter import START

CLOCK = VirtualClock()
MINE = TenantKey("cymmetri", "banking")


def event(number: int) -> OutboxEvent:
    return OutboxEvent(
        id=f"{number:026d}", type="tenant.suspended", org_id="cymmetri", tenant_id="uid", created_at=START
    )


class MoodySink(FakeAudit):
    """Fails as often as it is told to, with `error`."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        super().__init__()
        self.failures = failures
        self.error = error or Unavailable("disk full")
        self.calls: list[float] = []

    async def append(self, events: Sequence[OutboxEvent]) -> None:
        self.calls.append(asyncio.get_running_loop().time())
        if self.failures:
            self.failures -= 1
            raise self.error
        await super().append(events)


def deliver(sink: MoodySink, count: int, wait: float) -> tuple[list[TenantKey], Courier]:
    """A courier with one outbox of `count` events, some time later."""

    async def story() -> tuple[list[TenantKey], Courier]:
        rung: list[TenantKey] = []
        courier = Courier(sink, Alone(), rung.append, now=CLOCK.now)
        task = asyncio.create_task(courier.run())
        outbox = [event(number) for number in range(count)]
        courier.hand_over(MINE, outbox)
        courier.hand_over(MINE, outbox)
        assert courier.undelivered(MINE, outbox) == outbox, "nothing may leave the outbox yet"
        await asyncio.sleep(wait)
        if sink.failures:
            assert courier.undelivered(MINE, outbox) == outbox
        else:
            assert courier.undelivered(MINE, outbox) == []
            courier.cleared(MINE, ())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return rung, courier

    return run(story())


@pytest.mark.parametrize("failures", [0, 1, 6])
def test_each_event_is_delivered_once_in_order_however_long_the_sink_fails(failures: int) -> None:
    sink = MoodySink(failures)
    rung, courier = deliver(sink, 1100, 300)
    assert [each.id for each in sink.events] == [event(number).id for number in range(1100)]
    assert courier.backlog == 0
    assert set(rung) == {MINE}
    assert len(sink.calls) == failures + 3, "three batches, and one call for each failure"


def test_a_sink_that_fails_is_left_alone_longer_and_longer() -> None:
    sink = MoodySink(8)
    deliver(sink, 1, 300)
    pauses = [later - earlier for earlier, later in pairwise(sink.calls)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_an_outbox_is_kept_as_long_as_the_sink_fails() -> None:
    rung, courier = deliver(MoodySink(10**9), 3, 300)
    assert rung == []
    assert courier.backlog == 3


def test_a_sink_that_fails_with_something_else_is_tried_again_too() -> None:
    sink = MoodySink(1, OSError("no space left on device"))
    deliver(sink, 3, 300)
    assert len(sink.events) == 3


class PickySink(FakeAudit):
    """Refuses one event, as long as it is `picky`; nothing of a batch with it is stored."""

    def __init__(self, bad: str, error: Exception) -> None:
        super().__init__()
        self.bad = bad
        self.error = error
        self.picky = True
        self.calls = 0

    async def append(self, events: Sequence[OutboxEvent]) -> None:
        self.calls += 1
        if self.picky and any(each.id == self.bad for each in events):
            raise self.error
        await super().append(events)


@pytest.mark.parametrize("error", [Rejected("a value is too long"), TypeError("not serializable")])
def test_an_event_that_is_refused_for_good_holds_up_its_tenant_alone(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    others = [TenantKey("cymmetri", f"other-{number}") for number in range(300)]

    async def story() -> None:
        sink = PickySink(event(1).id, error)
        courier = Courier(sink, Alone(), lambda key: None, now=CLOCK.now)
        task = asyncio.create_task(courier.run())
        courier.hand_over(MINE, [event(0), event(1), event(2)])
        for number, key in enumerate(others):
            courier.hand_over(key, [event(10 + number), event(1000 + number)])
        await asyncio.sleep(100)

        assert [each.id for each in courier.undelivered(MINE, [event(0), event(1), event(2)])] == [
            event(1).id,
            event(2).id,
        ]
        assert courier.backlog == 2
        assert len(sink.events) == 1 + 600
        trouble = courier.trouble_of(MINE)
        assert trouble is not None
        assert trouble.cause in ("a value is too long", "unexpected TypeError")
        assert courier.trouble is None
        assert courier.trouble_of(others[0]) is None
        assert sink.calls < 60

        sink.picky = False
        await asyncio.sleep(60)
        assert [each.id for each in sink.events if each.id < event(10).id] == [event(number).id for number in range(3)]
        assert courier.trouble_of(MINE) is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(story())
    assert sum("it refuses event" in each.message for each in caplog.records) == 1


def test_what_arrives_while_the_sink_works_is_delivered_next() -> None:
    async def story() -> list[str]:
        sink = FakeAudit()
        courier = Courier(sink, Alone(), lambda key: None, now=CLOCK.now)

        async def meanwhile(operation: str, name: str) -> None:
            if name == event(0).id:
                courier.hand_over(MINE, [event(1)])

        sink.before = meanwhile
        task = asyncio.create_task(courier.run())
        courier.hand_over(MINE, [event(0)])
        await asyncio.sleep(10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [each.id for each in sink.events]

    assert run(story()) == [event(0).id, event(1).id]


class LateWatch(Life):
    """A life whose watch tells of a write two seconds after it."""

    def _changed(self, key: TenantKey) -> None:
        asyncio.get_running_loop().call_later(2, super()._changed, key)


@pytest.mark.parametrize("write", range(1, 15))
def test_the_events_of_a_write_whose_answer_was_lost_are_delivered(
    write: int, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []

    async def story() -> Tenant:
        world, writes = World(), 0

        def lost(when: str, operation: str, name: str) -> Exception | str | None:
            nonlocal writes
            if operation != "write_status":
                return None
            tries.append(name)
            if len(tries) > 200:
                return "crash"  # a loop that never lets time pass
            if when == "before":
                return None
            writes += 1
            return Unavailable("no answer") if writes == write else None

        world.fault = lost
        world.store.apply(TENANT)
        life = LateWatch(world)
        await asyncio.sleep(600)
        await life.end()
        stored = world.store.peek(KEY)
        assert stored is not None
        return stored

    with caplog.at_level(logging.CRITICAL + 1):
        stored = run(story())
    assert len(tries) <= 200, "the same write was tried over and over without a pause"
    assert stored.status.state == "Active"
    assert stored.status.outbox == ()
