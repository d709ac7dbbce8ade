"""Attacker: somebody of the platform team, or a pipeline of theirs, who may write Plans, and with them the templates in
the values of environment variables and in the readiness URL. They want the operator to fall, or to stand still for all.
"""

import pytest

from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import World, condition, status

BOTTOMLESS = {
    "brackets": "{{ " + "(" * 1900 + "host" + ")" * 1900 + " }}",
    "signs": "{{ " + "-" * 4000 + "1 }}",
    "branches": "{% if host %}" * 300,
    "loops": "{% for a in host %}" * 100,
    "a long number": "{{ " + "9" * 4000 + " }}",
}


def named(world: World, plan: str) -> Object:
    """The Plan's Ready once the operator has looked at it."""

    def look() -> Object:
        found = world.read("plan", plan)
        assert found is not None
        is_seen = status(found).get("observedGeneration") == found["metadata"]["generation"]
        return condition(found, "Ready") if is_seen else {}

    return until(look, f"plan {plan} is judged")


def a_plan(value: str) -> Object:
    return catalog.plan("bottomless", catalog.workload(env=[{"name": "GREETING", "value": value}]))


@pytest.mark.parametrize("value", BOTTOMLESS.values(), ids=BOTTOMLESS.keys())
def test_a_plan_that_is_nested_too_deeply_is_a_finding(world: World, value: str) -> None:
    world.apply(a_plan(value))

    ready = named(world, "bottomless")

    assert (ready["status"], ready["reason"]) == ("False", "InvalidPlan")
    assert "plan bottomless, workload auth, variable GREETING" in ready["message"]


def test_a_value_that_once_took_seconds_to_compile_is_rendered(world: World) -> None:
    world.apply(a_plan("{{ slug" + " | upper" * 400 + " }}"))

    assert named(world, "bottomless")["status"] == "True"
    tenant = world.tenant("shouts", "bottomless")
    tenant.settles("Active")
    (container,) = tenant.object("deployment", "auth")["spec"]["template"]["spec"]["containers"]
    assert {"name": "GREETING", "value": "SHOUTS"} in container["env"]


def test_whoever_lives_by_such_a_plan_is_told_and_nobody_else_suffers(world: World) -> None:
    world.apply(a_plan("hello"))
    serving = world.tenant("lives-on", "bottomless")
    serving.settles("Active")

    world.apply(a_plan(BOTTOMLESS["brackets"]))
    coming = world.tenant("comes-late", "bottomless")
    neighbour = world.tenant("neighbour")

    stalled = serving.wait(lambda each: bool(condition(each, "Stalled")), "stalls").tenant
    assert condition(stalled, "Ready")["status"] == "True"
    assert "plan bottomless, workload auth, variable GREETING" in condition(stalled, "Stalled")["message"]
    assert "variable GREETING" in coming.settles("Failed")["run"]["error"]
    neighbour.settles("Active")
