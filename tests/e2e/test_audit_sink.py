"""The audit feed cannot be written: no event is lost, and a tenant that has to wait for it says so."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.e2e.feed import Object
from tests.e2e.waiting import until
from tests.e2e.world import TenantUnderTest, World, condition, settled, status


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    """A process of this machine, whose file can be put out of reach."""
    return {"PAUSED_PORT": "0"}


@contextmanager
def a_folder_in_place_of_the_feed(world: World) -> Iterator[None]:
    feed = world.operator.audit
    kept = feed.with_suffix(".kept")
    kept.touch()
    if feed.exists():
        feed.rename(kept)
    feed.mkdir()
    try:
        yield
    finally:
        feed.rmdir()
        kept.rename(feed)


def lines_about_it(world: World) -> list[str]:
    return [line for line in world.operator.output().splitlines() if "audit sink" in line]


def switch(world: World, tenant: TenantUnderTest, state: str) -> None:
    patch = f'--patch={{"spec":{{"desiredState":"{state}"}}}}'
    world.kubectl("patch", "tenant", tenant.name, tenant.where, "--type=merge", patch)


def backlog(tenant: Object) -> str:
    message: str = condition(tenant, "AuditBacklog").get("message", "")
    return message


def test_a_tenant_with_too_much_to_tell_waits_and_says_so(world: World) -> None:
    before = len(lines_about_it(world))
    with a_folder_in_place_of_the_feed(world):
        tenant = world.tenant("talks")
        tenant.wait(lambda each: status(each).get("state") == "Active", "is Active")
        for number in range(120):
            switch(world, tenant, state := ("Suspended", "Active")[number % 2])
            now = tenant.wait(
                lambda each, state=state: status(each)["state"] == state or bool(backlog(each)),  # type: ignore[misc]
                f"is {state}, or held up",
            ).tenant
            if backlog(now):
                break
        assert "more than 100 audit events of this tenant wait" in backlog(now)
        assert "is a directory" in backlog(now)
        assert condition(now, "Reconciling")["reason"] == "AuditSinkFailing"
        assert condition(now, "Stalled") == {}

        tenant.wait(lambda each: each["spec"]["desiredState"] == state, "is asked for more")
        versions = len(tenant.versions)
        other = world.tenant("is-brief")
        other.wait(lambda each: status(each).get("state") == "Active", "is Active: it has little to tell")
        assert len(tenant.versions) == versions, "nothing is written while it waits"
        assert len(lines_about_it(world)) == before + 1

    now = tenant.wait(lambda each: settled(each, state), f"goes on to {state}").tenant
    assert (backlog(now), condition(now, "Reconciling")) == ("", {})
    told = [event["type"] for event in tenant.feed() if event["type"] in {"tenant.suspended", "tenant.resumed"}]
    assert told == ["tenant.suspended", "tenant.resumed"] * (len(told) // 2) + ["tenant.suspended"] * (len(told) % 2)
    assert len(told) == number + 1
    assert len({event["id"] for event in tenant.feed()}) == len(tenant.feed())
    assert len(lines_about_it(world)) == before + 2


def test_a_record_that_waits_for_its_last_events_says_so(world: World) -> None:
    tenant = world.tenant("goes")
    tenant.settles("Active")
    with a_folder_in_place_of_the_feed(world):
        world.delete([tenant], wait=False)
        now = tenant.wait(lambda each: bool(backlog(each)), "says what it waits for").tenant
        assert "the record is kept until the audit sink has its last events" in backlog(now)
        assert "is a directory" in condition(now, "Ready")["message"]
        tenant.holds_nothing()
    until(lambda: world.read("tenant", tenant.name, tenant.key[0]) is None, "the record is gone", 60)
    assert tenant.feed()[-1]["type"] == "tenant.deleted"
