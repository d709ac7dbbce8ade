"""What may be asked of a tenant in which state, what it sets off, and that it is done once."""

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenant_operator.api.names import ANNOTATION_ACTION, Action, ActivityName
from tenant_operator.api.states import DesiredState, RunReason, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.saga.decide import fold
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import ActivityFailed, Fact, HistoryReset, RequestTaken, RunReversed, RunStarted
from tenant_operator.saga.model import Kind, RowState, Saga
from tenant_operator.tenants.lifecycle import demand, let_go, requested, state_of, structural_cause, take_request
from tenant_operator.tenants.standing import Standing
from tenant_operator.tenants.status import project
from tests.unit.saga.interpreter import A_WORKER, START, Interpreter, all_steps, interpreters, seeded
from tests.unit.tenants.a_tenant import NAMES, new_id, tenant


def living(until: str) -> Saga:
    """A saga in a state, by way of a life that leads there."""
    life = Interpreter(all_steps(), seeded(), eventful=0)
    if until == "new":
        return life.saga
    life.start()
    match until:
        case "provisioning":
            life.turn()
        case "rolling back":
            life.turn()
            life.happen(ActivityFailed(ActivityName.ALLOCATE_NAMESPACE, "no", best_effort=False))
        case "emailing":
            while life.saga.row(ActivityName.SEND_WELCOME_EMAILS).state is not RowState.RUNNING:
                life.turn()
        case "failed" | "reset":
            life.happen(ActivityFailed(ActivityName.VALIDATE_REQUEST, "no", best_effort=False))
            life.run()
            if until == "reset":
                life.happen(HistoryReset())
        case "cancelled":
            life.reverse()
            life.run()
        case "active" | "decommissioning" | "decommissioned":
            life.run()
            if until != "active":
                life.start(Kind.RELEASE, RunReason.DECOMMISSIONED)
            if until == "decommissioned":
                life.run()
    return life.saga


STATES = {
    "new": TenantState.PENDING,
    "provisioning": TenantState.PROVISIONING,
    "rolling back": TenantState.PROVISIONING,
    "emailing": TenantState.ACTIVE,
    "active": TenantState.ACTIVE,
    "failed": TenantState.FAILED,
    "reset": TenantState.FAILED,
    "cancelled": TenantState.PENDING,
    "decommissioning": TenantState.DECOMMISSIONING,
    "decommissioned": TenantState.DECOMMISSIONED,
}
ACCEPTED: dict[tuple[str, str], list[type]] = {
    ("provisioning", "cancel"): [RunReversed],
    ("rolling back", "cancel"): [],
    ("failed", "retry"): [RunStarted],
    ("reset", "retry"): [RunStarted],
    ("cancelled", "retry"): [RunStarted],
    ("new", "reset"): [HistoryReset],
    ("failed", "reset"): [HistoryReset],
    ("reset", "reset"): [HistoryReset],
    ("cancelled", "reset"): [HistoryReset],
}


@pytest.mark.parametrize("life", STATES)
def test_the_journal_tells_the_state(life: str) -> None:
    assert state_of(living(life), suspended=False) is STATES[life]
    if STATES[life] is TenantState.ACTIVE:
        assert state_of(living(life), suspended=True) is TenantState.SUSPENDED


def asked(record: Tenant, saga: Saga) -> list[Fact]:
    return demand(record, saga, new_id, held=True)


def after(saga: Saga, facts: list[Fact], worker: Worker = A_WORKER) -> Saga:
    return fold(saga, facts, all_steps(), START + timedelta(minutes=5), worker)


def with_request(action: str, **kind: object) -> Tenant:
    taken = take_request(tenant(action=action, **kind), new_id(), START)  # type: ignore[arg-type]
    assert taken is not None
    return taken


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("life", STATES)
def test_a_request_is_granted_once_or_refused_with_what_is_allowed(life: str, action: str) -> None:
    desired = DesiredState.DECOMMISSIONED if life.startswith("decommission") else DesiredState.ACTIVE
    record, saga = with_request(action, desired=desired), living(life)
    facts = asked(record, saga)
    verdict = facts[-1]
    assert isinstance(verdict, RequestTaken)
    assert verdict.request.requested_by == "alice"
    if (effect := ACCEPTED.get((life, action))) is not None:
        assert [type(fact) for fact in facts] == [*effect, RequestTaken]
        assert verdict.request.accepted
        for fact in facts:
            if isinstance(fact, RunStarted | RunReversed):
                assert fact.requested_by == "alice"
    else:
        assert len(facts) == 1
        assert not verdict.request.accepted
        assert any(hint in verdict.request.message for hint in ("Allowed now:", "first", "Wait until"))
    granted = after(saga, facts)
    assert not any(isinstance(fact, RequestTaken) for fact in asked(record, granted)), "carried out twice"


