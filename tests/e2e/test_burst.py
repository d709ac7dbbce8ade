"""Many tenants at once."""

import sys
import time

import pytest

from tests.e2e.world import World, condition, status

TENANTS = 100
"""More than are at work at once; `make bench` takes more."""
DEADLINE_SECONDS = 1200


def test_a_hundred_at_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """All become Active, each with its own things; deleted at once, all are gone."""
    names = [f"burst-{number:03}" for number in range(TENANTS)]
    begun = time.monotonic()
    tenants = world.tenants(names)
    keys = [tenant.key for tenant in tenants]
    world.feed.wait_all(keys, lambda each: condition(each, "Ready").get("status") == "True", "Active", DEADLINE_SECONDS)
    with capsys.disabled():
        sys.stdout.write(f" {TENANTS} tenants Active after {time.monotonic() - begun:.1f} s")
    world.feed.wait_all(keys, lambda each: bool(status(each)["run"].get("finishedAt")), "done", DEADLINE_SECONDS)
    assert {status(tenant.newest())["attempt"] for tenant in tenants} == {1}
    assert len({status(tenant.newest())["url"] for tenant in tenants}) == TENANTS
    assert {tenant.database for tenant in tenants} <= {name for _, name in world.stored()}
    assert sum(len(tenant.mails()) for tenant in tenants[:3]) == 9

    begun = time.monotonic()
    world.delete(tenants)
    world.applied.clear()
    with capsys.disabled():
        sys.stdout.write(f", gone after {time.monotonic() - begun:.1f} s ")
    world.is_clean()
    deleted = [event["tenant_id"] for event in world.audit() if event["type"] == "tenant.deleted"]
    assert sorted(deleted) == sorted(tenant.uid for tenant in tenants)
