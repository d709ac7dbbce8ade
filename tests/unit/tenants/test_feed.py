"""The feed tells each change once, whatever a life brings."""

from collections import Counter
from datetime import datetime
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import RunReason
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    CompensationCompleted,
    Fact,
    RunStarted,
    TryFailed,
)
from tenant_operator.saga.model import Kind, Outcome, RowState, Saga
from tenant_operator.saga.step import RetryPolicy
from tenant_operator.tenants.feed import audit_events
from tenant_operator.tenants.lifecycle import demand, take_request
from tenant_operator.tenants.notices import notices
from tests.unit.saga.interpreter import START, Interpreter, all_steps, interpreters, seeded
from tests.unit.tenants.a_tenant import NAMES, new_id, tenant

ENDS = ("tenant.provisioning.completed", "tenant.provisioning.failed", "tenant.provisioning.cancelled")


class Feed:
    """The events of a life."""

    def __init__(self, life: Interpreter) -> None:
        self.life = life
        self.events: list[OutboxEvent] = []
        self.reasons: list[str] = []
        life.journalled = self._journal

    def _journal(self, before: Saga, facts: list[Fact], now: datetime) -> None:
        life = self.life
        self.events += audit_events(
            tenant(), NAMES, before, facts, now=now, worker=life.worker, steps=life.steps, new_id=new_id
        )
        self.reasons += [each.reason for each in notices(NAMES, life.saga, facts)]

    def told(self, type_: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.type == type_]

    def steps(self, type_: str) -> list[str]:
        return [str(data["step"]) for data in self.told(type_)]


@settings(max_examples=40, deadline=None)
@given(interpreters(whole=True))
def test_an_attempt_has_one_start_and_one_end(life: Interpreter) -> None:
    feed = Feed(life)
    life.start()
    life.run()
    assert life.saga.run is not None
    types = Counter(event.type for event in feed.events)
    assert types["tenant.provisioning.started"] == 1
    expected = {
        Outcome.COMPLETED: "tenant.provisioning.completed",
        Outcome.FAILED: "tenant.provisioning.failed",
        Outcome.CANCELLED: "tenant.provisioning.cancelled",
    }[life.saga.run.outcome or Outcome.RELEASED]
    ends = [event.type for event in feed.events if event.type in ENDS]
    # A cancel or a failure after the tenant served is told after its completion.
    assert ends in ([expected], ["tenant.provisioning.completed", expected])
    if expected != "tenant.provisioning.completed":
        assert feed.events[-1].type == expected
        assert not types["tenant.provisioning.completed"] or life.saga.run.cancelled_activity == "send-welcome-emails"


@settings(max_examples=40, deadline=None)
@given(interpreters(whole=True))
def test_every_step_is_told_once_and_every_rollback_too(life: Interpreter) -> None:
    feed = Feed(life)
    life.start()
    life.run()
    completed = [each.fact.activity for each in life.log if isinstance(each.fact, ActivityCompleted)]
    times = Counter(feed.steps("tenant.provisioning.step_completed"))
    assert times == {name: 2 if life.steps[name].reserves and "allocate" in name else 1 for name in completed}
    undone = [each.fact.activity for each in life.log if isinstance(each.fact, CompensationCompleted)]
    assert feed.steps("tenant.provisioning.compensated") == undone
    failed = [
        each.fact.activity
        for each in life.log
        if isinstance(each.fact, TryFailed) or (isinstance(each.fact, ActivityFailed) and each.fact.best_effort)
    ]
    forward = feed.steps("tenant.provisioning.step_failed")
    assert forward[: len(failed)] == failed


@settings(max_examples=20, deadline=None)
@given(interpreters(whole=True), st.integers(1, 4))
def test_ids_are_unique_and_the_feed_is_in_order(life: Interpreter, runs: int) -> None:
    feed = Feed(life)
    life.lives(runs)
    assert len({event.id for event in feed.events}) == len(feed.events)
    assert [event.id for event in feed.events] == sorted(event.id for event in feed.events)
    assert [event.created_at for event in feed.events] == sorted(event.created_at for event in feed.events)
    started = [each.fact for each in life.log if isinstance(each.fact, RunStarted) and each.fact.kind is Kind.PROVISION]
    assert [data["attempt_number"] for data in feed.told("tenant.provisioning.started")] == [
        number + 1 for number in range(len(started))
    ]
    for event in feed.events:
        assert (event.org_id, event.tenant_id) == ("cymmetri", NAMES.uid)


@settings(max_examples=20, deadline=None)
@given(interpreters(whole=True))
def test_a_release_is_told_from_start_to_end(life: Interpreter) -> None:
    life.eventful = 0
    life.start()
    life.run()
    assume(life.saga.run is not None and life.saga.run.outcome is Outcome.COMPLETED)
    feed = Feed(life)
    life.eventful, life.turns = 20, 0
    life.start(Kind.RELEASE, RunReason.DECOMMISSIONED)
    life.run()
    assert feed.events[0].type == "tenant.deprovisioning.started"
    assert feed.events[-1].type == "tenant.deprovisioning.completed"
    assert feed.steps("tenant.deprovisioning.step_completed") == [
        name for name in reversed(list(life.steps)) if life.steps[name].compensates
    ]
    assert "Decommissioned" in feed.reasons


def test_a_stalled_release_is_told_once() -> None:
    life = Interpreter(all_steps(retry=RetryPolicy(max_tries=1)), seeded(), eventful=0)
    life.start()
    life.run()
    feed = Feed(life)
    life.start(Kind.RELEASE, RunReason.DECOMMISSIONED)
    for _ in range(5):
        step = life.steps[ActivityName.MARK_ACTIVE]
        life.happen(life.failure(step.activity, Rejected("forbidden")))
    assert len(feed.told("tenant.deprovisioning.failed")) == 1
    assert feed.reasons.count("ReleaseStalled") == 1


def test_who_asked_for_a_reset_is_who_is_named_for_it() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    life.start()
    life.happen(ActivityFailed(ActivityName.VALIDATE_REQUEST, "no", best_effort=False))
    life.run()
    feed = Feed(life)
    asked = take_request(tenant(action="reset"), new_id(), START)
    assert asked is not None
    asked = asked.model_copy(
        update={
            "metadata": asked.metadata.model_copy(
                update={
                    "annotations": {
                        "intelliauth.io/request": asked.metadata.annotations["intelliauth.io/request"].replace(
                            "alice", "carol"
                        )
                    }
                }
            )
        }
    )
    life.happen(*demand(asked, life.saga, new_id, held=True))
    (event,) = [each for each in feed.events if each.type == "tenant.provisioning.reset"]
    assert event.actor_id == "carol"


def test_who_cancelled_is_named_with_what_was_running() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    feed = Feed(life)
    life.start()
    while life.saga.row(ActivityName.ALLOCATE_STORAGE).state is not RowState.RUNNING:
        life.turn()
    life.reverse()
    life.run()
    event = feed.events[-1]
    assert (event.type, event.actor_id) == ("tenant.provisioning.cancelled", "bob")
    assert event.data == {"attempt_number": 1, "cancelled_activity": "allocate-storage"}


def test_an_intent_alone_is_no_event() -> None:
    life = Interpreter(all_steps(), seeded())
    feed = Feed(life)
    life.start()
    assert [type(each.fact) for each in life.log] == [RunStarted, ActivityStarted]
    assert [event.type for event in feed.events] == ["tenant.provisioning.started"]
