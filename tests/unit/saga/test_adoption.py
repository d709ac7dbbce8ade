"""Runs that do not trust the journal: one that takes over and never turns back, and the last look of a release."""

from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest

from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import RunReason, TenantState
from tenant_operator.saga.decide import Act, Record, Undo, Wait, after_failure, is_stalled
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.saga.evolve import RELEASED_AGAIN, evolve
from tenant_operator.saga.facts import CompensationStarted, Fact, RemainsFound, RunReversed, RunStarted, TryFailed
from tenant_operator.saga.model import Direction, EntryState, Kind, Outcome, RowState, Saga
from tenant_operator.saga.step import Step
from tenant_operator.tenants.feed import audit_events
from tenant_operator.tenants.lifecycle import contradicts_service, is_cut_off, mended, state_of
from tests.unit.saga.interpreter import A_WORKER, START, Interpreter, all_steps, seeded
from tests.unit.tenants.a_tenant import NAMES, new_id, tenant

RENEWED = (
    ActivityName.ALLOCATE_NAMESPACE,
    ActivityName.ALLOCATE_STORAGE,
    ActivityName.ALLOCATE_IDENTITY_STORE,
    ActivityName.APPLY_SCHEMA,
)
LOOK = ActivityName.VALIDATE_REQUEST


def steps() -> dict[str, Step]:
    """The plan, as it is marked."""
    return {name: replace(step, renews=name in RENEWED, verifies=name == LOOK) for name, step in all_steps().items()}


class Life(Interpreter):
    """Nobody asks for what the state of a tenant that serves does not allow."""

    def reverse(self) -> None:
        if self.saga.run is None or self.saga.run.kind is not Kind.ADOPT:
            super().reverse()


def life(eventful: int = 0, seed: int = 1) -> Interpreter:
    return Life(steps(), seeded(seed), eventful=eventful)


def told(saga: Saga, *facts: Fact) -> list[str]:
    events = audit_events(tenant(), NAMES, saga, facts, now=START, worker=A_WORKER, steps=steps(), new_id=new_id)
    return [event.type for event in events]


def adoption(earlier: int = 3) -> RunStarted:
    return RunStarted("run-a", Kind.ADOPT, RunReason.ADOPTED, None, earlier=earlier)


def test_an_adoption_is_complete_from_its_first_write_and_renews_some_steps() -> None:
    saga = evolve(Saga(), adoption(), START, A_WORKER, steps())
    assert (saga.attempt, state_of(saga, suspended=False)) == (3, TenantState.ACTIVE)
    assert {row.activity for row in saga.timeline if row.state is RowState.PENDING} == set(RENEWED)
    assert saga.row(ActivityName.SEND_WELCOME_EMAILS).state is RowState.SKIPPED
    assert saga.row(ActivityName.MARK_ACTIVE).state is RowState.COMPLETED
    held = {entry.reservation for entry in saga.ledger}
    assert held == {reservation for step in steps().values() for reservation in step.reserves}
    assert {entry.state for entry in saga.ledger} == {EntryState.ALLOCATED}
    assert told(Saga(), adoption()) == ["tenant.adopted"]
    assert evolve(saga, RunReversed(RunReason.CANCELLED, "bob"), START, A_WORKER, steps()) is saga


@pytest.mark.parametrize("seed", range(40))
def test_an_adoption_never_turns_back_whatever_fails(seed: int) -> None:
    lived = life(eventful=60, seed=seed)
    lived.happen(adoption())
    lived.run()
    run = lived.saga.run
    assert run is not None and (run.kind, run.outcome) == (Kind.ADOPT, Outcome.COMPLETED)
    assert all(each.after.run is None or each.after.run.direction is Direction.FORWARD for each in lived.log)
    assert len(lived.saga.ledger) == len(steps()) - 5


@pytest.mark.parametrize("error", [Rejected("no"), Unavailable("busy")])
def test_a_step_whose_tries_are_used_up_stalls_and_is_tried_for_ever(error: Exception) -> None:
    lived = life()
    lived.happen(adoption())
    for _ in range(12):
        decision = lived.decision()
        if isinstance(decision, Wait):
            lived.now = START + timedelta(seconds=decision.until)
            continue
        assert isinstance(decision, Act)
        step = lived.steps[decision.activity]
        lived.happen(after_failure(lived.saga, step, error, lived.look(), lived.moment, 0.5))
    stuck = is_stalled(lived.saga, lived.steps)
    assert stuck is not None and stuck.activity == RENEWED[0]
    failures = [each.fact for each in lived.log if isinstance(each.fact, TryFailed)]
    assert (failures[-1].stalled, failures[-1].repeated) == (True, True)
    assert failures[-1].next_try_at - lived.now <= lived.steps[stuck.activity].retry.stalled_every
    assert told(lived.saga, failures[-1]) == []


