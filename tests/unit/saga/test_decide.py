"""What every saga keeps, whatever happens to it: it ends, in order, and leaves nothing behind."""

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import RunReason
from tenant_operator.saga.decide import Act, Record, Rest, Undo, Wait, is_stalled, settle
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tenant_operator.saga.evolve import KEPT_ATTEMPTS, KEPT_ERRORS, MESSAGE_LIMIT
from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityFailed,
    ActivityStarted,
    CompensationCompleted,
    CompensationStarted,
    CompensationTryFailed,
    HistoryReset,
    Pulsed,
    RunFinished,
    TryFailed,
)
from tenant_operator.saga.model import Direction, EntryState, Kind, Outcome, RowState
from tenant_operator.saga.step import RetryPolicy
from tests.unit.saga.interpreter import (
    A_WORKER,
    START,
    UNFINISHED,
    Interpreter,
    all_steps,
    at,
    finished_runs,
    interpreters,
    seeded,
    taken_over,
)

some = settings(max_examples=60, deadline=None)

seconds = st.integers(1, 10_000).map(lambda tenths: timedelta(seconds=tenths / 10))


@some
@given(finished_runs())
def test_a_run_comes_to_an_end_and_stays_there(life: Interpreter) -> None:
    assert life.saga.run is not None
    assert life.saga.run.finished
    assert life.saga.run.heartbeat is None
    life.now += timedelta(days=400)
    assert isinstance(life.decision(), Rest)


@some
@given(finished_runs())
def test_activities_start_in_order_and_one_at_a_time(life: Interpreter) -> None:
    started = [each.fact.activity for each in life.log if isinstance(each.fact, ActivityStarted)]
    assert started == list(life.steps)[: len(started)]
    for each in life.log:
        states = [row.state for row in each.after.timeline if row.state in UNFINISHED]
        assert states in ([], [RowState.RUNNING], [RowState.COMPENSATING], [RowState.RUNNING, RowState.COMPENSATING])
        if isinstance(each.fact, ActivityStarted):
            assert all(row.state not in UNFINISHED for row in each.before.timeline)


@some
@given(finished_runs())
def test_a_backward_run_undoes_all_that_was_started_once_and_last_first(life: Interpreter) -> None:
    run = life.saga.run
    assert run is not None
    started = [each.fact.activity for each in life.log if isinstance(each.fact, ActivityStarted)]
    begun = [each.fact.activity for each in life.log if isinstance(each.fact, CompensationStarted)]
    undone = [each.fact.activity for each in life.log if isinstance(each.fact, CompensationCompleted)]
    # What another worker may have run, and could not journal.
    unsure = {
        each.fact.activity
        for each in life.log
        if isinstance(each.fact, CompensationStarted)
        and (row := each.before.row(each.fact.activity)).state is RowState.PENDING
        and row.takeovers
    }
    if run.direction is Direction.BACKWARD:
        assert begun == undone == [name for name in reversed(list(life.steps)) if name in unsure or name in started]
        assert life.saga.ledger == ()
        assert run.outcome is (Outcome.FAILED if run.failed_activity else Outcome.CANCELLED)
    else:
        assert begun == undone == []
        assert run.outcome is Outcome.COMPLETED
        assert {entry.state for entry in life.saga.ledger} <= {EntryState.ALLOCATED, EntryState.ALLOCATING}


@some
@given(finished_runs())
def test_what_an_activity_holds_is_in_the_ledger_from_its_intent_to_its_release(life: Interpreter) -> None:
    held: set[str] = set()
    reserved: set[str] = set()
    for each in life.log:
        match each.fact:
            case ActivityStarted(activity) if life.steps[activity].reserves:
                assert {entry.reservation for entry in each.after.ledger} >= set(life.steps[activity].reserves)
                held.add(activity)
            case CompensationCompleted(activity):
                held.discard(activity)
        if isinstance(each.fact, ActivityStarted):
            reserved |= {activity for activity, _ in each.fact.reserves}
        assert held <= {entry.activity for entry in each.after.ledger} <= reserved
    if life.saga.run is not None and life.saga.run.outcome is not Outcome.COMPLETED:
        assert life.saga.ledger == ()


@some
@given(interpreters(whole=True), st.integers(1, 4))
def test_no_backward_run_leaves_anything_in_the_ledger_whatever_ran_before(life: Interpreter, runs: int) -> None:
    life.lives(runs)
    for each in life.log:
        if isinstance(each.fact, RunFinished) and each.fact.outcome is not Outcome.COMPLETED:
            assert each.after.ledger == (), f"a run ended {each.fact.outcome} and still holds something"


