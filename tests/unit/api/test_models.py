"""What the API server stores can be read, and what is written back is the same."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from devcluster.platform import ROOT
from tenant_operator.api.fields import MESSAGE_MAX_LENGTH, ApiModel
from tenant_operator.api.meta import Condition, ConditionStatus
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan, PlanSpec
from tenant_operator.api.resource import Resource
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant, TenantSpec
from tenant_operator.api.tenant_status import ERROR_LOG_LENGTH, FailedTry, OutboxEvent, TenantStatus, TimelineEntry

SAMPLES = ROOT / "manifests" / "samples"
MODELS: dict[str, type[Resource]] = {"Organization": Organization, "Plan": Plan, "Tenant": Tenant}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

STATUS: dict[str, Any] = {
    "observedGeneration": 3,
    "state": "Provisioning",
    "phase": "wait-ready",
    "url": "https://banking-cymmetri.example.com",
    "tenantId": "01JDZZZZZZZZZZZZZZZZZZZZZZ",
    "attempt": 2,
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T12:00:00Z",
            "reason": "Provisioning",
            "message": "Deployment auth: 0 of 2 pods are ready",
        }
    ],
    "run": {
        "id": "01JDZZZZZZZZZZZZZZZZZZZZZZ",
        "attempt": 2,
        "kind": "Provision",
        "direction": "Forward",
        "reason": "Retried",
        "requestedBy": "owner@cymmetri.example",
        "startedAt": "2026-01-01T12:00:00.250000Z",
        "worker": "operator-0",
        "fence": 7,
        "heartbeat": {
            "at": "2026-01-01T12:00:10.500000Z",
            "activity": "wait-ready",
            "detail": "1 of 2",
            "progress": 50,
        },
    },
    "timeline": [
        {
            "activity": "wait-ready",
            "phase": "deploy",
            "state": "Running",
            "startedAt": "2026-01-01T12:00:05Z",
            "tries": 1,
            "message": "",
            "checkpoints": ["auth"],
        }
    ],
    "allocations": [
        {
            "kind": "Namespace",
            "name": "banking-cymmetri",
            "activity": "allocate-namespace",
            "state": "Allocated",
            "since": "2026-01-01T12:00:01Z",
            "reservedAt": "2026-01-01T12:00:00.900000Z",
        }
    ],
    "history": [
        {
            "attempt": 1,
            "runId": "01JDYYYYYYYYYYYYYYYYYYYYYY",
            "kind": "Provision",
            "outcome": "Failed",
            "failedActivity": "apply-schema",
            "error": "0002_users.sql: syntax error",
            "startedAt": "2026-01-01T11:00:00Z",
            "finishedAt": "2026-01-01T11:01:00Z",
        }
    ],
    "errors": [
        {
            "at": "2026-01-01T12:00:02Z",
            "attempt": 2,
            "activity": "apply-schema",
            "try": 1,
            "message": "no route",
        }
    ],
    "failures": [{"activity": "apply-schema", "count": 1}],
    "lastAction": {
        "id": "01KDWG3V3JXN8QBJ3M3Z0C8D5E",
        "action": "retry",
        "requestedBy": "owner@cymmetri.example",
        "requestedAt": "2026-01-01T12:00:00Z",
        "outcome": "Accepted",
        "message": "attempt 2 starts",
    },
    "outbox": [
        {
            "id": "01JDZZZZZZZZZZZZZZZZZZZZZZ",
            "type": "tenant.provisioning.started",
            "actorId": "owner@cymmetri.example",
            "orgId": "cymmetri",
            "tenantId": "01JDZZZZZZZZZZZZZZZZZZZZZZ",
            "createdAt": "2026-01-01T12:00:00Z",
            "data": {"attempt_number": 2, "requested_by": None, "nested": [{"deep": None}]},
        }
    ],
    "workloadsHash": "a1b2c3",
}


def tenant(**spec: object) -> Tenant:
    given = {
        "organization": "cymmetri",
        "plan": "starter",
        "admin": {"email": "admin@cymmetri.example"},
        **spec,
    }
    return Tenant.model_validate({"metadata": {"name": "banking", "namespace": "cymmetri"}, "spec": given})


def sample_objects() -> list[dict[str, Any]]:
    documents = (each for path in sorted(SAMPLES.rglob("*.yaml")) for each in yaml.safe_load_all(path.read_text()))
    return [each for each in documents if each["kind"] in MODELS]


def test_a_full_status_round_trips() -> None:
    assert TenantStatus.model_validate(STATUS).to_wire() == STATUS


@pytest.mark.parametrize("given", sample_objects(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_the_samples_are_read_as_they_are_written(given: dict[str, Any]) -> None:
    parsed = MODELS[given["kind"]].model_validate(given)

    assert_contains(parsed.to_wire()["spec"], given["spec"])


def test_the_samples_fit_together() -> None:
    objects = sample_objects()
    plans = {each["metadata"]["name"] for each in objects if each["kind"] == "Plan"}
    organizations = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Organization"}
    assert {"free", "starter", "pro", "enterprise"} <= plans
    for each in objects:
        if each["kind"] == "Organization":
            assert set(each["spec"]["plans"]) <= plans
        if each["kind"] == "Tenant":
            owner = organizations[each["spec"]["organization"]]["spec"]
            assert each["spec"]["plan"] in owner["plans"]
            assert each["metadata"]["namespace"] == owner["namespace"]


def test_what_is_absent_has_its_default() -> None:
    new = tenant()

    assert new.spec.desired_state is DesiredState.ACTIVE
    assert new.status == TenantStatus()
    assert new.status.state is TenantState.PENDING
    assert new.api_version == "intelliauth.io/v1alpha1"


def test_the_slug_is_the_name_unless_given() -> None:
    assert tenant().slug == "banking"
    assert tenant(slug="retail").slug == "retail"
    organization = {"metadata": {"name": "cymmetri"}, "spec": {"namespace": "cymmetri"}}
    assert Organization.model_validate(organization).slug == "cymmetri"


def test_unknown_fields_are_ignored_and_unknown_values_are_not() -> None:
    assert not hasattr(tenant(colour="red").spec, "colour")
    with pytest.raises(ValidationError, match="desiredState"):
        tenant(desiredState="Paused")


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tenant().spec.plan = "pro"


def test_models_are_built_by_their_python_names() -> None:
    spec = TenantSpec(organization="o", plan="p", admin={"email": "a@b.example"}, display_name="d")  # type: ignore[arg-type]

    assert spec.to_wire()["displayName"] == "d"


def test_times_are_utc_and_never_naive() -> None:
    entry = {"activity": "a", "phase": "p", "state": "Running", "startedAt": "2026-01-01T13:00:00+01:00"}
    assert TimelineEntry.model_validate(entry).started_at == NOON
    assert TimelineEntry.model_validate(entry).to_wire()["startedAt"] == "2026-01-01T12:00:00Z"
    with pytest.raises(ValidationError, match="timezone"):
        TimelineEntry.model_validate({**entry, "startedAt": "2026-01-01T13:00:00"})


def test_a_long_message_is_cut_not_refused() -> None:
    condition = Condition(
        type="Ready",
        status=ConditionStatus.FALSE,
        last_transition_time=NOON,
        reason="Failed",
        message="x" * (MESSAGE_MAX_LENGTH + 1),
    )

    assert condition.message == "x" * (MESSAGE_MAX_LENGTH - 1) + "…"


def test_the_oldest_errors_fall_off() -> None:
    errors = tuple(
        FailedTry(at=NOON, attempt=1, activity="apply-schema", try_=number, message="no") for number in range(1, 26)
    )

    kept = TenantStatus(errors=errors).errors

    assert [error.try_ for error in kept] == list(range(26 - ERROR_LOG_LENGTH, 26))


def test_event_data_keeps_its_nulls() -> None:
    event = OutboxEvent(
        id="0" * 26,
        type="tenant.suspended",
        org_id="cymmetri",
        tenant_id="1" * 26,
        created_at=NOON,
        data={"requested_by": None},
    )

    assert event.to_wire()["data"] == {"requested_by": None}


def test_amounts_may_be_written_as_numbers() -> None:
    spec = plan_spec({"name": "auth", "image": "i", "resources": {"limits": {"cpu": 2, "memory": "1Gi"}}})

    assert spec.workloads[0].resources.limits == {"cpu": "2", "memory": "1Gi"}


def test_traffic_goes_to_the_marked_workload_or_else_to_the_first() -> None:
    first, second = {"name": "first", "image": "i"}, {"name": "second", "image": "i"}

    assert plan_spec(first, second).routed_workload.name == "first"
    assert plan_spec(first, {**second, "route": True}).routed_workload.name == "second"


def plan_spec(*workloads: Mapping[str, object]) -> PlanSpec:
    return PlanSpec.model_validate({"workloads": workloads})


def assert_contains(actual: Any, expected: Any) -> None:
    match expected:
        case dict():
            for name, value in expected.items():
                assert_contains(actual[name], value)
        case list():
            assert len(actual) == len(expected)
            for one, other in zip(actual, expected, strict=True):
                assert_contains(one, other)
        case _:
            assert actual == expected


def test_every_model_says_what_it_is_for() -> None:
    pending = list(ApiModel.__subclasses__())
    while pending:
        model = pending.pop()
        assert model.__doc__, model
        pending += model.__subclasses__()
