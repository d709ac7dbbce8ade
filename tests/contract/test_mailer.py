"""A mailer hands over what it is given, once per call, and says which failures can heal."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest

from tenant_operator.ports import Mailer
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tests.contract.loopback import HttpServer, http_server, unused_port
from tests.contract.mail_receivers import (
    MAIL,
    FakeReceiver,
    HttpReceiver,
    Receiver,
    SmtpServer,
    http_mailer,
    smtp_mailer,
    smtp_server,
)
from tests.fakes.mailer import FakeMailer


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    async with smtp_server() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


@pytest.fixture
async def provider() -> AsyncIterator[HttpServer]:
    async with http_server() as server:
        server.status = 202
        yield server


@dataclass(frozen=True)
class Line:
    """A mailer, the other side, and the same mailer with nobody on the other side and with little patience."""

    mailer: Mailer
    receiver: Receiver
    to_nobody: Mailer
    impatient: Mailer


@pytest.fixture(params=["fake", "smtp", "http"])
def line(request: pytest.FixtureRequest, smtp: SmtpServer, provider: HttpServer, client: httpx.AsyncClient) -> Line:
    if request.param == "smtp":
        return Line(smtp.mailer(), smtp.receiver, smtp_mailer(unused_port()), smtp.mailer(timeout=0.2))
    if request.param == "http":
        return Line(
            http_mailer(provider.url, client),
            HttpReceiver(provider),
            http_mailer(f"http://127.0.0.1:{unused_port()}/", client),
            http_mailer(provider.url, client, timeout=0.2),
        )
    fake, unreachable = FakeMailer(), FakeMailer()
    FakeReceiver(unreachable).hang_up()
    return Line(fake, FakeReceiver(fake), unreachable, fake)


async def test_what_arrives_is_what_was_sent(line: Line) -> None:
    await line.mailer.send(MAIL)

    assert line.receiver.received() == [MAIL]


async def test_the_same_mail_again_carries_the_same_key(line: Line) -> None:
    await line.mailer.send(MAIL)
    await line.mailer.send(MAIL)

    assert [mail.key for mail in line.receiver.received()] == [MAIL.key, MAIL.key]


async def test_mails_can_be_sent_at_the_same_time(line: Line) -> None:
    mails = [replace(MAIL, key=f"7f0c.{number}.welcome") for number in range(5)]

    await asyncio.gather(*map(line.mailer.send, mails))

    assert sorted(mail.key for mail in line.receiver.received()) == [mail.key for mail in mails]


async def test_a_refused_recipient_is_rejected(line: Line) -> None:
    line.receiver.refuse()

    with pytest.raises(Rejected):
        await line.mailer.send(MAIL)


async def test_later_means_unavailable_and_a_later_try_gets_through(line: Line) -> None:
    line.receiver.be_busy()
    with pytest.raises(Unavailable):
        await line.mailer.send(MAIL)
    line.receiver.recover()

    await line.mailer.send(MAIL)

    assert line.receiver.received() == [MAIL]


async def test_a_lost_connection_is_unavailable(line: Line) -> None:
    line.receiver.hang_up()

    with pytest.raises(Outage):
        await line.mailer.send(MAIL)


async def test_silence_is_unavailable(line: Line) -> None:
    line.receiver.fall_silent()

    with pytest.raises(Outage):
        await line.impatient.send(MAIL)


async def test_nobody_listening_is_unavailable(line: Line) -> None:
    with pytest.raises(Outage):
        await line.to_nobody.send(MAIL)


@pytest.mark.parametrize("field", ["key", "recipient", "subject"])
async def test_a_line_break_cannot_start_another_header(line: Line, field: str) -> None:
    forged = replace(MAIL, **{field: "a@bank.example\r\nBcc: everyone@bank.example"})

    with pytest.raises(Rejected):
        await line.mailer.send(forged)

    assert line.receiver.received() == []