def test_a_step_that_is_out_of_time_gets_a_fresh_clock() -> None:
    lived = life()
    lived.happen(adoption())
    while not isinstance(lived.decision(), Record):
        lived.now += timedelta(seconds=10)
    decision = lived.decision()
    assert isinstance(decision, Record) and isinstance(decision.fact, TryFailed) and decision.fact.stalled
    lived.happen()
    lived.now += lived.steps[RENEWED[0]].retry.stalled_every
    act = lived.decision()
    assert isinstance(act, Act) and act.deadline > lived.moment.elapsed


def released(saga: Saga, *, whole: bool = False, reason: RunReason = RunReason.DECOMMISSIONED) -> Interpreter:
    lived = life()
    lived.saga = saga
    lived.happen(RunStarted("run-r", Kind.RELEASE, reason, "alice", whole=whole))
    return lived


def undone(lived: Interpreter) -> list[str]:
    return [each.fact.activity for each in lived.log if isinstance(each.fact, CompensationStarted)]


def test_a_release_ends_with_a_look_even_if_the_journal_tells_of_nothing() -> None:
    lived = released(Saga())
    lived.run()
    assert undone(lived) == [LOOK]
    assert told(Saga(), *(each.fact for each in lived.log)) == ["tenant.deprovisioning.completed"]


def test_a_release_where_something_is_there_skips_nothing() -> None:
    lived = released(Saga(), whole=True)
    lived.run()
    expected = [name for name in reversed(ActivityName) if steps()[name].compensates or name == LOOK]
    assert undone(lived) == expected


@pytest.mark.parametrize("reason", [RunReason.DECOMMISSIONED, RunReason.DELETED])
def test_what_is_found_at_the_end_is_released_and_told(reason: RunReason) -> None:
    lived = released(Saga(), reason=reason)
    decision = lived.decision()
    assert isinstance(decision, Undo) and decision.activity == LOOK
    lived.happen(RemainsFound(LOOK, ("Namespace x",)))
    assert RELEASED_AGAIN in lived.saga.row(LOOK).checkpoints
    lived.run()
    compensating = [name for name in reversed(ActivityName) if steps()[name].compensates]
    assert undone(lived) == [LOOK, *compensating, LOOK]
    feed = told(Saga(), *(each.fact for each in lived.log))
    started, *step_events = feed[: len(compensating) + 1]
    assert started == "tenant.deprovisioning.started"
    assert set(step_events) == {"tenant.deprovisioning.step_completed"}
    ends = ["tenant.deprovisioning.completed", *(["tenant.deleted"] if reason is RunReason.DELETED else [])]
    assert feed[len(compensating) + 1 :] == ends


def test_a_lost_attempt_is_told_as_over_before_the_next_one_begins() -> None:
    begun = RunStarted("run-b", Kind.PROVISION, RunReason.CREATED, None, earlier=2)
    assert told(Saga(), begun) == ["tenant.provisioning.reset", "tenant.provisioning.started"]
    assert evolve(Saga(), begun, START, A_WORKER, steps()).attempt == 3
    known = Saga(attempt=2)
    assert told(known, begun) == ["tenant.provisioning.started"]


def test_a_journal_that_lacks_the_row_by_which_it_must_end_is_not_believed() -> None:
    lived = life()
    lived.start()
    assert mended(lived.saga) == lived.saga
    assert mended(replace(lived.saga, timeline=())).run is None
    lived.reverse()
    assert mended(lived.saga) == lived.saga
    forged = tuple(replace(row, state=RowState.COMPENSATED) for row in lived.saga.timeline)
    assert mended(replace(lived.saga, timeline=forged)).run is None
    lived.run()
    assert mended(lived.saga) == lived.saga
    adopting = evolve(Saga(), adoption(), START, A_WORKER, steps())
    assert adopting.run is not None
    assert mended(replace(adopting, run=replace(adopting.run, direction=Direction.BACKWARD))).run is None


def test_only_a_journal_that_tells_of_an_open_route_fits_a_tenant_that_has_served() -> None:
    lived = life()
    assert contradicts_service(lived.saga) and is_cut_off(lived.saga)
    lived.start()
    numbers = count()
    while lived.turn():
        next(numbers)
        opening = lived.saga.row(ActivityName.MARK_ACTIVE).state is not RowState.PENDING
        assert contradicts_service(lived.saga) is not opening
    assert not contradicts_service(lived.saga) and not is_cut_off(lived.saga)
