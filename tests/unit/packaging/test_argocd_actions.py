"""What Argo CD offers to do with a Tenant: as the rules have it in every state, and what each action changes."""

import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tenant_operator.admission.rules import ask_of, check_action, check_edit
from tenant_operator.api.names import ANNOTATION_ACTION, Action
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.saga.facts import Fact, RequestTaken, RunStarted
from tenant_operator.saga.model import Saga
from tenant_operator.saga.sight import last_sign_of_life, seems_held
from tenant_operator.tenants.journal import decode
from tenant_operator.tenants.lifecycle import demand, take_request
from tenant_operator.tenants.standing import Standing
from tenant_operator.tenants.status import project
from tests.unit.packaging.argocd import ACTIONS, DISCOVERY
from tests.unit.packaging.lua import Sandbox
from tests.unit.saga.interpreter import START, Interpreter, interpreters
from tests.unit.tenants.a_tenant import NAMES, new_id, tenant
from tests.unit.tenants.tenant_states import NOW, Object, tenant_states

ONE_SHOT = {"cancel", "retry", "reset"}
ZONES = (UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11)))
EXPECTED = {
    # Its heartbeat lies far in the future: whether its worker lives is for the operator to say.
    "provisioning-alive": "cancel reset suspend decommission",
    "created": "suspend decommission reset",
    "created-without-status": "suspend decommission reset",
    "pending": "suspend decommission reset",
    "pending-cancelled": "retry reset decommission",
    "pending-cancelled-refused-cancel": "retry reset decommission",
    "pending-cancelled-wanted-suspended": "retry reset resume decommission",
    "provisioning-wanted-suspended": "cancel resume decommission",
    "provisioning-rolling-back-decommissioned": "cancel suspend",
    "active-suspending": "resume decommission",
    "active-suspending-begun": "resume decommission",
    "active-suspending-failed": "resume decommission",
    "active-degraded-suspending": "resume decommission",
    "suspended-degraded": "resume decommission",
    "suspended": "resume decommission",
    "suspended-from-the-start": "resume decommission",
    "suspended-rolling-out": "resume decommission",
    "suspended-refused-cancel": "resume decommission",
    "suspended-upkeep-failed": "resume decommission",
    "failed-wanted-suspended": "retry reset resume decommission",
    "decommissioning": "",
    "decommissioning-retrying": "",
    "decommissioning-stuck": "",
    "decommissioning-wanted-active": "decommission",
    "decommissioned": "recreate",
    "decommissioned-from-cancelled": "recreate",
    "decommissioned-refused-retry": "recreate",
    "decommissioned-wanted-suspended": "recreate decommission",
    "active-unseen-suspend": "resume decommission",
    "active-unseen-decommission": "suspend",
    "failed-unseen-decommission": "reset",
    "decommissioned-unseen-recreate": "decommission",
    "provisioning-cancel-asked": "suspend decommission",
    "failed-retry-asked": "decommission",
    "cancelled-retry-asked": "decommission",
}
"""While the worker of a run is alive. Of what is not here, the state alone decides:"""
BY_STATE = {
    "Provisioning": "cancel suspend decommission",
    "Active": "suspend decommission",
    "Suspended": "suspend decommission",  # about to be resumed
    "Failed": "retry reset decommission",
}
STATES = tenant_states()
SANDBOXES = {name: Sandbox(script) for name, script in ACTIONS.items()}
INTENT = {"suspend": "Suspended", "resume": "Active", "recreate": "Active", "decommission": "Decommissioned"}


def is_deleting(state: Object) -> bool:
    return "deletionTimestamp" in state["metadata"]


@pytest.mark.parametrize("name", STATES)
def test_every_state_of_a_tenant(name: str) -> None:
    state = STATES[name]
    expected = EXPECTED.get(name, BY_STATE.get(state.get("status", {}).get("state", ""), "?"))

    enabled = Sandbox(DISCOVERY, now=START).enabled(state)

    assert enabled == ([] if is_deleting(state) else sorted(expected.split()))


def test_the_table_is_about_states_that_there_are() -> None:
    assert EXPECTED.keys() <= STATES.keys()


# The rules of the domain are the measure: an action is enabled if they would accept what it asks, and it changes
# anything, but for what `withheld` says.


def withheld(old: Tenant) -> Iterator[str]:
    """What is not offered though it would be accepted, because it helps nobody."""
    if old.metadata.deletion_timestamp is not None:
        yield from ACTIONS
    if ANNOTATION_ACTION in old.metadata.annotations:
        yield from ONE_SHOT
    going = old.status.state is TenantState.DECOMMISSIONING
    if going or (old.spec.desired_state is DesiredState.DECOMMISSIONED and not is_released(old)):
        yield from ("resume", "recreate")  # nothing is there to go on with, and nothing is gone yet to make anew


def is_released(tenant: Tenant) -> bool:
    return tenant.status.state is TenantState.DECOMMISSIONED


def changed(state: Object, action: str) -> Object:
    """The object as the action leaves it, as far as the API server stores it."""
    return SANDBOXES[action].action(state)


def accepted(old: Tenant, new: Tenant, now: datetime) -> bool:
    """Whether admission would let the change through, roles and plan apart, and the operator grant it."""
    ask = ask_of(old, new)
    verdict = ask.is_anything and check_action(ask, now) is None and check_edit(ask) is None
    if ask.action is not None:
        assert _granted(new, now) is verdict, "admission and the operator are of two minds"
    return verdict


