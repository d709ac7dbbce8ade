"""What a tenant says of itself, in every state of every life."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenant_operator.api.conditions import ConditionType, Reason, find_condition, is_true
from tenant_operator.api.fields import MESSAGE_MAX_LENGTH
from tenant_operator.api.meta import ConditionStatus
from tenant_operator.api.names import Action, ActivityName
from tenant_operator.api.states import DesiredState, RunReason, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import TenantStatus
from tenant_operator.saga.decide import fold
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.saga.facts import ActivityFailed, Fact, HistoryReset, Pulsed, RunStarted
from tenant_operator.saga.model import Kind, RowState, Saga
from tenant_operator.saga.step import RetryPolicy
from tenant_operator.tenants.lifecycle import demand, take_request
from tenant_operator.tenants.standing import Standing, Trouble, standing_of
from tenant_operator.tenants.status import project
from tests.unit.packaging.crd_check import faults, status_schema
from tests.unit.saga.interpreter import START, Interpreter, all_steps, interpreters, seeded
from tests.unit.tenants.a_tenant import NAMES, new_id, tenant


class Mirror:
    """The status after every journal entry of a life."""

    def __init__(self, life: Interpreter, desired: DesiredState = DesiredState.ACTIVE) -> None:
        self.life = life
        self.desired = desired
        self.record: Tenant = tenant(desired=desired)
        self.told: list[tuple[TenantStatus, datetime]] = []
        life.journalled = self._journal

    def _journal(self, before: Saga, facts: list[Fact], now: datetime) -> None:
        status = project(self.record, NAMES, self.life.saga, self.life.steps, [], now, standing=Standing())
        self.told.append((status, now))
        self.record = tenant(status, desired=self.desired)

    @property
    def status(self) -> TenantStatus:
        return self.told[-1][0]

    def ready(self) -> str:
        condition = find_condition(self.status.conditions, ConditionType.READY)
        assert condition is not None
        return condition.message


@settings(max_examples=25, deadline=None)
@given(interpreters(whole=True), st.integers(0, 3))
def test_every_status_is_one_that_the_api_server_stores(life: Interpreter, runs: int) -> None:
    mirror = Mirror(life)
    life.lives(runs)
    for status, _ in mirror.told:
        assert list(faults(status.to_wire(), status_schema())) == []
        assert TenantStatus.model_validate(status.to_wire()).to_wire() == status.to_wire()


@settings(max_examples=50, deadline=None)
@given(interpreters(whole=True), st.integers(0, 3), st.sampled_from(DesiredState))
def test_conditions_tell_what_it_is_and_whether_it_is_getting_there(
    life: Interpreter, runs: int, desired: DesiredState
) -> None:
    mirror = Mirror(life, desired)
    life.lives(runs)
    for status, _ in mirror.told:
        conditions = status.conditions
        ready, reconciling, stalled = (
            find_condition(conditions, type_)
            for type_ in (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED)
        )
        active = status.state is TenantState.ACTIVE
        arrived = status.state.value == desired.value
        for each in (reconciling, stalled):
            assert each is None or each.status is ConditionStatus.TRUE
        assert (reconciling is not None) + (stalled is not None) == (not arrived)
        assert (ready is None) == (arrived and not active)
        assert is_true(conditions, ConditionType.READY) == active
        assert is_true(conditions, ConditionType.RESOURCES_HELD) == bool(status.allocations)
        assert is_true(conditions, ConditionType.TRAFFIC_ENABLED) == active
        assert all(len(each.message) <= MESSAGE_MAX_LENGTH for each in conditions)
        assert {each.observed_generation for each in conditions} == {3}


@settings(max_examples=25, deadline=None)
@given(interpreters(whole=True), st.integers(1, 2))
def test_a_transition_is_a_change_of_the_status(life: Interpreter, runs: int) -> None:
    mirror = Mirror(life)
    life.lives(runs)
    moved = 0
    for (earlier, _), (later, now) in pairwise(mirror.told):
        for condition in later.conditions:
            old = next((each for each in earlier.conditions if each.type == condition.type), None)
            if old is not None and old.status is condition.status:
                assert condition.last_transition_time == old.last_transition_time
            else:
                moved += 1
                assert condition.last_transition_time == now.replace(microsecond=0)
    assert moved or len(mirror.told) < 2


def to(life: Interpreter, activity: str) -> None:
    """Until the activity runs."""
    while life.saga.row(activity).state is not RowState.RUNNING:
        life.turn()


def test_nothing_of_a_released_tenant_is_said_to_be_ready() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    mirror = Mirror(life)
    life.start()
    life.run()
    assert is_true(mirror.status.conditions, ConditionType.WORKLOADS_READY)
    life.start(Kind.RELEASE, RunReason.DECOMMISSIONED)
    life.run()
    assert mirror.status.state is TenantState.DECOMMISSIONED
    assert mirror.status.decommissioned_at is not None
    for type_ in (
        ConditionType.RESOURCES_ALLOCATED,
        ConditionType.SCHEMA_APPLIED,
        ConditionType.WORKLOADS_DEPLOYED,
        ConditionType.WORKLOADS_READY,
    ):
        assert not is_true(mirror.status.conditions, type_), type_


def test_a_tenant_that_holds_something_does_not_say_that_nothing_is_held() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    mirror = Mirror(life)
    life.start()
    to(life, ActivityName.DEPLOY_WORKLOADS)
    life.happen(HistoryReset())
    life.start(reason=RunReason.RETRIED)
    life.reverse()
    life.run()
    assert mirror.status.state is TenantState.PENDING
    assert ("nothing is held" in mirror.ready()) == (not mirror.status.allocations)


def test_the_cause_of_waiting_is_shown_even_after_a_failed_try() -> None:
    life = Interpreter(all_steps(timeout=timedelta(minutes=10)), seeded(), eventful=0)
    mirror = Mirror(life)
    life.start()
    to(life, ActivityName.WAIT_READY)
    step = life.steps[ActivityName.WAIT_READY]
    life.happen(life.failure(step.activity, Unavailable("API server is busy")))
    assert "API server is busy" in mirror.ready()
    life.now += timedelta(minutes=2)
    life.happen(Pulsed(ActivityName.WAIT_READY, "pod auth-0: CrashLoopBackOff"))
    assert "CrashLoopBackOff" in mirror.ready()


def test_a_long_error_does_not_push_out_the_next_step() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    mirror = Mirror(life)
    life.start()
    life.happen(ActivityFailed(ActivityName.VALIDATE_REQUEST, "x" * 2000, best_effort=False))
    life.run()
    assert mirror.status.state is TenantState.FAILED
    assert "action=retry" in mirror.ready()


def test_a_stalled_release_says_why_and_what_is_held() -> None:
    life = Interpreter(all_steps(retry=RetryPolicy(max_tries=1)), seeded(), eventful=0)
    mirror = Mirror(life)
    life.start()
    to(life, ActivityName.ALLOCATE_STORAGE)
    life.reverse()
    step = life.steps[ActivityName.ALLOCATE_STORAGE]
    life.happen(life.failure(step.activity, Rejected("database is in use")))
    stalled = find_condition(mirror.status.conditions, ConditionType.STALLED)
    assert stalled is not None
    assert "database is in use" in stalled.message
    assert is_true(mirror.status.conditions, ConditionType.RESOURCES_HELD)


def asked_by(who: str) -> Tenant:
    """A Tenant whose creator is stamped on it."""
    metadata = tenant().metadata.model_copy(update={"annotations": {"intelliauth.io/requested-by": who}})
    return tenant().model_copy(update={"metadata": metadata})


@pytest.mark.parametrize("action", ["", *Action, "x" * 200])
@pytest.mark.parametrize("who", [None, "", "alice", "a" * 300])
def test_no_request_makes_a_status_that_the_api_server_refuses(action: str, who: str | None) -> None:
    record = tenant() if who is None else asked_by(who)
    metadata = record.metadata.model_copy(
        update={"annotations": {**record.metadata.annotations, "intelliauth.io/action": action}}
    )
    record = record.model_copy(update={"metadata": metadata})
    taken = take_request(record, new_id(), START)
    assert taken is not None
    life = Interpreter(all_steps(), seeded())
    facts = demand(taken, life.saga, new_id, held=True)
    saga = fold(life.saga, facts, life.steps, START, life.worker)
    status = project(taken, NAMES, saga, life.steps, [], START, standing=Standing())
    assert list(faults(status.to_wire(), status_schema())) == []


@pytest.mark.parametrize("who", ["", "a" * 300])
def test_no_creator_makes_a_status_that_the_api_server_refuses(who: str) -> None:
    record = asked_by(who)
    life = Interpreter(all_steps(), seeded())
    facts = demand(record, life.saga, new_id, held=True)
    assert [type(fact) for fact in facts] == [RunStarted]
    saga = fold(life.saga, facts, life.steps, START, life.worker)
    status = project(record, NAMES, saga, life.steps, [], START, standing=Standing())
    assert list(faults(status.to_wire(), status_schema())) == []


def test_after_a_reset_nothing_is_said_to_be_under_way() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    mirror = Mirror(life)
    life.start()
    to(life, ActivityName.WAIT_READY)
    life.happen(HistoryReset())
    assert mirror.status.state is TenantState.FAILED
    assert is_true(mirror.status.conditions, ConditionType.WORKLOADS_DEPLOYED)
    workloads_ready = find_condition(mirror.status.conditions, ConditionType.WORKLOADS_READY)
    assert workloads_ready is not None
    assert (workloads_ready.status, workloads_ready.reason) == (ConditionStatus.FALSE, "Reset")
    assert f"{len(mirror.status.allocations)} resources are still held" in mirror.ready()


@settings(max_examples=25, deadline=None)
@given(interpreters(whole=True), st.integers(0, 3), st.sampled_from(DesiredState))
def test_a_tenant_that_the_audit_sink_holds_up_says_so_whatever_it_was_doing(
    life: Interpreter, runs: int, desired: DesiredState
) -> None:
    mirror = Mirror(life, desired)
    life.lives(runs)
    for before, now in mirror.told:
        held = project(
            tenant(before, desired=desired), NAMES, life.saga, life.steps, [], now, standing=Standing(), backlog="full"
        )
        said = {each.type: each for each in held.conditions}
        assert (said["AuditBacklog"].status, said["AuditBacklog"].message) == ("True", "full")
        assert not {"Reconciling", "Stalled"} <= said.keys()
        if "Stalled" not in said:
            assert (said["Reconciling"].reason, said["Reconciling"].message) == ("AuditSinkFailing", "full")
        if "Ready" in said and said["Ready"].status == "False":
            assert said["Ready"].message == said.get("Stalled", said.get("Reconciling", said["Ready"])).message
        assert list(faults(held.to_wire(), status_schema())) == []

        after = project(tenant(held, desired=desired), NAMES, life.saga, life.steps, [], now, standing=Standing())
        assert find_condition(after.conditions, ConditionType.AUDIT_BACKLOG) is None
        assert Reason.AUDIT_SINK_FAILING not in {each.reason for each in after.conditions}


@pytest.mark.parametrize("can_heal", [True, False])
def test_trouble_is_remembered_while_the_audit_sink_holds_the_tenant_up(can_heal: bool) -> None:
    """It is known from the condition that tells it alone."""
    life = Interpreter(all_steps(), seeded(), eventful=0)
    mirror = Mirror(life)
    life.lives(0)
    standing = Standing(trouble=Trouble("the quota is too small", can_heal))
    told = project(mirror.record, NAMES, life.saga, life.steps, [], START, standing=standing, backlog="full")

    assert standing_of(told).trouble == standing.trouble
    assert is_true(told.conditions, ConditionType.AUDIT_BACKLOG)
    assert is_true(told.conditions, ConditionType.READY)
