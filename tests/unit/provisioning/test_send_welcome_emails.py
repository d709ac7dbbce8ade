"""The first administrator gets three emails, in order, none twice because of a restart."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tenant_operator.adapters.clock import SystemClock
from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.organization import Organization, OrganizationSpec
from tenant_operator.api.states import Direction, RunKind, RunReason
from tenant_operator.api.tenant import Admin, Tenant, TenantSpec
from tenant_operator.api.tenant_status import Run, TenantStatus
from tenant_operator.provisioning.activities.send_welcome_emails import SendWelcomeEmails
from tenant_operator.provisioning.activity import Context, Ports
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import ActivityError, Rejected, Unavailable
from tenant_operator.saga.step import Done
from tests.fakes.mailer import FakeMailer
from tests.fakes.prober import FakeProber

UID = "7f0c8c2e-0000-4000-8000-000000000001"
ADMIN = "admin@bank.example"
DISPATCHED = Done("welcome emails dispatched")


def tenant(run_id: str | None = "01jd") -> Tenant:
    run = None
    if run_id is not None:
        run = Run(
            id=run_id,
            attempt=1,
            kind=RunKind.PROVISION,
            direction=Direction.FORWARD,
            reason=RunReason.CREATED,
            started_at=datetime(2026, 11, 21, tzinfo=UTC),
        )
    return Tenant(
        metadata=ObjectMeta(name="banking", namespace="bank", uid=UID),
        spec=TenantSpec(organization="bank", plan="starter", admin=Admin(email=ADMIN)),
        status=TenantStatus(run=run, attempt=1),
    )


@dataclass
class Journal:
    """What outlives a crash: the world behind the mailer, and the checkpoints."""

    mailer: FakeMailer = field(default_factory=FakeMailer)
    checkpoints: list[str] = field(default_factory=list)
    heartbeats: list[tuple[str, int | None]] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [mail.key for mail in self.mailer.mails]

    async def checkpoint(self, name: str) -> None:
        self.checkpoints.append(name)

    def context(self, tenant: Tenant, options: Options, organization: Organization | None = None) -> Context:
        unused = cast(Any, None)
        return Context(
            tenant=tenant,
            plan=None,
            organization=organization,
            names=Names("banking", "bank", "bank", UID, options.base_domain),
            ports=Ports(unused, unused, self.mailer, FakeProber(), unused, unused, SystemClock()),
            options=options,
            checkpoints=frozenset(self.checkpoints),
            heartbeat=lambda detail, progress: self.heartbeats.append((detail, progress)),
            is_awaited=lambda: True,
            checkpoint=self.checkpoint,
        )

    async def run(self, tenant: Tenant, options: Options = Options(), **more: Any) -> Done:  # noqa: B008
        return await SendWelcomeEmails().run(self.context(tenant, options, **more))


@pytest.fixture
def journal() -> Journal:
    return Journal()


def fail(journal: Journal, email: str, failure: Exception) -> None:
    """Before the email is out."""

    async def before(operation: str, name: str) -> None:
        if name.endswith(f".{email}"):
            raise failure

    journal.mailer.before = before


async def test_three_emails_go_out_in_order(journal: Journal) -> None:
    assert await journal.run(tenant()) == DISPATCHED

    assert journal.keys == [f"{UID}.01jd.{name}" for name in ("welcome", "console-url", "onboarding")]
    assert {mail.recipient for mail in journal.mailer.mails} == {ADMIN}


async def test_each_but_the_last_is_journalled_when_it_is_out(journal: Journal) -> None:
    seen: list[tuple[str, int]] = []

    async def after(operation: str, name: str) -> None:
        seen.append((name.rpartition(".")[2], len(journal.checkpoints)))

    journal.mailer.after = after
    await journal.run(tenant())

    assert seen == [("welcome", 0), ("console-url", 1), ("onboarding", 2)]
    assert journal.checkpoints == ["welcome", "console-url"]


async def test_it_says_what_it_is_doing(journal: Journal) -> None:
    await journal.run(tenant())

    assert journal.heartbeats == [
        ("sending email welcome to admin@bank.example", 0),
        ("sending email console-url to admin@bank.example", 33),
        ("sending email onboarding to admin@bank.example", 66),
    ]


@pytest.mark.parametrize("failure", [Unavailable, Rejected])
async def test_a_failure_names_the_email_and_keeps_its_kind(journal: Journal, failure: type[ActivityError]) -> None:
    fail(journal, "console-url", failure("mail server mx:25 replied: 450 busy"))

    with pytest.raises(failure) as told:
        await journal.run(tenant())

    assert told.value.message == ("email console-url to admin@bank.example: mail server mx:25 replied: 450 busy")
    assert journal.checkpoints == ["welcome"]


async def test_the_next_try_goes_on_where_the_last_one_failed(journal: Journal) -> None:
    fail(journal, "onboarding", Unavailable("busy"))
    with pytest.raises(Unavailable):
        await journal.run(tenant())
    fail(journal, "none", Unavailable("busy"))

    assert await journal.run(tenant()) == DISPATCHED

    assert [key.rpartition(".")[2] for key in journal.keys] == ["welcome", "console-url", "onboarding"]


async def test_an_email_whose_fate_is_unknown_is_sent_again_under_the_same_key(journal: Journal) -> None:
    async def lose_the_answer(operation: str, name: str) -> None:
        raise Unavailable("connection lost")

    well = journal.mailer.after
    journal.mailer.after = lose_the_answer
    with pytest.raises(Unavailable):
        await journal.run(tenant())
    journal.mailer.after = well
    await journal.run(tenant())

    assert journal.keys[:2] == [f"{UID}.01jd.welcome"] * 2
    assert len(journal.keys) == 4


async def test_a_tenant_made_again_is_welcomed_again() -> None:
    first, second = Journal(), Journal()
    await first.run(tenant("01jd"))
    await second.run(tenant("01je"))

    assert not set(first.keys) & set(second.keys)


async def test_without_a_run_the_attempt_tells_the_rounds_apart(journal: Journal) -> None:
    await journal.run(tenant(run_id=None))

    assert journal.keys[0] == f"{UID}.1.welcome"


async def test_who_is_not_in_the_allowlist_gets_nothing(journal: Journal) -> None:
    outcome = await journal.run(tenant(), Options(mail_allowlist=("*@dev.example",)))

    assert outcome == Done("withheld: recipient admin@bank.example is not in the allowlist")
    assert journal.keys == []


async def test_who_is_in_the_allowlist_gets_all(journal: Journal) -> None:
    assert await journal.run(tenant(), Options(mail_allowlist=("*@Bank.example",))) == DISPATCHED

    assert len(journal.keys) == 3


async def test_the_email_speaks_of_the_organisation_by_its_name(journal: Journal) -> None:
    organization = Organization(
        metadata=ObjectMeta(name="bank"), spec=OrganizationSpec(display_name="Bank & Co", namespace="bank")
    )

    await journal.run(tenant(), organization=organization)

    assert journal.mailer.mails[0].subject == "Welcome: banking of Bank & Co is ready"


async def test_an_organisation_that_is_gone_is_spoken_of_by_its_slug(journal: Journal) -> None:
    await journal.run(tenant())

    assert journal.mailer.mails[0].subject == "Welcome: banking of bank is ready"


def test_it_never_fails_the_tenant_and_cannot_be_taken_back() -> None:
    activity = SendWelcomeEmails()

    assert (activity.name, activity.phase) == ("send-welcome-emails", "welcome")
    assert activity.best_effort
    assert not activity.compensates
    assert activity.timeout == timedelta(minutes=1)
