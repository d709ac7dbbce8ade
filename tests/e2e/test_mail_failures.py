"""The mail server is away: a tenant that serves is not rolled back for an email."""

from collections.abc import Iterator, Mapping

import pytest

from devcluster import Environment
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.wire import Wire
from tests.e2e.world import World, condition, status, timeline


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


def test_tenant_is_active_without_its_emails(world: World) -> None:
    tenant = world.tenant("unheard")
    now = tenant.settles("Active")
    assert now["run"]["outcome"] == "Completed"
    assert condition(tenant.newest(), "Ready")["status"] == "True"
    sent = condition(tenant.newest(), "WelcomeEmailsSent")
    assert sent["status"] == "False"
    assert "email welcome to admin@unheard.example" in sent["message"]
    assert "connection refused" in sent["message"].lower()
    failed = tenant.told("tenant.provisioning.step_failed")
    assert [event["data"]["step"] for event in failed] == ["send-welcome-emails"] * 3
    assert [event["data"]["try"] for event in failed] == [1, 2, 3]
    assert "connection refused" in failed[-1]["data"]["error"].lower()
    assert tenant.event("StepFailed", says="send-welcome-emails")["type"] == "Warning"
    assert tenant.told("tenant.provisioning.failed") == []
    assert tenant.told("tenant.provisioning.compensated") == []
    assert tenant.mails() == []


def _tries_an_email_again(tenant: Object) -> bool:
    return any(row["activity"] == "send-welcome-emails" and row.get("nextTryAt") for row in timeline(tenant))


def test_emails_follow_when_the_server_is_back(world: World, wire: Wire) -> None:
    """The tenant serves while they are tried again; then each is sent once."""
    world.offer(catalog.plan("delayed", retries={"send-welcome-emails": {"maxTries": 50, "maxBackoff": "500ms"}}))
    tenant = world.tenant("delayed", "delayed")
    version = tenant.wait(_tries_an_email_again, "tries an email again").tenant
    assert status(version)["state"] == "Active"
    assert condition(version, "Ready")["status"] == "True"
    wire.mend()
    tenant.wait(lambda each: condition(each, "WelcomeEmailsSent").get("status") == "True", "has sent the emails")
    mails = tenant.mails()
    assert [str(mail["Message-ID"]).split(".")[-2].split("@")[0] for mail in mails] == [
        "welcome",
        "console-url",
        "onboarding",
    ]