def _granted(new: Tenant, now: datetime) -> bool:
    taken = take_request(new, new_id(), now)
    assert taken is not None
    (request,) = (fact for fact in _facts(taken, now) if isinstance(fact, RequestTaken))
    return request.request.accepted


def _facts(tenant: Tenant, now: datetime) -> list[Fact]:
    saga = decode(tenant.status)
    return demand(tenant, saga, new_id, held=seems_held(saga.run, now))


def allowed(state: Object, now: datetime) -> list[str]:
    """The actions that should be enabled."""
    old = Tenant.model_validate(state)
    result = []
    for action in sorted(ACTIONS.keys() - set(withheld(old))):
        new = Tenant.model_validate(changed(state, action))
        if not accepted(old, new, now):
            continue
        anew = any(isinstance(fact, RunStarted) for fact in _facts(new, now))
        if action in {"resume", "recreate"} and anew is (action == "resume"):
            continue  # both ask for Active: the one goes on with what is there, the other begins anew
        result.append(action)
    return result


@pytest.mark.parametrize("zone", ZONES, ids=str)
@pytest.mark.parametrize("now", [START, NOW], ids=["alive", "silent"])
@pytest.mark.parametrize("name", [name for name in STATES if not name.startswith("created")])
def test_what_is_enabled_is_what_the_rules_accept(name: str, now: datetime, zone: timezone) -> None:
    state = STATES[name]

    assert Sandbox(DISCOVERY, now=now, zone=zone).enabled(state) == allowed(state, now)


def last_heard(state: Object) -> datetime | None:
    run = decode(Tenant.model_validate(state).status).run
    return None if run is None else last_sign_of_life(run)


@settings(max_examples=40, deadline=None)
@given(interpreters(whole=True), st.integers(0, 3), st.sampled_from(DesiredState), st.data())
def test_in_any_life_what_is_enabled_is_what_the_rules_accept(
    life: Interpreter, runs: int, desired: DesiredState, data: st.DataObject
) -> None:
    told: list[tuple[Object, datetime]] = []

    def journal(_before: Saga, _facts: list[Fact], now: datetime) -> None:
        record = tenant(desired=desired)
        standing = Standing(suspended=desired is DesiredState.SUSPENDED)
        status = project(record, NAMES, life.saga, life.steps, [], now, standing=standing)
        told.append((record.model_copy(update={"status": status}).to_wire(), now))

    life.journalled = journal
    life.lives(runs)
    for _ in range(10):
        state, now = data.draw(st.sampled_from(told))
        state = copy.deepcopy(state)
        state["spec"]["desiredState"] = data.draw(st.sampled_from(DesiredState)).value
        if data.draw(st.booleans()):
            state["metadata"].setdefault("annotations", {})[ANNOTATION_ACTION] = data.draw(st.sampled_from(Action))
        if data.draw(st.integers(0, 4)) == 0:
            state["metadata"]["deletionTimestamp"] = "2026-11-21T06:00:00Z"
        # Argo CD's clock shows whole seconds; and at the very limit it errs on the safe side, which is not the point.
        moment = (now + timedelta(seconds=data.draw(st.sampled_from([0, 20, 29, 31, 600])))).replace(microsecond=0)
        assume(moment - timedelta(seconds=30) != last_heard(state))
        assert Sandbox(DISCOVERY, now=moment).enabled(state) == allowed(state, moment)


# What an action changes.


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_changes_what_it_is_to_change_and_nothing_else(action: str, name: str) -> None:
    before = STATES[name]
    expected = copy.deepcopy(before)
    if action in ONE_SHOT:
        expected["metadata"].setdefault("annotations", {})["intelliauth.io/action"] = action
    else:
        expected["spec"]["desiredState"] = INTENT[action]

    assert changed(before, action) == expected


@pytest.mark.parametrize("action", ACTIONS)
def test_what_another_hand_put_there_stays(action: str) -> None:
    before = copy.deepcopy(STATES["active"])
    before["metadata"]["annotations"] = {"example.com/note": "keep me"}
    before["metadata"]["labels"] = {}
    before["metadata"]["managedFields"] = [{"manager": "argocd", "fieldsV1": {"f:spec": {".": {}, "f:plan": {}}}}]

    after = changed(before, action)

    assert after["metadata"]["annotations"].pop("intelliauth.io/action", None) == (
        action if action in ONE_SHOT else None
    )
    assert {**after, "spec": None} == {**before, "spec": None}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("annotations", [None, {}], ids=["none", "empty"])
def test_a_tenant_with_next_to_nothing_in_it(action: str, annotations: Object | None) -> None:
    bare: Object = {"kind": "Tenant", "metadata": {"name": "banking"}, "spec": {"plan": "starter"}}
    if annotations is not None:
        bare["metadata"]["annotations"] = annotations

    after = changed(bare, action)

    if action in ONE_SHOT:
        assert after["metadata"]["annotations"] == {"intelliauth.io/action": action}
        assert after["spec"] == {"plan": "starter"}
    else:
        assert after["spec"] == {"plan": "starter", "desiredState": INTENT[action]}
        assert after["metadata"] == bare["metadata"]


def test_a_tenant_without_desired_state_is_wanted_active() -> None:
    state = copy.deepcopy(STATES["active"])
    del state["spec"]["desiredState"]

    assert Sandbox(DISCOVERY).enabled(state) == ["decommission", "suspend"]


def test_every_action_that_is_offered_can_be_run() -> None:
    offered = Sandbox(DISCOVERY).discovery(STATES["active"])

    assert {each["name"] for each in offered} == ACTIONS.keys()
    assert all(each["displayName"] and each["iconClass"].startswith("fa fa-fw fa-") for each in offered)