def test_a_retry_after_a_reset_that_is_cancelled_at_once_holds_nothing() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    life.start()
    while life.saga.row(ActivityName.DEPLOY_WORKLOADS).state is RowState.PENDING:
        life.turn()
    life.happen(HistoryReset())  # the worker is gone; what was allocated stays, and the ledger says so
    assert life.saga.ledger
    life.start(reason=RunReason.RETRIED)
    life.reverse()
    life.run()
    assert life.saga.run is not None
    assert life.saga.run.outcome is Outcome.CANCELLED
    assert life.saga.ledger == ()


@some
@given(interpreters(whole=True))
def test_a_release_undoes_a_completed_run_last_first(life: Interpreter) -> None:
    life.start()
    life.run()
    assume(life.saga.run is not None and life.saga.run.outcome is Outcome.COMPLETED)
    before = len(life.log)
    life.start(Kind.RELEASE, RunReason.DECOMMISSIONED)
    life.turns = 0
    life.run()
    undone = [each.fact.activity for each in life.log[before:] if isinstance(each.fact, CompensationCompleted)]
    assert undone == [name for name in reversed(list(life.steps)) if life.steps[name].compensates]
    assert life.saga.ledger == ()
    assert life.saga.run is not None
    assert life.saga.run.outcome is Outcome.RELEASED


@some
@given(interpreters(whole=True))
def test_settling_is_final_and_bounded(life: Interpreter) -> None:
    life.start()
    for _ in range(60):
        saga, facts, decision = settle(life.saga, life.steps, life.look(), life.moment, life.worker)
        assert len(facts) <= len(life.steps) + 3
        again, more, same = settle(saga, life.steps, life.look(), life.moment, life.worker)
        assert (again, more, same) == (saga, [], decision)
        assert not isinstance(decision, Record)
        if not life.turn():
            break


@some
@given(interpreters(whole=True))
def test_logs_are_bounded(life: Interpreter) -> None:
    life.lives(8)
    for each in life.log:
        assert len(each.after.errors) <= KEPT_ERRORS
        assert len(each.after.history) <= KEPT_ATTEMPTS
    attempts = [past.attempt for past in life.saga.history]
    assert attempts == sorted(set(attempts))


def test_a_message_is_cut_to_what_the_journal_keeps() -> None:
    life = Interpreter(all_steps(), seeded())
    life.start()
    first = ActivityName.VALIDATE_REQUEST
    for fact in (
        Pulsed(first, "x" * 5000),
        TryFailed(first, "x" * 5000, START),
        ActivityFailed(first, "x" * 5000, best_effort=False),
    ):
        life.happen(fact)
        texts = [row.message for row in life.saga.timeline] + [each.message for each in life.saga.errors]
        run = life.saga.run
        assert run is not None
        texts += [run.error or "", run.heartbeat.detail if run.heartbeat else ""]
        assert max(map(len, texts)) <= MESSAGE_LIMIT


@some
@given(finished_runs())
def test_a_takeover_gives_the_running_activity_its_whole_time_again_a_few_times(life: Interpreter) -> None:
    for each in taken_over(life.log):
        run = each.after.run
        assert run is not None
        assert (run.worker, run.fence, run.resumed_at) == (each.worker.id, each.worker.fence, each.now)
        row, before = each.after.in_hand, each.before.in_hand
        if row is None or before is None:
            continue
        assert row.takeovers == before.takeovers + 1
        fresh = row.takeovers <= life.steps[row.activity].max_takeovers
        assert row.resumed_at == (each.now if fresh else before.resumed_at)


