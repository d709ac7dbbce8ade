"""The operator is killed at any moment: what it had in hand goes on, nothing is doubled, nothing is lost."""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tenant_operator.api.names import ActivityName
from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, status, timeline

SEEDS = (1, 2, 3)
TENANTS_PER_SEED = 4
_BLOCKED = (
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE relation = 'pg_database'::regclass AND NOT granted AND application_name = 'tenant-operator'"
)
LONGEST_SECONDS = 1.2
"""About as long as the operator has work with so many tenants."""


def _kill_and_start(world: World, moments: random.Random) -> None:
    # Not a wait for something: the crash comes when it comes.
    time.sleep(moments.uniform(0.0, LONGEST_SECONDS))
    world.operator.kill()
    world.operator.start()


@pytest.mark.parametrize("seed", SEEDS)
def test_provisioning_outlives_crashes(world: World, seed: int) -> None:
    """Killed twice while they are made, and once while they are released."""
    moments = random.Random(seed)
    tenants = world.tenants([f"crash-{seed}-{number}" for number in range(TENANTS_PER_SEED)], "standard")
    _kill_and_start(world, moments)
    _kill_and_start(world, moments)
    for tenant in tenants:
        tenant.settles("Active")
        _is_whole(tenant)
        _is_told_once(tenant)

    world.kubectl("delete", "tenant", *(each.name for each in tenants), tenants[0].where, "--wait=false")
    _kill_and_start(world, moments)
    world.delete(tenants)
    world.applied.clear()
    for tenant in tenants:
        tenant.holds_nothing()
        _is_released_once(tenant)


def _is_whole(tenant: TenantUnderTest) -> None:
    """There is one of everything."""
    now = status(tenant.newest())
    assert now["attempt"] == 1
    assert tenant.namespaces() == [tenant.namespace]
    assert tenant.databases() == [tenant.database]
    assert sorted(tenant.roles()) == [tenant.database, f"{tenant.database}_id"]
    assert len({(row["kind"], row["name"]) for row in now["allocations"]}) == len(now["allocations"])
    assert {row["state"] for row in now["allocations"]} == {"Allocated"}
    assert condition(tenant.newest(), "WelcomeEmailsSent")["status"] == "True"
    # Sent again after a crash between sending and writing it down, an email is known by its Message-ID.
    sent = [str(mail["Message-ID"]) for mail in tenant.mails()]
    run = now["run"]["id"]
    ids = [f"<{tenant.uid}.{run}.{email}@tenants.example>" for email in ("welcome", "console-url", "onboarding")]
    assert list(dict.fromkeys(sent)) == ids


def _is_told_once(tenant: TenantUnderTest) -> None:
    """Each event is in the feed once, by its id and by its meaning, in order."""
    feed = tenant.feed()
    assert len({event["id"] for event in feed}) == len(feed)
    types = Counter(event["type"].removeprefix("tenant.provisioning.") for event in feed)
    assert (types["started"], types["completed"]) == (1, 1)
    assert set(types) <= {"started", "completed", "step_completed", "step_failed"}
    told = [
        (event["data"]["step"], event["data"]["details"])
        for event in feed
        if event["type"] == "tenant.provisioning.step_completed"
    ]
    assert list(dict.fromkeys(step for step, _ in told)) == [str(each) for each in ActivityName]
    twice = {str(each) for each in list(ActivityName)[1:5]}
    assert Counter(step for step, _ in told) == {str(each): 2 if each in twice else 1 for each in ActivityName}
    assert len(set(told)) == len(told)


def _is_released_once(tenant: TenantUnderTest) -> None:
    feed = tenant.feed()
    assert len({event["id"] for event in feed}) == len(feed)
    types = Counter(event["type"] for event in feed)
    assert types["tenant.deprovisioning.started"] == 1
    assert types["tenant.deprovisioning.completed"] == 1
    assert types["tenant.deleted"] == 1
    assert feed[-1]["type"] == "tenant.deleted"
    steps = [event["data"]["step"] for event in feed if event["type"] == "tenant.deprovisioning.step_completed"]
    assert steps == [str(each) for each in reversed(ActivityName) if each in steps]


def test_told_to_end_it_lets_go_in_good_order(world: World) -> None:
    """SIGTERM in the middle of the work: what has begun is finished, nothing more begins, the next one goes on."""
    with psycopg.connect(world.platform.database_url) as connection, ThreadPoolExecutor() as pool:
        connection.execute("LOCK TABLE pg_catalog.pg_database IN SHARE MODE")  # nobody creates a database now
        tenants = world.tenants([f"drained-{number}" for number in range(2)], "standard")
        # An intent that is journalled is not yet begun.
        until(lambda: world.query(_BLOCKED) == [(len(tenants),)], "each waits for its database")
        drains = world.operator.output().count("draining")
        ending = pool.submit(world.operator.stop)
        until(lambda: world.operator.output().count("draining") > drains, "it drains")
        connection.rollback()
        assert ending.result() == 0
    for tenant in tenants:
        tenant.wait(_stopped_after_storage, "stopped where it was")
        assert tenant.roles() == [tenant.database]
    world.operator.start()
    for tenant in tenants:
        tenant.settles("Active")
        _is_whole(tenant)
        _is_told_once(tenant)
        assert tenant.told("tenant.provisioning.step_failed") == []
        assert status(tenant.newest()).get("errors", []) == []


def _stopped_after_storage(tenant: Object) -> bool:
    """The outcome was journalled, with the next intent as always; but nobody acts on that."""
    begun = [(row["activity"], row["state"]) for row in timeline(tenant) if row["state"] != "Pending"]
    return begun[2:] == [("allocate-storage", "Completed"), ("allocate-identity-store", "Running")]


def test_told_to_end_it_does_not_wait_for_pods(world: World) -> None:
    """A tenant that waits for its workloads holds nobody up, and waits on under the next operator."""
    tenant = world.tenant("waits-on", "endless")
    tenant.runs("wait-ready")
    before = status(tenant.newest())["run"]
    assert world.operator.stop() == 0
    world.operator.start()

    def is_taken_over(version: dict[str, object]) -> bool:
        return bool(status(version)["run"]["worker"] != before["worker"])

    run = status(tenant.wait(is_taken_over, "is in new hands").tenant)["run"]
    assert (run["id"], run["attempt"], run["direction"]) == (before["id"], 1, "Forward")
