"""What the status of Organizations and Plans says, and what it finds wrong."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenant_operator.api.conditions import ConditionType, Reason, find_condition, is_true
from tenant_operator.api.meta import Condition
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.catalog import organizations, plans
from tenant_operator.provisioning.findings import Finding, judged
from tenant_operator.provisioning.options import Options, RouteKind

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
WORKLOAD: dict[str, Any] = {"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 8080}]}
WAITING = Finding(Reason.NAMESPACE_NOT_FOUND, "namespace acme does not exist", waits=True)
WRONG = Finding(Reason.INVALID_MEMBER, "member x is none")


def a_tenant(state: TenantState, plan: str = "starter") -> Tenant:
    return Tenant.model_validate(
        {
            "metadata": {"name": "banking", "namespace": "acme"},
            "spec": {"organization": "acme", "plan": plan, "admin": {"email": "ann@acme.example"}},
            "status": {"state": state},
        }
    )


def an_organization(name: str = "acme", **spec: Any) -> Organization:
    return Organization.model_validate(
        {"metadata": {"name": name, "generation": 3}, "spec": {"namespace": "acme", **spec}}
    )


def a_plan(*workloads: dict[str, Any], **spec: Any) -> Plan:
    return Plan.model_validate(
        {"metadata": {"name": "starter", "generation": 4}, "spec": {"workloads": workloads or [WORKLOAD], **spec}}
    )


def said(conditions: tuple[Condition, ...]) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status.value, each.reason) for each in conditions}


def faults(plan: Plan, options: Options | None = None) -> list[str]:
    return [finding.message for finding in plans.findings_of(plan, options or Options())]


def test_nothing_wrong_is_ready_and_nothing_else() -> None:
    conditions = judged((), (), fine="all is well", generation=3, now=NOON)

    assert said(conditions) == {"Ready": ("True", "Reconciled")}
    assert conditions[0].message == "all is well"


def test_what_waits_is_reconciling_and_what_needs_a_person_is_stalled() -> None:
    assert said(judged((), [WAITING], fine="", generation=3, now=NOON)) == {
        "Ready": ("False", "NamespaceNotFound"),
        "Reconciling": ("True", "NamespaceNotFound"),
    }
    both = judged((), [WAITING, WRONG], fine="", generation=3, now=NOON)
    assert said(both) == {"Ready": ("False", "InvalidMember"), "Stalled": ("True", "InvalidMember")}
    assert both[0].message == "member x is none; namespace acme does not exist"


def test_a_message_of_any_length_is_stored_as_it_would_be_judged_again() -> None:
    endless = Finding(Reason.INVALID_MEMBER, "x" * 5000)

    first = judged((), [endless], fine="", generation=3, now=NOON)

    assert judged(first, [endless], fine="", generation=3, now=LATER) == first


@given(st.lists(st.lists(st.sampled_from([WAITING, WRONG]), max_size=2), max_size=6))
def test_ready_says_whether_anything_is_wrong_now_and_since_when(history: list[list[Finding]]) -> None:
    conditions: tuple[Condition, ...] = ()
    changed = NOON
    was: bool | None = None
    for minute, findings in enumerate(history):
        now = NOON + timedelta(minutes=minute)
        conditions = judged(conditions, findings, fine="", generation=minute, now=now)
        if was is not (not findings):
            was, changed = not findings, now
        ready = find_condition(conditions, ConditionType.READY)
        assert ready is not None
        assert is_true(conditions, ConditionType.READY) is (not findings)
        assert ready.last_transition_time == changed
        assert is_true(conditions, ConditionType.STALLED) is (WRONG in findings)
        assert is_true(conditions, ConditionType.RECONCILING) is (bool(findings) and WRONG not in findings)


@given(st.lists(st.sampled_from(TenantState)))
def test_every_tenant_is_counted_once(states: list[TenantState]) -> None:
    counts = organizations.tenants_by_state(a_tenant(state) for state in states)

    assert counts == Counter(state.value for state in states)


def test_the_status_of_an_organization_stays_as_it_is_when_nothing_changes() -> None:
    organization = an_organization()
    tenants = [a_tenant(TenantState.ACTIVE)]
    status = organizations.status_of(organization, tenants, [], NOON)
    assert (status.observed_generation, status.tenants) == (3, {"Active": 1})

    known = organization.model_copy(update={"status": status})

    assert organizations.status_of(known, tenants, [], LATER) == status
    assert organizations.status_of(known, [], [], LATER) != status


def test_the_message_counts_the_members_by_role() -> None:
    members = [{"kind": "User", "name": name, "role": "admin"} for name in ("ann", "bob")]
    organization = an_organization(members=[*members, {"kind": "User", "name": "cid", "role": "owner"}])

    ready, _ = organizations.status_of(organization, [], [], NOON).conditions

    assert ready.message == "members hold their roles in namespace acme: 1 owner, 2 admins, 0 viewers"


def test_a_namespace_that_is_missing_or_going_is_waited_for() -> None:
    organization = an_organization()
    here = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme"}}
    going = {**here, "metadata": {"name": "acme", "deletionTimestamp": "2026-01-01T12:00:00Z"}}

    assert organizations.of_namespace(organization, here) == []
    (missing,) = organizations.of_namespace(organization, None)
    (leaving,) = organizations.of_namespace(organization, going)
    assert (missing.message, leaving.message) == (
        "namespace acme does not exist; create it",
        "namespace acme is being deleted",
    )
    assert missing.waits and leaving.waits


def test_plans_that_do_not_exist_are_named_and_many_are_counted() -> None:
    organization = an_organization()

    assert organizations.of_plans(organization, []) == []
    (one,) = organizations.of_plans(organization, ["gold"])
    assert one.message == "plan gold does not exist; create it, or remove it from spec.plans"
    (many,) = organizations.of_plans(organization, [f"p{number}" for number in range(12)])
    assert many.message.startswith("plans p0, p1")
    assert "p9 and 2 more do not exist" in many.message


def test_a_name_that_fits_no_label_is_refused() -> None:
    assert organizations.of_name(an_organization("a" * 63)) == []
    (finding,) = organizations.of_name(an_organization("a" * 64))
    assert "64 characters" in finding.message
    assert not finding.waits


@pytest.mark.parametrize("kind", RouteKind)
def test_a_sound_plan_has_no_faults(kind: RouteKind) -> None:
    plan = a_plan(
        {**WORKLOAD, "env": [{"name": "HOST", "value": "{{ host | upper }}"}]},
        {"name": "worker", "image": "worker:1"},
        quota={"pods": "10"},
        readiness={"url": "{{ url }}/healthz"},
    )

    assert faults(plan, Options(route_kind=kind)) == []
    (ready,) = plans.status_of(plan, 0, [], NOON).conditions
    assert (ready.reason, ready.message) == ("Reconciled", "tenants can be made of it")


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (a_plan(readiness={"url": "https://{{ hots }}/"}), "readiness URL: 'hots' is undefined; known are host"),
        (a_plan(readiness={"url": "https://{{ host"}), "plan starter, readiness URL: "),
        (a_plan(readiness={"url": "{{ slug }}/healthz"}), "for a tenant it would be 'sample/healthz'"),
        (a_plan(readiness={"url": "http://[::1"}), "for a tenant it would be 'http://[::1'"),
        (a_plan(readiness={"url": "http://{{ host }}:http/"}), "it must be http:// or https:// with a host"),
        (
            a_plan({**WORKLOAD, "env": [{"name": "X", "value": "{{ tenant.uid }}"}]}),
            "workload auth, variable X: only names and the filters",
        ),
        (a_plan({**WORKLOAD, "name": "paused"}), "a name that the platform keeps for itself"),
        (a_plan({**WORKLOAD, "ports": []}), "no workload with a port to take the traffic"),
    ],
)
def test_what_would_fail_in_every_tenant_is_found_in_the_plan(plan: Plan, says: str) -> None:
    (fault,) = faults(plan)

    assert says in fault


def test_all_faults_are_told_at_once() -> None:
    broken = {**WORKLOAD, "env": [{"name": "X", "value": "{{ x }}"}]}

    assert len(faults(a_plan(broken, readiness={"url": "https://{{ y }}"}))) == 2


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_plan_says_is_judged_and_never_raises(url: str, value: str) -> None:
    plan = a_plan({**WORKLOAD, "env": [{"name": "X", "value": value}]}, readiness={"url": url})

    findings = plans.findings_of(plan, Options())
    status = plans.status_of(plan, 0, findings, NOON)

    assert is_true(status.conditions, ConditionType.READY) is (not findings)


@given(st.lists(st.tuples(st.sampled_from(TenantState), st.sampled_from(["starter", "pro"]))))
def test_the_users_of_a_plan_are_those_that_its_limit_counts(tenants: list[tuple[TenantState, str]]) -> None:
    using = plans.tenants_using("starter", [a_tenant(state, plan) for state, plan in tenants])

    assert using == sum(plan == "starter" and state is not TenantState.DECOMMISSIONED for state, plan in tenants)
