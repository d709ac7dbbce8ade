"""What is written to the status is what is read from it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tenant_operator.api.names import Action, ActivityName
from tenant_operator.api.states import RunReason
from tenant_operator.api.tenant_status import TenantStatus
from tenant_operator.saga.facts import Fact
from tenant_operator.saga.model import (
    Direction,
    Entry,
    EntryState,
    FailedTry,
    Heartbeat,
    Kind,
    Outcome,
    PastRun,
    Request,
    Reservation,
    Row,
    RowState,
    Run,
    Saga,
)
from tenant_operator.tenants.journal import decode, encode
from tests.unit.saga.interpreter import Interpreter, interpreters

times = st.integers(0, 10**15).map(lambda micros: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros))
texts = st.text(st.characters(codec="utf-8"), max_size=40)
names = st.text("abc-/.", min_size=1, max_size=20)
activities = st.sampled_from([str(name) for name in ActivityName])
counts = st.integers(0, 2**31 - 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def tuples(
    strategy: st.SearchStrategy[Any], size: int, key: Callable[..., Any] | None = None
) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=size, unique_by=key).map(tuple)


heartbeats = st.builds(Heartbeat, times, activities, texts, maybe(st.integers(0, 100)))
runs = st.builds(
    Run,
    id=names,
    attempt=counts,
    kind=st.sampled_from(Kind),
    direction=st.sampled_from(Direction),
    reason=st.sampled_from([str(reason) for reason in RunReason]),
    requested_by=maybe(names),
    started_at=times,
    worker=texts,
    fence=counts,
    resumed_at=maybe(times),
    finished_at=maybe(times),
    outcome=maybe(st.sampled_from(Outcome)),
    failed_activity=maybe(activities),
    cancelled_activity=maybe(activities),
    error=maybe(texts),
    heartbeat=maybe(heartbeats),
)
rows = st.builds(
    Row,
    activity=activities,
    phase=names,
    state=st.sampled_from(RowState),
    started_at=maybe(times),
    completed_at=maybe(times),
    tries=counts,
    next_try_at=maybe(times),
    message=texts,
    checkpoints=tuples(texts, 16),
)
entries = st.builds(
    Entry, st.builds(Reservation, names, names, maybe(names)), activities, st.sampled_from(EntryState), times, times
)
past_runs = st.builds(
    PastRun,
    names,
    counts,
    st.sampled_from(Kind),
    st.sampled_from(Outcome),
    maybe(activities),
    maybe(texts),
    times,
    times,
)
requests = st.builds(
    Request, names, st.sampled_from([str(each) for each in Action]), maybe(names), times, st.booleans(), texts
)
sagas = st.builds(
    Saga,
    attempt=counts,
    run=maybe(runs),
    timeline=tuples(rows, 10, lambda row: row.activity),
    ledger=tuples(entries, 20),
    history=tuples(past_runs, 5),
    errors=tuples(st.builds(FailedTry, times, counts, activities, counts, texts), 20),
    failures=tuples(st.tuples(activities, counts), 10, lambda failure: failure[0]),
    last_request=maybe(requests),
)


def through_the_wire(saga: Saga) -> Saga:
    """Written as the API server stores it, and read again."""
    stored = json.dumps(TenantStatus.model_construct(**{**dict(TenantStatus()), **encode(saga)}).to_wire())
    return decode(TenantStatus.model_validate(json.loads(stored)))


@settings(max_examples=60, deadline=None)
@given(sagas)
def test_any_saga_comes_back_as_it_was(saga: Saga) -> None:
    assert through_the_wire(saga) == saga


@settings(max_examples=15, deadline=None)
@given(interpreters(whole=True))
def test_every_state_of_a_life_comes_back_as_it_was(life: Interpreter) -> None:
    def compare(before: Saga, facts: list[Fact], now: datetime) -> None:
        assert through_the_wire(life.saga) == life.saga

    life.journalled = compare
    life.lives(2)