@given(seconds, seconds, st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_backoff_lies_in_the_upper_half_of_the_exponential(
    initial: timedelta, maximum: timedelta, failed: int, jitter: float
) -> None:
    whole = min(initial * 2 ** min(failed - 1, 20), maximum)
    pause = RetryPolicy(initial=initial, maximum=maximum).backoff(failed, jitter)
    assert whole / 2 - timedelta(microseconds=1) <= pause <= whole
    assert pause <= maximum


def running(**changes: object) -> Interpreter:
    """A saga whose first activity runs."""
    life = Interpreter(all_steps(**changes), seeded())
    life.start()
    return life


def test_an_error_that_heals_is_tried_again_within_the_budget() -> None:
    life = running(retry=RetryPolicy(max_tries=3))
    first = life.steps[ActivityName.VALIDATE_REQUEST]
    seen = []
    while life.saga.row(first.activity).state is RowState.RUNNING:
        fact = life.failure(first.activity, Unavailable("busy"))
        seen.append(type(fact))
        life.happen(fact)
    assert seen == [TryFailed, TryFailed, ActivityFailed]
    assert life.saga.run is not None
    assert life.saga.run.error == "busy (gave up after 3 tries)"


def test_an_outage_is_sat_out_until_the_timeout_however_many_tries_that_takes() -> None:
    retry = RetryPolicy(max_tries=1, initial=timedelta(seconds=1), maximum=timedelta(seconds=4))
    life = running(retry=retry, timeout=timedelta(seconds=60))
    first = ActivityName.VALIDATE_REQUEST
    pauses = []
    while life.saga.row(first).state is RowState.RUNNING:
        fact = life.failure(first, Outage("PostgreSQL: connection refused"), 0.99)
        life.happen(fact)
        if isinstance(fact, TryFailed):
            pauses.append(round((fact.next_try_at - life.now).total_seconds()))
            life.sleep((fact.next_try_at - life.now).total_seconds())
    assert pauses[:4] == [1, 2, 4, 4], "growing pauses"
    assert len(pauses) > 10
    assert (life.now - START).total_seconds() == pytest.approx(58, abs=0.1), (
        "the last try is shortly before the deadline"
    )
    assert life.saga.run is not None
    assert life.saga.run.error == f"timed out after 60 s: PostgreSQL: connection refused ({len(pauses) + 1} tries)"


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 4))
def test_outages_use_up_nothing_of_the_budget_for_the_sagas_own_errors(outages: list[bool], budget: int) -> None:
    life = running(retry=RetryPolicy(max_tries=budget), timeout=timedelta(days=1))
    first = ActivityName.VALIDATE_REQUEST
    own = 0
    for outage in outages:
        life.happen(life.failure(first, Outage("away") if outage else Unavailable("busy")))
        own += not outage
        row = life.saga.row(first)
        assert (row.state is RowState.RUNNING) == (own < budget)
        if row.state is not RowState.RUNNING:
            return
        assert (row.tries, row.spent) == (row.outages + own, own)


def test_an_outage_uses_up_nothing_of_the_budget_of_a_compensation_and_is_no_reason_to_slow_down() -> None:
    life = undoing()
    first = life.steps[ActivityName.VALIDATE_REQUEST]
    for number in range(8):
        fact = life.failure(first.activity, Outage("away"))
        assert isinstance(fact, CompensationTryFailed)
        assert (fact.stalled, fact.tries, fact.outages) == (False, number + 1, number + 1)
        life.happen(fact)
    life.sleep(first.timeout.total_seconds())
    fact = life.failure(first.activity, Outage("away"))
    assert isinstance(fact, CompensationTryFailed)
    assert fact.stalled, "told when its time is over"
    assert fact.next_try_at is not None
    assert fact.next_try_at - life.now < first.retry.stalled_every


def test_an_error_that_cannot_heal_is_not_tried_again() -> None:
    life = running()
    first = life.steps[ActivityName.VALIDATE_REQUEST]
    fact = life.failure(first.activity, Rejected("no"))
    assert fact == ActivityFailed(first.activity, "no", best_effort=False)


def test_a_pause_that_would_pass_the_deadline_ends_before_it_with_a_last_try() -> None:
    life = running(timeout=timedelta(seconds=10), retry=RetryPolicy(max_tries=9, initial=timedelta(seconds=20)))
    first = life.steps[ActivityName.VALIDATE_REQUEST]
    fact = life.failure(first.activity, Unavailable("busy"))
    assert isinstance(fact, TryFailed)
    assert fact.next_try_at == START + timedelta(seconds=9)
    life.happen(fact)
    life.sleep(9)
    assert isinstance(life.decision(), Act)
    assert life.failure(first.activity, Unavailable("busy")) == ActivityFailed(
        first.activity, "timed out after 10 s: busy (2 tries)", best_effort=False
    )


def test_what_an_unexpected_error_says_of_a_password_stays_out_of_the_journal() -> None:
    life = running()
    first = life.steps[ActivityName.VALIDATE_REQUEST]
    leaky = RuntimeError("connection to postgresql://tenant_a:s3cr3t@db:5432/a failed")
    fact = life.failure(first.activity, leaky)
    assert isinstance(fact, TryFailed)
    assert "RuntimeError" in fact.error
    assert "s3cr3t" not in fact.error


