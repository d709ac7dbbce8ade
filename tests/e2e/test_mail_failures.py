"""The mail server is away: a tenant that serves is not rolled back for an email."""

import time
from collections.abc import Iterator, Mapping

import pytest

from devcluster import Environment
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.wire import Wire
from tests.e2e.world import TenantUnderTest, World, condition, status, timeline

OUTAGE_SECONDS = 20


@pytest.fixture(scope="module")
def wire(platform: Environment) -> Iterator[Wire]:
    """What the operator's emails go through."""
    with Wire(platform.smtp_host, platform.smtp_port) as wire:
        yield wire


@pytest.fixture(scope="module")
def operator_settings(wire: Wire) -> Mapping[str, str]:
    return {"SMTP_PORT": str(wire.port)}


@pytest.fixture(autouse=True)
def cut(wire: Wire) -> Iterator[None]:
    wire.cut()
    yield
    wire.mend()


IN_ORDER = ["welcome", "console-url", "onboarding"]


def names(tenant: TenantUnderTest) -> list[str]:
    """The emails that its admin has, by their names."""
    return [str(mail["Message-ID"]).split(".")[-2].split("@")[0] for mail in tenant.mails()]


def has_sent(tenant: Object) -> bool:
    return condition(tenant, "WelcomeEmailsSent").get("status") == "True"


def test_tenant_is_active_without_its_emails(world: World) -> None:
    """A server that is away for longer than the emails may take."""
    world.offer(catalog.plan("hasty", timeouts={"send-welcome-emails": "6s"}))
    tenant = world.tenant("unheard", "hasty")
    now = tenant.settles("Active")
    assert now["run"]["outcome"] == "Completed"
    assert condition(tenant.newest(), "Ready")["status"] == "True"
    sent = condition(tenant.newest(), "WelcomeEmailsSent")
    assert sent["status"] == "False"
    assert sent["reason"] == "TimedOut"
    assert "mail server" in sent["message"]
    assert "connection refused" in sent["message"].lower()
    failed = tenant.told("tenant.provisioning.step_failed")
    assert [event["data"]["step"] for event in failed] == ["send-welcome-emails"] * 2
    assert "email welcome to admin@unheard.example" in failed[0]["data"]["error"]
    assert "timed out after 6 s" in failed[-1]["data"]["error"]
    assert tenant.event("StepFailed", says="send-welcome-emails")["type"] == "Warning"
    assert tenant.told("tenant.provisioning.failed") == []
    assert tenant.told("tenant.provisioning.compensated") == []
    assert tenant.mails() == []


def test_a_short_outage_loses_no_email(world: World, wire: Wire) -> None:
    """Away for 20 s while several tenants become active: each email arrives, once, in order; nobody hammers."""
    wire.mend()
    wire.hang_up()
    before = len(wire.turned_away)
    tenants = world.tenants([f"heard-{number}" for number in range(5)])
    for tenant in tenants:
        tenant.runs("send-welcome-emails")
        assert status(tenant.newest())["state"] == "Active", "it serves meanwhile"
    time.sleep(OUTAGE_SECONDS)  # not a wait for something: so long it lasts
    tried = len(wire.turned_away) - before
    wire.mend()
    for tenant in tenants:
        tenant.wait(has_sent, "has sent the emails")
        assert names(tenant) == IN_ORDER
    assert tried <= len(tenants) + OUTAGE_SECONDS / 2 + 6


def test_emails_follow_when_the_server_is_back(world: World, wire: Wire) -> None:
    """The tenant serves while the server is away; then each is sent once."""
    tenant = world.tenant("delayed")

    def waits(version: Object) -> bool:
        return any(row["activity"] == "send-welcome-emails" and row.get("outages") for row in timeline(version))

    version = tenant.wait(waits, "waits for the mail server").tenant
    assert status(version)["state"] == "Active"
    assert condition(version, "Ready")["status"] == "True"
    wire.mend()
    tenant.wait(has_sent, "has sent the emails")
    assert names(tenant) == IN_ORDER
