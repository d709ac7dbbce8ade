"""What Argo CD shows of every state of every kind."""

from collections.abc import Sequence
from typing import Any

import pytest

from tenant_operator.api.conditions import ConditionType, Reason
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.catalog import organizations, plans
from tenant_operator.provisioning.findings import Finding
from tests.unit.packaging.argocd import HEALTH
from tests.unit.packaging.lua import Sandbox
from tests.unit.saga.interpreter import START
from tests.unit.tenants.tenant_states import Object, tenant_states

HEALTHY, PROGRESSING, SUSPENDED, DEGRADED = "Healthy", "Progressing", "Suspended", "Degraded"
EXPECTED = {
    "active": HEALTHY,
    "active-sending-emails": HEALTHY,
    "active-emails-failed": HEALTHY,
    "active-refused-retry": HEALTHY,
    "active-resumed": HEALTHY,
    "active-degraded-serving": HEALTHY,
    "decommissioned": HEALTHY,
    "decommissioned-from-cancelled": HEALTHY,
    "decommissioned-refused-retry": HEALTHY,
    # Paused, or stopped by a person: it waits for one.
    "suspended": SUSPENDED,
    "suspended-from-the-start": SUSPENDED,
    "suspended-rolling-out": SUSPENDED,
    "suspended-degraded": SUSPENDED,
    "suspended-refused-cancel": SUSPENDED,
    "pending-cancelled": SUSPENDED,
    "pending-cancelled-refused-cancel": SUSPENDED,
    "pending-cancelled-wanted-suspended": SUSPENDED,
    "cancelled-retry-asked": SUSPENDED,
    # It is to serve, and nobody answers.
    "active-degraded": DEGRADED,
    "active-degraded-rolling-out": DEGRADED,
    "active-degraded-suspending": DEGRADED,
    # Something went wrong, and it does not get better by itself.
    "provisioning-rollback-stuck-failed": DEGRADED,
    "provisioning-rollback-stuck-cancelled": DEGRADED,
    "active-upkeep-failed": DEGRADED,
    "active-suspending-failed": DEGRADED,
    "suspended-upkeep-failed": DEGRADED,
    "suspended-resuming-failed": DEGRADED,
    "failed": DEGRADED,
    "failed-timed-out": DEGRADED,
    "failed-structural": DEGRADED,
    "failed-refused-cancel": DEGRADED,
    "failed-reset": DEGRADED,
    "failed-reset-holding": DEGRADED,
    "failed-wanted-suspended": DEGRADED,
    "failed-retry-asked": DEGRADED,
    "decommissioning-stuck": DEGRADED,
    "decommissioned-wanted-suspended": DEGRADED,
}
"""Everything else is Progressing."""

STATES = tenant_states()
TENANT = Sandbox(HEALTH["Tenant"])
ORGANIZATION = Sandbox(HEALTH["Organization"])
PLAN = Sandbox(HEALTH["Plan"])


def condition(state: Object, type_: str) -> dict[str, Any]:
    conditions = state.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == type_), {})


def test_the_table_is_about_states_that_there_are() -> None:
    assert EXPECTED.keys() <= STATES.keys()


@pytest.mark.parametrize("name", STATES)
def test_every_state_of_a_tenant(name: str) -> None:
    verdict = TENANT.health(STATES[name])

    assert verdict["status"] == EXPECTED.get(name, PROGRESSING)
    assert verdict["message"]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_message_is_the_one_of_the_conditions(name: str) -> None:
    told = [condition(STATES[name], type_).get("message") for type_ in ConditionType]

    message = TENANT.health(STATES[name])["message"]

    assert message.removeprefix("decommissioned: ") in told


@pytest.mark.parametrize("name", [name for name in STATES if "unseen" in name or "created" in name])
def test_a_status_that_speaks_of_another_generation_is_not_believed(name: str) -> None:
    verdict = TENANT.health(STATES[name])

    assert verdict["status"] == PROGRESSING
    assert "serving" not in verdict["message"]


@pytest.mark.parametrize("name", [name for name, state in STATES.items() if "deletionTimestamp" in state["metadata"]])
def test_of_what_is_being_deleted_argo_cd_says_that_and_no_more(name: str) -> None:
    assert TENANT.health(STATES[name]) == {"status": PROGRESSING, "message": "Pending deletion"}


def test_what_runs_is_told_in_the_message() -> None:
    assert "CrashLoopBackOff" in TENANT.health(STATES["provisioning-waiting"])["message"]
    assert "database tenant_banking is in use" in TENANT.health(STATES["decommissioning-stuck"])["message"]


# The kinds of the platform team.


def plan(*, generation: int, findings: Sequence[Finding] | None) -> Object:
    manifest: Object = {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Plan",
        "metadata": {"name": "starter", "generation": generation},
        "spec": {"workloads": [{"name": "auth", "image": "auth:1"}]},
        "status": {"observedGeneration": -1},
    }
    if findings is None:
        return manifest
    status = plans.status_of(Plan.model_validate(manifest), 1, findings, START)
    return {**manifest, "status": status.to_wire()}


def organization(*, findings: Sequence[Finding] | None) -> Object:
    manifest: Object = {
        "apiVersion": "intelliauth.io/v1alpha1",
        "kind": "Organization",
        "metadata": {"name": "cymmetri", "generation": 2},
        "spec": {"namespace": "cymmetri", "plans": ["free"]},
        "status": {"observedGeneration": -1},
    }
    if findings is None:
        return manifest
    status = organizations.status_of(Organization.model_validate(manifest), (), findings, START)
    return {**manifest, "status": status.to_wire()}


WAITING = Finding(Reason.NAMESPACE_NOT_FOUND, "namespace cymmetri does not exist; create it", waits=True)
NO_PLAN = Finding(Reason.PLAN_NOT_FOUND, "plan free does not exist; create it", waits=True)
BAD_MEMBER = Finding(Reason.INVALID_MEMBER, "member 'x' (ServiceAccount, admin): it needs a namespace")


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        (None, PROGRESSING),
        ([], HEALTHY),
        ([WAITING], PROGRESSING),
        ([WAITING, NO_PLAN], PROGRESSING),
        # Its plans come in the next sync wave, which waits for this one.
        ([NO_PLAN], HEALTHY),
        ([BAD_MEMBER], DEGRADED),
        ([BAD_MEMBER, NO_PLAN], DEGRADED),
    ],
)
def test_every_state_of_an_organization(findings: Sequence[Finding] | None, status: str) -> None:
    verdict = ORGANIZATION.health(organization(findings=findings))

    assert verdict["status"] == status
    assert all(finding.message in verdict["message"] for finding in findings or ())


@pytest.mark.parametrize(
    ("findings", "status"),
    [(None, PROGRESSING), ([], HEALTHY), ([Finding(Reason.INVALID_PLAN, "no port")], DEGRADED)],
)
def test_every_state_of_a_plan(findings: Sequence[Finding] | None, status: str) -> None:
    verdict = PLAN.health(plan(generation=1, findings=findings))

    assert verdict["status"] == status
    assert all(finding.message in verdict["message"] for finding in findings or ())


@pytest.mark.parametrize("sandbox", [TENANT, ORGANIZATION, PLAN], ids=["Tenant", "Organization", "Plan"])
@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 1}, {"observedGeneration": 2}])
def test_whatever_is_missing_is_no_error(sandbox: Sandbox, status: Object | None) -> None:
    bare: Object = {"metadata": {"name": "x", "generation": 2}, "spec": {}}

    verdict = sandbox.health(bare if status is None else {**bare, "status": status})

    assert verdict["status"] == PROGRESSING
    assert verdict["message"]
