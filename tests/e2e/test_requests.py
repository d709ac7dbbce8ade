"""What the person on call asks for: cancel, retry, reset; what is granted, what is refused, and how it is told."""

import pytest

from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.world import TenantUnderTest, World, condition, status, timeline


def test_cancel_is_a_clean_stop_and_retry_goes_on(world: World) -> None:
    world.offer(catalog.failing("hesitant", "never-ready", 300, command=["sh", "-c", "sleep 3600"]))
    tenant = world.tenant("hesitant", "hesitant")
    tenant.runs("wait-ready")
    tenant.act("cancel")
    now = tenant.settles("Pending")
    assert (now["run"]["outcome"], now["run"]["cancelledActivity"]) == ("Cancelled", "wait-ready")
    assert now.get("allocations", []) == []
    assert condition(tenant.newest(), "ResourcesHeld")["status"] == "False"
    assert (
        condition(tenant.newest(), "Stalled")["reason"] == condition(tenant.newest(), "Ready")["reason"] == "Cancelled"
    )
    assert tenant.answer("cancel", "Accepted")
    assert "intelliauth.io/action" not in tenant.newest()["metadata"].get("annotations", {})
    tenant.holds_nothing()
    tenant.event("RequestAccepted", says="cancel")
    tenant.event("Cancelled")
    (cancelled,) = tenant.told("tenant.provisioning.cancelled")
    assert cancelled["data"] == {"attempt_number": 1, "cancelled_activity": "wait-ready"}
    assert tenant.told("tenant.provisioning.failed") == []

    world.apply(catalog.plan("hesitant"))
    tenant.act("retry")
    now = tenant.settles("Active")
    assert now["attempt"] == 2
    assert [each["outcome"] for each in now["history"]] == ["Cancelled", "Completed"]
    starts = [event["data"]["attempt_number"] for event in tenant.told("tenant.provisioning.started")]
    assert starts == [1, 2]
    assert len(tenant.mails()) == 3


def test_cancel_is_heard_at_once(world: World) -> None:
    """As the cluster tells of both; that it is within a second is shown in virtual time, where no machine is slow."""
    tenant = world.tenant("impatient", "endless")
    tenant.runs("wait-ready")
    tenant.act("cancel")
    tenant.wait(_is_rolling_back, "rolls back")
    heard = world.feed.versions(tenant.key)
    asked = next(each.heard for each in heard if "intelliauth.io/action" in each.tenant["metadata"]["annotations"])
    began = next(each.heard for each in heard if _is_rolling_back(each.tenant))
    assert began - asked < 5.0  # sooner than the next heartbeat
    tenant.settles("Pending")


def _is_rolling_back(tenant: Object) -> bool:
    return bool(status(tenant).get("run", {}).get("direction") == "Backward")


def test_cancelled_tenant_stays_cancelled(world: World) -> None:
    """Neither a restart nor a change of something else starts it again; and it can be let go."""
    tenant = world.tenant("calm", "endless")
    tenant.runs("wait-ready")
    tenant.act("cancel")
    tenant.settles("Pending")
    world.kubectl("label", "tenant", tenant.name, tenant.where, "reviewed=yes")
    assert world.operator.stop() == 0
    world.operator.start()
    world.tenant("witness").settles("Active")
    now = status(tenant.newest())
    assert (now["state"], now["attempt"]) == ("Pending", 1)
    tenant.delete()
    assert tenant.feed()[-1]["type"] == "tenant.deleted"


@pytest.fixture(scope="module")
def active(module_world: World) -> TenantUnderTest:
    tenant = module_world.tenant("serving")
    module_world.applied.remove(tenant)  # it outlives the first test
    tenant.settles("Active")
    return tenant


def test_what_an_active_tenant_refuses(world: World, active: TenantUnderTest) -> None:
    """Each refusal says why and what is allowed, in the status and in an Event, and changes nothing else."""
    before = status(active.newest())
    for action, says in (
        ("cancel", "cancel is possible in Provisioning only; the tenant is Active"),
        ("retry", "retry is possible in Failed"),
        ("reset", "the tenant is Active"),
        ("explode", "unknown action 'explode'"),
    ):
        active.act(action)
        last = active.answer(action, "Refused")
        assert says in last["message"]
        event = active.event("RequestRefused", says=f"{action}: ")
        assert event["type"] == "Warning"
        assert says in event["note"]
    settled = active.settles("Active")
    for unchanged in ("attempt", "run", "timeline", "allocations"):
        assert settled[unchanged] == before[unchanged]


def test_the_same_request_can_be_made_again(active: TenantUnderTest) -> None:
    before = status(active.newest()).get("lastAction") or {"id": ""}
    active.act("cancel")
    first = active.answer("cancel", "Refused", not_id=before["id"])
    active.act("cancel")
    assert active.answer("cancel", "Refused", not_id=first["id"])["requestedAt"] >= first["requestedAt"]


def test_reset_is_refused_while_it_runs_and_granted_after(world: World) -> None:
    """A reset forgets the history and starts nothing; a retry goes on from there."""
    world.offer(catalog.failing("forgetful", "never-ready", 300, command=["sh", "-c", "sleep 3600"]))
    tenant = world.tenant("forgetful", "forgetful")
    tenant.runs("wait-ready")
    tenant.act("reset")
    refused = tenant.answer("reset", "Refused")
    assert "cancel it first" in refused["message"]
    assert status(tenant.newest())["state"] == "Provisioning"
    tenant.act("retry")
    assert "the tenant is Provisioning" in tenant.answer("retry", "Refused")["message"]

    tenant.act("cancel")
    tenant.settles("Pending")
    tenant.act("reset")
    tenant.answer("reset", "Accepted")
    now = tenant.settles("Failed")
    assert (now.get("run"), timeline(tenant.newest()), now.get("history", [])) == (None, [], [])
    assert len(tenant.told("tenant.provisioning.reset")) == 1
    tenant.holds_nothing()

    world.apply(catalog.plan("forgetful"))
    tenant.act("retry")
    tenant.settles("Active")


def test_cancel_of_a_rollback_changes_nothing(world: World) -> None:
    exits = {"command": ["sh", "-c", "exit 1"]}
    world.offer(catalog.failing("hesitant", "crash-loop", 300, **exits))
    tenant = world.tenant("failing", "hesitant")
    tenant.runs("wait-ready")
    with world.kept_namespaces(tenant):
        world.apply(catalog.failing("hesitant", "crash-loop", 1, **exits))
        tenant.wait(_is_rolling_back, "rolls back")
        tenant.act("cancel")
        assert "already running" in tenant.answer("cancel", "Accepted")["message"]
    assert tenant.settles("Failed")["run"]["failedActivity"] == "wait-ready"
    assert tenant.told("tenant.provisioning.cancelled") == []
