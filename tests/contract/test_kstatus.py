"""What clients that wait for a status make of Tenants and Organizations: the library of Flux and Helm judges."""

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from devcluster import binaries
from tenant_operator.api.conditions import Reason
from tenant_operator.api.organization import Organization
from tenant_operator.catalog.organizations import status_of
from tenant_operator.provisioning.findings import Finding
from tests.unit.tenants.tenant_states import Object, tenant_states

CURRENT, IN_PROGRESS, FAILED, TERMINATING = "Current", "InProgress", "Failed", "Terminating"
EXPECTED = {
    "active": CURRENT,
    "active-sending-emails": CURRENT,
    "active-emails-failed": CURRENT,
    "active-refused-retry": CURRENT,
    "active-resumed": CURRENT,
    "suspended": CURRENT,
    "suspended-from-the-start": CURRENT,
    "active-degraded-serving": CURRENT,
    "suspended-rolling-out": CURRENT,
    "suspended-degraded": CURRENT,
    "suspended-refused-cancel": CURRENT,
    "decommissioned": CURRENT,
    "decommissioned-from-cancelled": CURRENT,
    "decommissioned-refused-retry": CURRENT,
    # Nothing more happens without a person.
    "pending-cancelled": FAILED,
    "pending-cancelled-refused-cancel": FAILED,
    "pending-cancelled-wanted-suspended": FAILED,
    "provisioning-rollback-stuck-failed": FAILED,
    "provisioning-rollback-stuck-cancelled": FAILED,
    "active-upkeep-failed": FAILED,
    "active-suspending-failed": FAILED,
    "suspended-upkeep-failed": FAILED,
    "suspended-resuming-failed": FAILED,
    "failed": FAILED,
    "failed-timed-out": FAILED,
    "failed-structural": FAILED,
    "failed-refused-cancel": FAILED,
    "failed-reset": FAILED,
    "failed-reset-holding": FAILED,
    "failed-wanted-suspended": FAILED,
    "decommissioning-stuck": FAILED,
    "decommissioned-wanted-suspended": FAILED,
    # Asked for a moment ago, and not taken yet.
    "failed-retry-asked": FAILED,
    "cancelled-retry-asked": FAILED,
}
"""Beside these: what is being deleted is Terminating, and everything else InProgress."""
SETTLED = frozenset(name for name, expected in EXPECTED.items() if expected == CURRENT)


@pytest.fixture(scope="module")
def kstatus() -> str:
    return binaries.clients(print)["kstatus"]


def judged(kstatus: str, objects: Sequence[Object]) -> list[str]:
    done = subprocess.run([kstatus], input=json.dumps(objects), capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    return [each["status"] for each in json.loads(done.stdout)]


def test_every_state_of_a_tenant(kstatus: str) -> None:
    # The API server gives every Tenant a status.
    states = {name: state for name, state in tenant_states().items() if "status" in state}

    verdicts = dict(zip(states, judged(kstatus, list(states.values())), strict=True))

    assert EXPECTED.keys() <= states.keys()
    assert verdicts == {
        name: TERMINATING if "deletionTimestamp" in state["metadata"] else EXPECTED.get(name, IN_PROGRESS)
        for name, state in states.items()
    }


def test_what_is_current_is_what_was_asked_for() -> None:
    states = tenant_states()

    assert {states[name]["status"]["state"] == states[name]["spec"]["desiredState"] for name in SETTLED} == {True}


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ((), CURRENT),
        ((Finding(Reason.PLAN_NOT_FOUND, "plan gold does not exist", waits=True),), IN_PROGRESS),
        ((Finding(Reason.INVALID_MEMBER, "member ann has no role"),), FAILED),
    ],
)
def test_an_organization(kstatus: str, findings: Sequence[Finding], expected: str) -> None:
    manifest: dict[str, Any] = {"metadata": {"name": "acme", "generation": 2}, "spec": {"namespace": "acme"}}
    acme = Organization.model_validate(manifest)

    status = status_of(acme, (), findings, datetime(2026, 1, 1, tzinfo=UTC))

    seen = {"apiVersion": acme.api_version, "kind": acme.kind, **manifest, "status": status.to_wire()}
    unseen = {**seen, "status": acme.status.to_wire()}
    assert judged(kstatus, [seen, unseen]) == [expected, IN_PROGRESS]
