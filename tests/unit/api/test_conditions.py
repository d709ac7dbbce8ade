"""There is one way to set a condition, and it moves `lastTransitionTime` only with the status."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.api.conditions import (
    Conditions,
    ConditionType,
    ConditionUpdate,
    Reason,
    find_condition,
    is_true,
    remove_condition,
    set_condition,
)
from tenant_operator.api.meta import Condition, ConditionStatus

START = datetime(2026, 1, 1, tzinfo=UTC)

updates = st.builds(
    ConditionUpdate,
    type=st.sampled_from(ConditionType),
    status=st.sampled_from(ConditionStatus),
    reason=st.sampled_from(Reason),
    message=st.text(max_size=20),
)


@st.composite
def condition_lists(draw: st.DrawFn) -> Conditions:
    conditions: Conditions = ()
    for minute, update in enumerate(draw(st.lists(updates, max_size=8))):
        now = START + timedelta(minutes=minute)
        conditions = set_condition(conditions, update, generation=1, now=now)
    return conditions


@given(condition_lists(), updates, st.integers(1, 9))
def test_the_time_moves_exactly_with_the_status(before: Conditions, update: ConditionUpdate, generation: int) -> None:
    now = START + timedelta(days=1)
    old = find_condition(before, update.type)

    new = find_condition(set_condition(before, update, generation=generation, now=now), update.type)

    assert new is not None
    assert (new.status, new.reason, new.message) == (update.status, update.reason, update.message)
    assert new.observed_generation == generation
    kept = old is not None and old.status is update.status
    assert new.last_transition_time == (old.last_transition_time if old is not None and kept else now)


@given(condition_lists(), updates)
def test_saying_it_again_later_changes_nothing(before: Conditions, update: ConditionUpdate) -> None:
    once = set_condition(before, update, generation=1, now=START + timedelta(days=1))

    assert set_condition(once, update, generation=1, now=START + timedelta(days=2)) == once


@given(condition_lists(), updates)
def test_the_others_stay_as_they_were(before: Conditions, update: ConditionUpdate) -> None:
    after = set_condition(before, update, generation=2, now=START + timedelta(days=1))

    assert remove_condition(after, update.type) == remove_condition(before, update.type)


@given(condition_lists())
def test_the_order_is_that_of_the_types_and_each_is_there_once(conditions: Conditions) -> None:
    present = {condition.type for condition in conditions}

    assert [condition.type for condition in conditions] == [each for each in ConditionType if each in present]


@given(condition_lists(), st.sampled_from(ConditionType))
def test_a_removed_condition_is_gone(conditions: Conditions, type_: ConditionType) -> None:
    assert find_condition(remove_condition(conditions, type_), type_) is None


def test_conditions_of_others_come_last_and_are_kept() -> None:
    foreign = Condition(
        type="example.com/Audited",
        status=ConditionStatus.TRUE,
        last_transition_time=START,
        reason="Audited",
        message="",
    )
    update = ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, Reason.PENDING)

    after = set_condition((foreign,), update, generation=1, now=START)

    assert [condition.type for condition in after] == ["Ready", "example.com/Audited"]


def test_only_true_is_true() -> None:
    for status in ConditionStatus:
        update = ConditionUpdate(ConditionType.READY, status, Reason.ACTIVE)
        conditions = set_condition((), update, generation=1, now=START)
        assert is_true(conditions, ConditionType.READY) is (status is ConditionStatus.TRUE)
    assert not is_true((), ConditionType.READY)


def test_times_are_whole_seconds_as_the_api_server_keeps_them() -> None:
    update = ConditionUpdate(ConditionType.READY, ConditionStatus.TRUE, Reason.ACTIVE, "serving")
    (condition,) = set_condition((), update, generation=3, now=START.replace(microsecond=999_999))

    assert condition.to_wire() == {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Active",
        "message": "serving",
    }