def test_an_unknown_action_is_refused_by_name() -> None:
    (verdict,) = asked(with_request("explode"), living("failed"))
    assert isinstance(verdict, RequestTaken)
    assert not verdict.request.accepted
    assert "unknown action 'explode': use cancel, retry or reset" in verdict.request.message


@pytest.mark.parametrize(
    ("life", "kinds"),
    [
        ("new", [RunStarted]),
        ("provisioning", [RunReversed]),
        ("rolling back", []),
        ("emailing", [RunStarted]),
        ("active", [RunStarted]),
        ("failed", [RunStarted]),
        ("reset", [RunStarted]),
        ("cancelled", [RunStarted]),
        ("decommissioning", []),
        ("decommissioned", []),
    ],
)
def test_decommissioned_is_asked_for_until_it_is_granted(life: str, kinds: list[type]) -> None:
    record, saga = tenant(desired=DesiredState.DECOMMISSIONED), living(life)
    facts = asked(record, saga)
    assert [type(fact) for fact in facts] == kinds
    assert all(fact.kind is Kind.RELEASE for fact in facts if isinstance(fact, RunStarted))
    assert asked(record, after(saga, facts)) == []


@pytest.mark.parametrize("life", STATES)
def test_a_deleted_tenant_is_released_from_every_state_and_then_let_go(life: str) -> None:
    record = tenant(deleted=START)
    machine = Interpreter(all_steps(), seeded(), eventful=0, saga=living(life), now=START + timedelta(hours=1))
    for _ in range(6):
        machine.happen(*asked(record, machine.saga))
        machine.run()
    assert let_go(machine.saga)
    assert machine.saga.ledger == ()
    assert asked(record, machine.saga) == []
    assert [type(fact) for fact in asked(with_request("retry", deleted=START), machine.saga)] == [RequestTaken]


@pytest.mark.parametrize("desired", [DesiredState.ACTIVE, DesiredState.SUSPENDED])
@pytest.mark.parametrize("life", STATES)
def test_nothing_starts_on_its_own_but_a_new_tenant_and_a_recreated_one(life: str, desired: DesiredState) -> None:
    facts = asked(tenant(desired=desired), living(life))
    started = [fact for fact in facts if isinstance(fact, RunStarted)]
    if life == "new" or (life == "decommissioned" and desired is DesiredState.ACTIVE):
        assert [fact.kind for fact in started] == [Kind.PROVISION]
        assert started[0].reason == (RunReason.CREATED if life == "new" else RunReason.RECREATED)
    else:
        assert started == []


def test_a_retry_counts_a_new_attempt_of_the_same_tenant() -> None:
    saga = living("failed")
    assert after(saga, asked(with_request("retry"), saga)).attempt == saga.attempt + 1


def test_a_reset_keeps_the_ledger_and_the_count_of_attempts() -> None:
    saga = living("cancelled")
    wiped = after(saga, asked(with_request("reset"), saga))
    assert (wiped.run, wiped.history, wiped.errors, wiped.timeline) == (None, (), (), ())
    assert (wiped.attempt, wiped.ledger) == (saga.attempt, saga.ledger)
    assert state_of(wiped, suspended=False) is TenantState.FAILED


def test_a_reset_is_refused_while_a_worker_lives_and_granted_when_none_does() -> None:
    saga, record = living("provisioning"), with_request("reset")
    soon = demand(record, saga, new_id, held=True)
    assert [type(fact) for fact in soon] == [RequestTaken]
    assert isinstance(soon[0], RequestTaken)
    assert "cancel it first" in soon[0].request.message
    late = demand(record, saga, new_id, held=False)
    assert [type(fact) for fact in late] == [HistoryReset, RequestTaken]


