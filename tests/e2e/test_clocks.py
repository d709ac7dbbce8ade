"""The journal was written by a clock that is hours ahead: a run of a dead operator goes on, and a cancel is heard."""

import json
from datetime import UTC, datetime, timedelta

from tests.e2e.feed import Object
from tests.e2e.world import TenantUnderTest, World, condition, status


def written_ahead(world: World, tenant: TenantUnderTest, by: timedelta) -> str:
    """Every time in the journal of the run is so far ahead; returns the worker that is said to have written it."""
    now = status(world.read("tenant", tenant.name, tenant.where.removeprefix("--namespace=")) or {})
    ahead = (datetime.now(UTC) + by).isoformat().replace("+00:00", "Z")
    run = now["run"]
    run |= {"startedAt": ahead, "heartbeat": {**run["heartbeat"], "at": ahead}}
    rows = [
        {**row, "startedAt": ahead, "nextTryAt": ahead} if row["state"] == "Running" else row for row in now["timeline"]
    ]
    patch = json.dumps({"status": {"run": run, "timeline": rows}})
    world.kubectl(
        "patch", "tenant", tenant.name, tenant.where, "--subresource=status", "--type=merge", f"--patch={patch}"
    )
    return str(run["worker"])


def test_a_run_whose_heartbeat_lies_in_the_future_goes_on(world: World) -> None:
    tenant = world.tenant("ahead", "endless")
    tenant.runs("wait-ready")
    world.operator.kill()
    former = written_ahead(world, tenant, timedelta(hours=5))
    world.operator.start()

    def goes_on(version: Object) -> bool:
        run = status(version)["run"]
        return bool(run["worker"] != former and run["heartbeat"]["detail"].startswith("Deployment"))

    version = tenant.wait(goes_on, "looks at its workloads again").tenant
    assert condition(version, "Ready")["reason"] == "Provisioning"
    tenant.act("cancel")
    assert tenant.settles("Pending")["run"]["cancelledActivity"] == "wait-ready"
    tenant.holds_nothing()


def test_a_cancel_is_heard_though_the_heartbeat_lies_in_the_future(world: World) -> None:
    tenant = world.tenant("heard", "endless")
    tenant.runs("wait-ready")
    world.operator.kill()
    written_ahead(world, tenant, timedelta(days=4000))
    tenant.act("cancel")
    world.operator.start()
    answer = tenant.answer("cancel", "Accepted")
    assert "rolled back" in answer["message"]
    tenant.settles("Pending")
    tenant.holds_nothing()
    feed = [event["type"] for event in tenant.feed()]
    assert feed.count("tenant.provisioning.cancelled") == 1
    durations = [event["data"].get("duration_ms", 0) for event in tenant.feed()]
    assert min(durations) >= 0
