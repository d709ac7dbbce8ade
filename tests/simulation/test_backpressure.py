"""While the audit sink is down nothing is lost; a tenant that has to wait for it says so, once, and goes on after."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from tenant_operator.api.conditions import Conditions, ConditionType, Reason, find_condition
from tenant_operator.api.meta import Condition
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.audit.backlog import BACKPRESSURE
from tenant_operator.saga.errors import Unavailable
from tests.simulation.test_upkeep import active
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, Life, World, broken_promises, no_fault

HOUR = 3600.0
REFUSED = "audit feed in memory: refused"


def tenant_of(world: World) -> Tenant:
    assert world.tenant is not None
    return world.tenant


def said(world: World, type_: ConditionType) -> Condition:
    found = find_condition(tenant_of(world).status.conditions, type_)
    assert found is not None, f"{type_} is not said"
    return found


def backlog(conditions: Conditions) -> Condition | None:
    return find_condition(conditions, ConditionType.AUDIT_BACKLOG)


async def until(holds: Callable[[], bool], within: float = HOUR) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not holds():
        assert loop.time() < end, "it never came to pass"
        await asyncio.sleep(1)


async def fill(world: World) -> None:
    """Suspend and resume the tenant until it is held up; each change of state is an event."""
    for number in range(2 * BACKPRESSURE):
        if len(tenant_of(world).status.outbox) > BACKPRESSURE:
            break
        world.store.patch_spec(KEY, desiredState=("Suspended", "Active")[number % 2])
        await asyncio.sleep(10)
    await until(lambda: backlog(tenant_of(world).status.conditions) is not None, 120)


async def held_up() -> tuple[World, Life]:
    """A serving tenant that has more to tell than may wait, to a sink that takes nothing."""
    world = World()
    life = await active(world)
    world.audit.refusing = True
    await fill(world)
    return world, life


async def goes_on(world: World, life: Life) -> None:
    """The sink is back: what was asked for meanwhile happens, the feed is whole, and nothing is said any more."""
    world.audit.refusing = False
    assert await life.settle()
    await life.end()
    assert broken_promises(world) == []
    assert world.tenant is None or backlog(world.tenant.status.conditions) is None


def test_a_tenant_that_is_held_up_says_why_and_since_when() -> None:
    async def story() -> None:
        world, life = await held_up()

        message = said(world, ConditionType.AUDIT_BACKLOG).message
        first = tenant_of(world).status.outbox[0].created_at
        assert message.startswith("nothing further is begun: more than 100 audit events of this tenant wait")
        assert f"has failed since {first:%Y-%m-%d %H:%M:%S} UTC: {REFUSED}" in message
        assert "TENANT_OPERATOR_AUDIT_LOG" in message
        reconciling = said(world, ConditionType.RECONCILING)
        assert (reconciling.reason, reconciling.message) == (Reason.AUDIT_SINK_FAILING, message)

        world.store.patch_spec(KEY, desiredState="Suspended")
        await asyncio.sleep(HOUR)
        assert len(tenant_of(world).status.outbox) == BACKPRESSURE + 1
        await goes_on(world, life)
        assert tenant_of(world).status.state is TenantState.SUSPENDED

    run(story())


def test_nothing_is_written_while_it_lasts() -> None:
    async def story() -> None:
        world, life = await held_up()
        writes = world.store.writes
        await asyncio.sleep(24 * HOUR)
        assert world.store.writes == writes
        await goes_on(world, life)

    run(story())


def test_the_log_tells_once_that_it_begins_and_once_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        world, life = await held_up()
        await asyncio.sleep(HOUR)
        await goes_on(world, life)

    with caplog.at_level(logging.INFO):
        run(story())

    began, over = (record for record in caplog.records if "audit sink" in record.getMessage())
    assert (began.levelname, over.levelname) == ("WARNING", "INFO")
    assert REFUSED in began.getMessage()
    assert not [each for each in caplog.records if "outbox" in each.getMessage()]


def test_another_cause_is_told_and_no_more_often_than_each_minute() -> None:
    """A sink that says something else each time makes no storm of writes."""
    causes = iter(range(10**6))

    def fault(when: str, operation: str, name: str) -> Exception | str | None:
        return Unavailable(f"cause number {next(causes)}") if operation == "append" else None

    async def story() -> None:
        world, life = await held_up()
        world.audit.refusing, world.fault = False, fault
        before = world.store.writes
        await until(lambda: "cause number" in said(world, ConditionType.AUDIT_BACKLOG).message)
        await asyncio.sleep(HOUR)
        assert world.store.writes - before <= 62
        world.fault = no_fault
        await goes_on(world, life)

    run(story())


def test_a_sink_that_does_not_answer_is_told_too() -> None:
    async def story() -> None:
        world = World()
        life = await active(world)
        world.fault = lambda when, operation, name: "hang" if operation == "append" else None
        await fill(world)
        assert "it gives no answer" in said(world, ConditionType.AUDIT_BACKLOG).message
        await life.end()

        world.fault = no_fault
        await goes_on(world, Life(world))

    run(story())


def test_a_sink_that_is_merely_slow_is_nobodys_news() -> None:
    """A restarted operator finds a full outbox, and the sink takes it a moment later."""

    async def story() -> None:
        world, life = await held_up()
        await life.end()
        seen: list[Conditions] = []
        world.store.subscribe(lambda key: seen.append(tenant_of(world).status.conditions))
        world.audit.refusing = False
        writes = world.store.writes
        await goes_on(world, Life(world))
        assert backlog(seen[-1]) is None
        assert world.store.writes - writes <= 4, "taken away and cleared once, not told anew"

    run(story())


def test_a_record_that_is_kept_for_its_last_events_says_so() -> None:
    async def story() -> None:
        world = World()
        life = await active(world)
        world.audit.refusing = True
        world.store.delete(KEY)
        await until(lambda: backlog(tenant_of(world).status.conditions) is not None)
        ready = said(world, ConditionType.READY)
        assert (ready.status, ready.reason) == ("False", Reason.AUDIT_SINK_FAILING)
        assert ready.message.startswith("everything is released; the record is kept until the audit sink has its last")
        writes = world.store.writes
        await asyncio.sleep(HOUR)
        assert world.store.writes == writes
        await goes_on(world, life)
        assert world.tenant is None

    run(story())
