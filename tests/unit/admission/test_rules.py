"""What may be asked of a Tenant in which state, and with which role: rule by rule."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.admission.rules import (
    CONFLICT,
    INVALID,
    Refusal,
    Verb,
    ask_of,
    check_action,
    check_edit,
    check_finalizer,
    claims_host,
    concerns_offer,
    may_always,
    needed,
    not_allowed,
    organization_in_use,
    plan_in_use,
    stamps,
    users_of_plan,
)
from tenant_operator.api.meta import OwnerReference
from tenant_operator.api.names import ANNOTATION_ACTION, ANNOTATION_REQUEST, ANNOTATION_REQUESTED_BY, FINALIZER
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Caller

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HELD = [
    {
        "kind": "Namespace",
        "name": "tenant-banking-cymmetri",
        "activity": "allocate-namespace",
        "state": "Allocated",
        "since": NOON.isoformat(),
        "reservedAt": NOON.isoformat(),
    }
]


def a_tenant(
    state: str = "Active",
    desired: str = "Active",
    *,
    action: str | None = None,
    attempt: int = 1,
    held: bool = False,
    deleting: bool = False,
    name: str = "banking",
    run: Mapping[str, Any] | None = None,
    finalizers: tuple[str, ...] = (FINALIZER,),
    **spec: object,
) -> Tenant:
    return Tenant.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "cymmetri",
                "uid": "u1",
                "annotations": {ANNOTATION_ACTION: action} if action is not None else {},
                "deletionTimestamp": NOON if deleting else None,
                "finalizers": finalizers,
            },
            "spec": {
                "organization": "cymmetri",
                "plan": "starter",
                "admin": {"email": "admin@cymmetri.example"},
                "desiredState": desired,
                **spec,
            },
            "status": {"state": state, "attempt": attempt, "allocations": HELD if held else [], "run": run},
        }
    )


def a_run(heartbeat: datetime) -> dict[str, Any]:
    return {
        "id": "r1",
        "attempt": 1,
        "kind": "Provision",
        "direction": "Forward",
        "reason": "Created",
        "startedAt": (NOON - timedelta(minutes=5)).isoformat(),
        "worker": "worker-a",
        "heartbeat": {"at": heartbeat.isoformat(), "activity": "wait-ready"},
    }


def action_refusal(old: Tenant, action: str) -> Refusal | None:
    annotations = {ANNOTATION_ACTION: action}
    new = old.model_copy(update={"metadata": old.metadata.model_copy(update={"annotations": annotations})})
    return check_action(ask_of(old, new), NOON)


# The verbs of the roles.


@pytest.mark.parametrize(
    ("old", "new", "verbs"),
    [
        (None, a_tenant(), ("provision",)),
        (None, a_tenant(desired="Suspended"), ("provision", "suspend")),
        (None, a_tenant(desired="Decommissioned"), ("decommission", "provision")),
        (a_tenant(), a_tenant(desired="Suspended"), ("suspend",)),
        (a_tenant(desired="Suspended"), a_tenant(), ("suspend",)),
        (a_tenant(), a_tenant(desired="Decommissioned"), ("decommission",)),
        (a_tenant(desired="Decommissioned"), a_tenant(), ("provision",)),
        (a_tenant(desired="Decommissioned"), a_tenant(desired="Suspended"), ("suspend",)),
        (a_tenant(), a_tenant(action="cancel"), ("cancel",)),
        (a_tenant(), a_tenant(action="reset"), ("reset",)),
        (a_tenant(), a_tenant(action="retry"), ("provision", "retry")),
        (a_tenant(action="retry"), a_tenant(action="cancel"), ("cancel",)),
        (a_tenant(action="cancel"), a_tenant(action="cancel"), ()),
        (a_tenant(action="cancel"), a_tenant(), ()),
        (a_tenant(), a_tenant(desired="Suspended", action="cancel"), ("cancel", "suspend")),
        (a_tenant(), a_tenant(action="explode"), ()),
        (a_tenant(), a_tenant(displayName="other"), ()),
    ],
)
def test_what_a_write_asks_for_takes_these_verbs(old: Tenant | None, new: Tenant, verbs: tuple[str, ...]) -> None:
    assert ask_of(old, new).verbs == verbs


def test_a_write_that_touches_neither_spec_nor_action_asks_for_nothing() -> None:
    old = a_tenant(finalizers=(FINALIZER, "foregroundDeletion"))

    assert not ask_of(old, a_tenant()).is_anything
    assert ask_of(old, a_tenant(displayName="other")).is_anything
    assert ask_of(old, a_tenant(action="cancel")).is_anything


@pytest.mark.parametrize(
    ("old", "new", "begins", "joins"),
    [
        (None, a_tenant(), True, True),
        (a_tenant(desired="Decommissioned"), a_tenant(), True, True),
        (a_tenant("Failed"), a_tenant("Failed", action="retry"), True, False),
        (a_tenant(), a_tenant(desired="Suspended"), False, False),
        (a_tenant(), a_tenant(plan="pro"), False, False),
    ],
)
def test_what_begins_a_provisioning_answers_for_the_whole_request(
    old: Tenant | None, new: Tenant, begins: bool, joins: bool
) -> None:
    ask = ask_of(old, new)

    assert (ask.begins, ask.joins) == (begins, joins)


def test_only_what_changes_plan_or_region_or_begins_concerns_the_offer() -> None:
    assert concerns_offer(ask_of(a_tenant(), a_tenant(region="eu-1")))
    assert concerns_offer(ask_of(a_tenant(), a_tenant(plan="pro")))
    assert concerns_offer(ask_of(None, a_tenant()))
    assert not concerns_offer(ask_of(a_tenant(), a_tenant(displayName="other")))


def test_a_missing_verb_is_named_with_the_way_to_get_it() -> None:
    refusal = not_allowed(Caller("bob"), ["provision", "retry"], "cymmetri")

    assert refusal.code == 403
    assert refusal.message == (
        "user 'bob' lacks the verb 'provision' and 'retry' on tenants.intelliauth.io in namespace cymmetri; "
        "an owner can give a role that has it: see spec.members of the Organization"
    )


def test_only_the_controllers_of_the_cluster_need_no_role() -> None:
    assert may_always(Caller("system:serviceaccount:kube-system:x", ("system:serviceaccounts:kube-system",)))
    assert may_always(Caller("system:kube-controller-manager"))
    assert not may_always(Caller("alice", ("system:serviceaccounts",)))


# The one-shot requests.

_STATES = {
    "Pending (new)": a_tenant("Pending", attempt=0),
    "Pending": a_tenant("Pending"),
    "Provisioning": a_tenant("Provisioning", run=a_run(NOON)),
    "Active": a_tenant("Active"),
    "Suspended": a_tenant("Suspended", "Suspended"),
    "Failed": a_tenant("Failed"),
    "Decommissioning": a_tenant("Decommissioning", "Decommissioned"),
    "Decommissioned": a_tenant("Decommissioned", "Decommissioned"),
}
_LEGAL = {
    "cancel": {"Provisioning"},
    "retry": {"Pending", "Failed"},
    "reset": {"Pending (new)", "Pending", "Failed"},
}


@pytest.mark.parametrize("action", _LEGAL)
@pytest.mark.parametrize("state", _STATES)
def test_a_request_is_admitted_in_its_states_and_refused_in_all_others(state: str, action: str) -> None:
    refusal = action_refusal(_STATES[state], action)

    if state in _LEGAL[action]:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.code == INVALID
        assert refusal.message.startswith(f"metadata.annotations[intelliauth.io/action] '{action}': ")


def test_a_refused_request_says_what_is_allowed_instead() -> None:
    refusal = action_refusal(a_tenant("Active"), "cancel")

    assert refusal is not None
    assert refusal.message.endswith("Allowed now: desiredState: Suspended or Decommissioned.")


@pytest.mark.parametrize(("silent_for", "admitted"), [(29, False), (30, True)])
def test_a_running_saga_can_be_reset_once_its_worker_is_silent(silent_for: int, admitted: bool) -> None:
    tenant = a_tenant("Provisioning", run=a_run(NOON - timedelta(seconds=silent_for)))

    refusal = action_refusal(tenant, "reset")

    assert (refusal is None) is admitted
    assert refusal is None or "cancel it first" in refusal.message


@pytest.mark.parametrize("action", ["", "Cancel", "cancel ", "explode", "x" * 5000])
def test_an_unknown_action_is_refused_with_those_that_there_are(action: str) -> None:
    refusal = action_refusal(a_tenant("Provisioning", run=a_run(NOON)), action)

    assert refusal is not None
    assert refusal.message.endswith("there is no such action; use cancel, retry, reset")
    assert len(refusal.message) < 300


def test_a_tenant_is_not_created_with_a_request() -> None:
    refusal = check_action(ask_of(None, a_tenant("Pending", attempt=0, action="retry")), NOON)

    assert refusal is not None
    assert "leave the annotation out" in refusal.message


def test_a_retry_goes_with_the_intent_that_is_written_with_it() -> None:
    old = a_tenant("Failed", "Decommissioned")

    assert check_action(ask_of(old, a_tenant("Failed", "Active", action="retry")), NOON) is None
    assert check_action(ask_of(old, a_tenant("Failed", "Decommissioned", action="retry")), NOON) is not None


# The lasting intent, and other edits.

_CAN_BE_SUSPENDED = {"Pending (new)", "Provisioning", "Active", "Suspended"}


@pytest.mark.parametrize("state", _STATES)
def test_only_what_serves_or_is_on_the_way_there_can_be_suspended(state: str) -> None:
    old = _STATES[state].model_copy(
        update={"spec": _STATES[state].spec.model_copy(update={"desired_state": DesiredState.ACTIVE})}
    )
    new = old.model_copy(update={"spec": old.spec.model_copy(update={"desired_state": DesiredState.SUSPENDED})})

    refusal = check_edit(ask_of(old, new))

    assert (refusal is None) is (state in _CAN_BE_SUSPENDED)
    assert refusal is None or refusal.message.startswith("spec.desiredState 'Suspended': ")


@pytest.mark.parametrize("wanted", [DesiredState.ACTIVE, DesiredState.DECOMMISSIONED])
@pytest.mark.parametrize("state", _STATES)
def test_active_and_decommissioned_can_be_wanted_at_any_time(state: str, wanted: DesiredState) -> None:
    old = _STATES[state]
    new = old.model_copy(update={"spec": old.spec.model_copy(update={"desired_state": wanted})})

    assert check_edit(ask_of(old, new)) is None


def test_the_region_stays_while_something_is_held() -> None:
    refusal = check_edit(ask_of(a_tenant(held=True), a_tenant(held=True, region="eu-2")))

    assert refusal is not None
    assert refusal.message.startswith("spec.region 'eu-2': ")
    assert "set desiredState: Decommissioned" in refusal.message
    assert check_edit(ask_of(a_tenant("Failed"), a_tenant("Failed", region="eu-2"))) is None


@pytest.mark.parametrize("state", _STATES)
def test_the_plan_may_change_at_any_time(state: str) -> None:
    old = _STATES[state]
    new = old.model_copy(update={"spec": old.spec.model_copy(update={"plan": "pro"})})

    assert check_edit(ask_of(old, new)) is None


def test_the_name_and_the_admin_may_change_at_any_time() -> None:
    new = a_tenant(held=True, displayName="other", admin={"email": "new@cymmetri.example"})

    assert check_edit(ask_of(a_tenant(held=True), new)) is None


def test_a_tenant_that_is_being_deleted_can_be_edited() -> None:
    old, new = (a_tenant("Failed", held=True, deleting=True, plan=plan) for plan in ("starter", "pro"))

    assert check_edit(ask_of(old, new)) is None


def test_the_record_is_not_let_go_while_it_holds_something() -> None:
    refusal = check_finalizer(a_tenant(held=True), a_tenant(held=True, finalizers=()))

    assert refusal is not None
    assert "still held: Namespace" in refusal.message
    assert check_finalizer(a_tenant(), a_tenant(finalizers=())) is None


# Hosts.


@pytest.mark.parametrize(
    ("tenant", "claims"),
    [
        (a_tenant("Pending", attempt=0), True),
        (a_tenant("Pending", "Decommissioned", attempt=0), False),
        (a_tenant("Pending"), False),
        (a_tenant("Provisioning"), True),
        (a_tenant("Active"), True),
        (a_tenant("Suspended"), True),
        (a_tenant("Failed"), False),
        (a_tenant("Decommissioning"), True),
        (a_tenant("Decommissioned"), False),
    ],
)
def test_a_host_is_claimed_by_who_has_it_or_is_about_to(tenant: Tenant, claims: bool) -> None:
    assert claims_host(tenant) is claims


# Who asked.


def raw(annotations: object = None, desired: object = None, **metadata: object) -> dict[str, Any]:
    spec = {} if desired is None else {"desiredState": desired}
    return {"metadata": {"annotations": annotations, "finalizers": [FINALIZER], **metadata}, "spec": spec}


BY, ASKED = ANNOTATION_REQUESTED_BY, ANNOTATION_REQUEST


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(None, raw(), {BY: "alice"}, id="creation"),
        pytest.param(None, raw({BY: "bob", ASKED: "{}"}), {BY: "alice", ASKED: None}, id="forged at creation"),
        pytest.param(raw({BY: "bob"}), raw({BY: "bob"}, "Suspended"), {BY: "alice"}, id="another intent"),
        pytest.param(raw({BY: "bob"}), raw({BY: "bob"}, "Active"), {}, id="the intent that is the default"),
        pytest.param(raw({BY: "bob"}), raw({BY: "bob", ANNOTATION_ACTION: "x"}), {BY: "alice"}, id="a request"),
        pytest.param(raw({BY: "bob", ANNOTATION_ACTION: "x"}), raw({BY: "bob"}), {}, id="a request taken back"),
        pytest.param(raw({BY: "bob"}), raw({BY: "alice"}), {BY: "bob"}, id="claimed without asking for anything"),
        pytest.param(raw({BY: "bob"}), raw({BY: "carol"}, "Suspended"), {BY: "alice"}, id="forged with an intent"),
        pytest.param(raw({BY: "bob"}), raw(), {BY: "bob"}, id="removed"),
        pytest.param(raw(), raw({BY: "alice"}), {BY: None}, id="invented"),
        pytest.param(raw({ASKED: "1"}), raw({ASKED: "2"}), {ASKED: "1"}, id="the operator's own, changed"),
        pytest.param(raw({ASKED: "1"}), raw(), {ASKED: "1"}, id="the operator's own, removed"),
        pytest.param(raw({"a": "1"}), raw({"a": "2"}), {}, id="somebody else's annotation"),
    ],
)
def test_the_record_says_who_asked(old: dict[str, Any] | None, new: dict[str, Any], expected: dict[str, Any]) -> None:
    assert stamps(old, new, "alice") == ({"annotations": expected} if expected else {})


def test_the_finalizer_is_there_from_the_start_and_stays() -> None:
    patch = stamps(None, raw({}, finalizers=["other/one"]), "alice")
    assert patch["finalizers"] == ["other/one", FINALIZER]

    assert stamps(raw(), raw(finalizers=None), "alice") == {"finalizers": [FINALIZER]}
    assert stamps(raw(), raw(finalizers=[], deletionTimestamp="2026-01-01T00:00:00Z"), "alice") == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
annotations = st.dictionaries(st.sampled_from([BY, ASKED, ANNOTATION_ACTION, "other"]), st.text(max_size=5))
objects = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({}, optional={"annotations": annotations, "finalizers": st.just(["x"])}),
        "spec": json_values | st.fixed_dictionaries({"desiredState": json_values}),
    }
)


@given(old=st.none() | objects, new=objects)
def test_whatever_is_written_nobody_is_named_but_the_caller_or_who_was_before(
    old: dict[str, Any] | None, new: dict[str, Any]
) -> None:
    patch = stamps(old, new, "alice")

    written = {**(new["metadata"].get("annotations") or {}), **patch.get("annotations", {})}
    before = (old or {"metadata": {}})["metadata"].get("annotations") or {}
    assert written.get(BY) in ("alice", before.get(BY))
    assert written.get(ASKED) == before.get(ASKED)


# What the platform team removes.


def test_a_plan_in_use_names_some_of_its_tenants_and_how_many_there_are() -> None:
    many = [a_tenant(name=f"t{number:02d}") for number in range(13)]
    gone = a_tenant(TenantState.DECOMMISSIONED, name="gone")

    users = users_of_plan("starter", [*many, gone, a_tenant(name="other", plan="pro")])
    refusal = plan_in_use("starter", users, discreetly=False)

    assert refusal is not None
    assert refusal.code == CONFLICT
    listed = ", ".join(f"cymmetri/t{number:02d}" for number in range(10))
    assert refusal.message == (f"Plan 'starter' is used by 13 Tenants: {listed} and 3 more; decommission them first")
    assert users_of_plan("starter", [gone]) == []
    assert plan_in_use("starter", [], discreetly=False) is None


def test_an_organization_is_in_use_as_long_as_it_has_a_record() -> None:
    gone = [a_tenant(TenantState.DECOMMISSIONED, name="gone")]
    refusal = organization_in_use("cymmetri", gone, discreetly=False)

    assert refusal is not None
    assert refusal.message == ("Organization 'cymmetri' is used by 1 Tenant: cymmetri/gone; delete them first")
    assert organization_in_use("cymmetri", [], discreetly=False) is None


def test_who_may_not_see_tenants_learns_how_many_there_are_and_no_more() -> None:
    users = [a_tenant(name="secret"), a_tenant(name="hidden")]

    for refusal in (
        plan_in_use("starter", users, discreetly=True),
        organization_in_use("cymmetri", users, discreetly=True),
    ):
        assert refusal is not None
        assert "is used by 2 Tenants; " in refusal.message
        assert "secret" not in refusal.message and "cymmetri/" not in refusal.message


def test_an_owner_reference_needs_the_right_to_decommission() -> None:
    """The garbage collector deletes what belongs to an owner that is gone, or never was."""
    old = a_tenant()
    owner = OwnerReference(api_version="v1", kind="ConfigMap", name="gone", uid="gone")
    owned = old.model_copy(update={"metadata": old.metadata.model_copy(update={"owner_references": (owner,)})})

    assert ask_of(old, owned).is_anything
    assert Verb.DECOMMISSION in ask_of(old, owned).verbs
    assert Verb.DECOMMISSION in ask_of(None, owned).verbs
    assert not ask_of(owned, owned).is_anything


def test_the_garbage_collector_may_take_an_owner_off() -> None:
    old = a_tenant()
    owner = OwnerReference(api_version="v1", kind="ConfigMap", name="gone", uid="gone")
    owned = old.model_copy(update={"metadata": old.metadata.model_copy(update={"owner_references": (owner,)})})
    collector = Caller(
        "system:serviceaccount:kube-system:generic-garbage-collector", ("system:serviceaccounts:kube-system",)
    )

    assert needed(ask_of(owned, old), collector) == ()
    assert needed(ask_of(owned, old), Caller("alice")) == (Verb.DECOMMISSION,)
    assert needed(ask_of(old, a_tenant(desired="Suspended")), collector) == (Verb.SUSPEND,)
