"""A failure of each kind in each activity ends where it should, with a message naming the cause and nothing left."""

import asyncio

import pytest

from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import TenantState
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tenant_operator.saga.step import Progress
from tests.simulation.virtual_time import run
from tests.simulation.world import TENANT, Life, World, broken_promises, steps_with
from tests.stand_in import StandIn

EMAILS = ActivityName.SEND_WELCOME_EMAILS


class Faulty(StandIn):
    """Another activity that does its work, and then fails all the same: the effect is there, the answer is not."""

    def __init__(self, inner: Activity, fault: str) -> None:
        super().__init__(inner)
        self._fault = fault
        self._failures = 0

    async def run(self, ctx: Context) -> Progress:
        progress = await super().run(ctx)
        match self._fault:
            case "transient" if self._failures < 2:
                self._failures += 1
                raise Unavailable("the cable is out")
            case "lasting":
                raise Unavailable("the cable is out")
            case "outage":
                raise Outage("nobody answers")
            case "permanent":
                raise Rejected("the form is wrong")
            case "unforeseen":
                raise KeyError("password=hunter2")
            case "hanging":
                ctx.heartbeat("waiting for the fax", None)
                await asyncio.sleep(1_000_000)
        return progress


CAUSES = {
    "lasting": "the cable is out (",
    "outage": "timed out after 30 s: nobody answers (",
    "permanent": "the form is wrong",
    "unforeseen": "unexpected KeyError",
    "hanging": "timed out after 30 s: waiting for the fax",
}


def told(activity: ActivityName, fault: str) -> World:
    """A tenant whose provisioning meets the fault in the activity."""

    async def story() -> World:
        world = World()
        life = Life(world, steps_with(activity, lambda inner: Faulty(inner, fault)))
        world.store.apply(TENANT)
        assert await life.settle()
        await life.end()
        return world

    return run(story())


@pytest.mark.parametrize("activity", ActivityName)
def test_a_passing_fault_is_tried_over(activity: ActivityName) -> None:
    world = told(activity, "transient")
    assert world.tenant is not None
    status = world.tenant.status
    assert (status.state, broken_promises(world)) == (TenantState.ACTIVE, [])
    assert [(error.activity, error.message) for error in status.errors] == [(activity, "the cable is out")] * 2
    assert world.told("tenant.provisioning.step_failed") == [activity] * 2


@pytest.mark.parametrize("fault", CAUSES)
@pytest.mark.parametrize("activity", [name for name in ActivityName if name != EMAILS])
def test_a_fault_for_good_is_rolled_back(activity: ActivityName, fault: str) -> None:
    world = told(activity, fault)
    assert world.tenant is not None
    status = world.tenant.status
    assert (status.state, broken_promises(world)) == (TenantState.FAILED, [])
    assert status.run is not None
    assert status.run.failed_activity == activity
    assert CAUSES[fault] in (status.run.error or "")
    ready = find_condition(status.conditions, ConditionType.READY)
    assert ready is not None
    assert activity in ready.message
    assert CAUSES[fault] in ready.message
    started = [*ActivityName][: [*ActivityName].index(activity) + 1]
    assert world.told("tenant.provisioning.compensated") == [*reversed(started)]
    assert "hunter2" not in world.tenant.model_dump_json() + repr(world.events)


@pytest.mark.parametrize("fault", CAUSES)
def test_emails_that_cannot_be_sent_do_not_take_the_tenant_down(fault: str) -> None:
    world = told(EMAILS, fault)
    assert world.tenant is not None
    status = world.tenant.status
    assert (status.state, broken_promises(world)) == (TenantState.ACTIVE, [])
    sent = find_condition(status.conditions, ConditionType.WELCOME_EMAILS_SENT)
    assert sent is not None
    assert sent.status == "False"
    assert CAUSES[fault] in sent.message
    assert world.told("tenant.provisioning.step_failed")[-1] == EMAILS