@pytest.mark.parametrize("blocked", [{"desired": DesiredState.DECOMMISSIONED}, {"deleted": START}])
def test_a_retry_against_the_lasting_intent_is_refused(blocked: dict[str, object]) -> None:
    (verdict,) = asked(with_request("retry", **blocked), living("failed"))
    assert isinstance(verdict, RequestTaken)
    assert not verdict.request.accepted


def test_the_action_is_moved_in_one_piece() -> None:
    record = tenant(action="cancel", other="kept")
    taken = take_request(record, "id-1", START)
    assert taken is not None
    assert ANNOTATION_ACTION not in taken.metadata.annotations
    assert taken.metadata.annotations["intelliauth.io/other"] == "kept"
    assert taken.metadata.resource_version == record.metadata.resource_version, "the write has to be guarded"
    request = requested(taken)
    assert request is not None
    assert (request.id, request.action, request.requested_by, request.requested_at) == (
        "id-1",
        "cancel",
        "alice",
        START,
    )
    assert take_request(taken, "id-2", START) is None


def test_the_same_command_can_be_given_again_later() -> None:
    first = with_request("cancel")
    saga = after(living("provisioning"), asked(first, living("provisioning")))
    again = take_request(tenant(action="cancel"), new_id(), START)
    assert again is not None
    assert isinstance(asked(again, saga)[-1], RequestTaken)


def test_a_request_that_was_not_carried_out_yet_is_not_overwritten() -> None:
    waiting = with_request("cancel")
    annotations = {**waiting.metadata.annotations, ANNOTATION_ACTION: "retry"}
    both = waiting.model_copy(update={"metadata": waiting.metadata.model_copy(update={"annotations": annotations})})
    taken = take_request(both, new_id(), START) or both
    assert requested(taken) == requested(waiting), "the cancel was lost without a word"


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
documents = st.dictionaries(
    st.sampled_from(["id", "action", "requestedBy", "requestedAt"]),
    scalars
    | st.sampled_from(["cancel", "2026-11-21T06:00:00+00:00", "2026-11-21T06:00:00"])
    | st.lists(scalars, max_size=2),
)


def carry_out(record: Tenant) -> None:
    """Journal whatever the tenant asks for."""
    saga = living("failed")
    facts = asked(record, saga)
    project(record, NAMES, after(saga, facts), all_steps(), [], START, standing=Standing())


@settings(max_examples=200, deadline=None)
@given(documents.map(json.dumps) | st.text(max_size=20))
def test_no_annotation_keeps_the_journal_from_being_written(text: str) -> None:
    carry_out(tenant(request=text))


@pytest.mark.parametrize("requested_at", ["2026-11-21T06:00:00", "2026-11-21"])
def test_a_request_with_a_time_of_no_zone_does_not_stop_the_journal(requested_at: str) -> None:
    carry_out(
        tenant(request=json.dumps({"id": "x", "action": "retry", "requestedBy": None, "requestedAt": requested_at}))
    )


def test_a_requester_that_is_no_text_does_not_stop_the_journal() -> None:
    carry_out(
        tenant(
            request=json.dumps(
                {"id": "x", "action": "retry", "requestedBy": 5, "requestedAt": "2026-11-21T06:00:00+00:00"}
            )
        )
    )


def test_three_failed_attempts_at_one_activity_are_structural() -> None:
    life = Interpreter(all_steps(), seeded(), eventful=0)
    for attempt in range(3):
        assert structural_cause(life.saga) is None, attempt
        life.start(reason=RunReason.RETRIED)
        life.happen(ActivityFailed(ActivityName.VALIDATE_REQUEST, "no", best_effort=False))
        life.run()
    assert structural_cause(life.saga) == ActivityName.VALIDATE_REQUEST


@settings(max_examples=20, deadline=None)
@given(interpreters(whole=True), st.sampled_from(DesiredState), st.booleans())
def test_demand_is_empty_once_granted_in_every_state_of_a_life(
    life: Interpreter, desired: DesiredState, deleted: bool
) -> None:
    record = tenant(desired=desired, deleted=START if deleted else None)
    life.lives(2)
    for each in life.log:
        facts = demand(record, each.after, new_id, held=True)
        saga = fold(each.after, facts, life.steps, each.now, each.worker)
        assert demand(record, saga, new_id, held=True) == []
