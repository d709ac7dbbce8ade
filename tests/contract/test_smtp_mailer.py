"""What SMTP adds to the promises of a mailer: headers, replies, encryption, credentials."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tenant_operator.adapters.clock import SystemClock
from tenant_operator.saga.errors import ActivityError, Outage, Rejected, Unavailable
from tests.contract.loopback import listening, unused_port
from tests.contract.mail_receivers import (
    MAIL,
    PASSWORD,
    SENDER,
    SUPPORT,
    SecureSmtp,
    SmtpServer,
    secure_smtp_servers,
    smtp_mailer,
    smtp_server,
)


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    async with smtp_server() as server:
        yield server


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[SecureSmtp]:
    async with secure_smtp_servers(tmp_path) as servers:
        yield servers


async def test_the_headers(smtp: SmtpServer) -> None:
    class Clock(SystemClock):
        def now(self) -> datetime:
            return datetime(2026, 11, 21, 6, 0, tzinfo=UTC)

    await smtp.mailer(reply_to=SUPPORT, clock=Clock()).send(MAIL)

    [message] = smtp.receiver.messages
    assert {name: str(message[name]) for name in message if name != "Content-Type"} == {
        "Message-ID": "<7f0c.01JD.welcome@tenants.example>",
        "Date": "Sat, 21 Nov 2026 06:00:00 +0000",
        "From": SENDER,
        "To": "admin@bank.example",
        "Reply-To": SUPPORT,
        "Subject": MAIL.subject,
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
    }
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert smtp.receiver.envelopes[0].mail_from == "no-reply@tenants.example"


async def test_without_a_place_to_reply_to_there_is_no_such_header(smtp: SmtpServer) -> None:
    await smtp.mailer().send(MAIL)

    assert smtp.receiver.messages[0]["Reply-To"] is None


@pytest.mark.parametrize(
    ("reply", "failure"),
    [("451 4.3.0 disk full", Outage), ("552 5.3.4 too big", Rejected), ("554 5.7.1 spam", Rejected)],
)
async def test_the_reply_to_the_content_is_told(smtp: SmtpServer, reply: str, failure: type[ActivityError]) -> None:
    smtp.receiver.data_reply = reply

    with pytest.raises(failure) as told:
        await smtp.mailer().send(MAIL)

    assert told.value.message == f"mail server 127.0.0.1:{smtp.port} replied: {reply}"


async def test_a_mail_that_was_taken_is_sent_however_the_goodbye_goes(smtp: SmtpServer) -> None:
    smtp.receiver.leaves_without_goodbye = True

    await smtp.mailer().send(MAIL)

    assert smtp.receiver.received() == [MAIL]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sender": ""}, "has no address"),
        ({"username": "mailbox"}, "go together"),
        ({"password": SecretStr(PASSWORD)}, "go together"),
        ({"domain": "tenants.example\r\nMAIL FROM:<x>"}, "prohibited"),
    ],
)
async def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smtp_mailer(25, **settings)


async def test_a_server_that_is_closing_is_unavailable() -> None:
    async def goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 4.3.2 shutting down\r\n")

    async with listening(goodbye) as port:
        with pytest.raises(Outage, match=r"421 4\.3\.2 shutting down"):
            await smtp_mailer(port).send(MAIL)


async def test_a_server_that_never_greets_is_unavailable() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(listen) as port:
        with pytest.raises(Outage, match=r"did not answer within 0\.2 s"):
            await smtp_mailer(port, timeout=0.2).send(MAIL)


async def test_nobody_listening_is_named() -> None:
    with pytest.raises(Outage, match="connection refused"):
        await smtp_mailer(unused_port()).send(MAIL)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [("450 4.2.1 mailbox busy", Unavailable), ("452 4.2.2 over quota", Unavailable), ("421 4.3.2 bye", Outage)],
)
async def test_a_busy_mailbox_is_not_a_server_that_is_away(
    smtp: SmtpServer, reply: str, failure: type[ActivityError]
) -> None:
    smtp.receiver.recipient_reply = reply

    with pytest.raises(Unavailable) as told:
        await smtp.mailer().send(MAIL)

    assert type(told.value) is failure


async def test_a_question_sends_nothing_and_tells_whether_the_server_is_there(smtp: SmtpServer) -> None:
    await smtp.mailer().check()

    assert smtp.receiver.messages == []
    with pytest.raises(Outage, match="connection refused"):
        await smtp_mailer(unused_port()).check()


async def test_an_address_that_smtp_cannot_carry_is_rejected(smtp: SmtpServer) -> None:
    with pytest.raises(Rejected):
        await smtp.mailer().send(replace(MAIL, recipient="größe@bank.example"))


async def test_nothing_is_sent_in_the_clear_when_encryption_is_asked_for(smtp: SmtpServer) -> None:
    with pytest.raises(Rejected, match="STARTTLS extension not supported"):
        await smtp.mailer(tls="starttls").send(MAIL)

    assert smtp.receiver.messages == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
class TestSecureSmtp:
    """Who the server is, and who the platform is."""

    async def test_with_trust_and_the_password_the_mail_gets_through(self, secure: SecureSmtp, tls: str) -> None:
        await secure.mailer(tls).send(MAIL)

        assert secure.receiver.received() == [MAIL]

    async def test_an_unknown_authority_is_rejected(self, secure: SecureSmtp, tls: str) -> None:
        with pytest.raises(Rejected, match="certificate not trusted"):
            await secure.mailer(tls, ca_file=None).send(MAIL)

        assert secure.receiver.messages == []

    async def test_a_wrong_password_is_rejected_and_not_told(self, secure: SecureSmtp, tls: str) -> None:
        with pytest.raises(Rejected, match="replied: 535") as told:
            await secure.mailer(tls, password=SecretStr("wrong-one")).send(MAIL)

        assert "wrong-one" not in told.value.message

    async def test_a_server_that_quotes_the_password_does_not_make_it_known(self, secure: SecureSmtp, tls: str) -> None:
        secure.receiver.auth_reply = f"535 5.7.8 no: {PASSWORD} AG1haWxib3gAY29ycmVjdCBob3JzZQ=="

        with pytest.raises(Rejected) as told:
            await secure.mailer(tls).send(MAIL)

        assert told.value.message.endswith("replied: 535 5.7.8 no: *** ***")
