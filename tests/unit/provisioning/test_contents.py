"""What the plan makes of a tenant, and a fingerprint of it that costs no rendering."""

from dataclasses import replace
from typing import Any

import pytest

from tenant_operator.api.plan import Plan
from tenant_operator.ports import Endpoint, Manifest
from tenant_operator.provisioning import manifests
from tenant_operator.provisioning.contents import contents, digest
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tests.simulation.world import PLAN

BANKING = Names("banking", "acme", "acme", "uid-banking", "tenants.example")
DATABASE = Endpoint("198.51.100.7", 5432)
OPTIONS = Options()


def saying(value: str) -> Plan:
    """The plan, with a variable in its first workload."""
    raw: dict[str, Any] = PLAN.to_wire()
    raw["spec"]["workloads"][0]["env"] = [{"name": "GREETING", "value": value}]
    return Plan.model_validate(raw)


def print_of(names: Names = BANKING, plan: Plan = PLAN, options: Options = OPTIONS) -> str:
    return digest(names, plan, options, DATABASE)


@pytest.mark.parametrize(
    "other",
    [
        {"names": replace(BANKING, slug="lending")},
        {"names": replace(BANKING, uid="uid-of-another")},
        {"plan": saying("hello")},
        {"options": Options(responder_port=9999)},
    ],
)
def test_other_contents_have_another_fingerprint(other: dict[str, Any]) -> None:
    assert print_of() != print_of(**other)


def test_the_fingerprint_lasts_over_a_restart_and_what_concerns_only_the_saga() -> None:
    raw = PLAN.to_wire()
    raw["spec"]["timeouts"] = {"wait-ready": "9m"}

    assert print_of() == print_of(plan=Plan.model_validate(raw))


def test_a_template_that_makes_a_difference_for_some_tenants_only_makes_one_in_the_fingerprint() -> None:
    nobody = saying("slug"), saying("{{ slug }}")
    one, other = (contents(BANKING, plan, OPTIONS, DATABASE).workloads for plan in nobody)

    assert one != other
    assert print_of(plan=nobody[0]) != print_of(plan=nobody[1])


def test_thousands_of_tenants_of_a_plan_are_told_apart_without_rendering_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[Names] = []
    make = manifests.workloads

    def counting(names: Names, plan: Plan, credentials: int) -> list[Manifest]:
        rendered.append(names)
        return make(names, plan, credentials)

    monkeypatch.setattr(manifests, "workloads", counting)
    plan = saying("thousands")

    fingerprints = {print_of(replace(BANKING, uid=f"uid-{number}"), plan) for number in range(1000)}

    assert len(fingerprints) == 1000
    assert len(rendered) == 1