def undoing() -> Interpreter:
    """A saga that undoes its first activity."""
    life = running(retry=RetryPolicy(max_tries=2), timeout=timedelta(seconds=60))
    life.reverse()
    return life


def test_a_compensation_whose_budget_is_spent_is_stalled_and_goes_on_slowly() -> None:
    life = undoing()
    first = life.steps[ActivityName.VALIDATE_REQUEST]
    facts = []
    for _ in range(4):
        fact = life.failure(first.activity, Unavailable("busy"), 0.5)
        assert isinstance(fact, CompensationTryFailed)
        facts.append(fact)
        life.happen(fact)
        assert (is_stalled(life.saga, life.steps) is not None) == fact.stalled
        assert fact.next_try_at is not None
        decision = life.decision()
        assert isinstance(decision, Wait)
        assert at(decision.until) - fact.next_try_at < timedelta(milliseconds=1)
        life.sleep(decision.until - life.moment.elapsed + 0.001)
        assert isinstance(life.decision(), Undo)
    assert [fact.stalled for fact in facts] == [False, True, True, True]
    assert [fact.repeated for fact in facts] == [False, False, True, True]
    second, third = facts[1].next_try_at, facts[2].next_try_at
    assert second is not None
    assert third is not None
    assert abs(third - second - first.retry.stalled_every) < timedelta(seconds=1)


def test_a_stalled_compensation_forgets_nothing() -> None:
    life = Interpreter(all_steps(retry=RetryPolicy(max_tries=1)), seeded(), eventful=0)
    life.start()
    while life.saga.row(ActivityName.ALLOCATE_NAMESPACE).state is not RowState.RUNNING:
        life.turn()
    life.reverse()
    namespace = life.steps[ActivityName.ALLOCATE_NAMESPACE]
    life.happen(life.failure(namespace.activity, Rejected("forbidden")))
    assert [entry.state for entry in life.saga.ledger] == [EntryState.RELEASE_FAILED]
    assert life.saga.run is not None
    assert not life.saga.run.finished


def test_a_best_effort_step_that_fails_does_not_turn_the_run() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    life.start()
    last = ActivityName.SEND_WELCOME_EMAILS
    while life.saga.row(last).state is not RowState.RUNNING:
        life.turn()
    life.happen(life.failure(last, Rejected("no such mailbox")))
    assert life.saga.run is not None
    assert life.saga.run.outcome is Outcome.COMPLETED
    assert life.saga.row(last).state is RowState.FAILED
    assert [each.message for each in life.saga.errors] == ["no such mailbox"]


def test_a_timeout_names_its_last_cause() -> None:
    life = running(timeout=timedelta(seconds=30))
    first = ActivityName.VALIDATE_REQUEST
    life.happen(Pulsed(first, "pod auth-0: CrashLoopBackOff"))
    life.sleep(30)
    life.happen()
    assert life.saga.errors[-1].message == "timed out after 30 s: pod auth-0: CrashLoopBackOff"


def test_a_timeout_names_its_last_cause_even_if_a_try_failed_before() -> None:
    life = running(timeout=timedelta(minutes=10))
    first = ActivityName.VALIDATE_REQUEST
    life.happen(life.failure(first, Unavailable("API server is busy")))
    life.sleep(300)  # long past the pause: the second try runs, and waits for something else
    life.happen(Pulsed(first, "pod auth-0: CrashLoopBackOff"))
    life.sleep(300)
    life.happen()
    assert "CrashLoopBackOff" in life.saga.errors[-1].message


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_failed_attempts_are_counted_by_activity_until_one_completes(failures: int) -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    first = ActivityName.VALIDATE_REQUEST
    for _ in range(failures):
        life.start(reason=RunReason.RETRIED)
        life.happen(ActivityFailed(first, "no", best_effort=False))
        life.run()
    assert dict(life.saga.failures) == {first: failures}
    life.start(reason=RunReason.RETRIED)
    life.run()
    assert not life.saga.failures
    assert life.saga.attempt == failures + 1


@some
@given(finished_runs())
def test_no_activity_completes_twice(life: Interpreter) -> None:
    completed = Counter(each.fact.activity for each in life.log if isinstance(each.fact, ActivityCompleted))
    assert set(completed.values()) <= {1}


def test_a_new_run_of_a_running_saga_closes_the_old_one() -> None:
    life = running()
    life.start(Kind.RELEASE, RunReason.DELETED)
    assert [past.attempt for past in life.saga.history] == [1]
    assert life.saga.run is not None
    assert life.saga.run.kind is Kind.RELEASE
    assert life.saga.run.worker == A_WORKER.id
