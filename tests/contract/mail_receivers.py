"""The other sides of the mailers: an SMTP server, an HTTP provider, and the memory of the fake."""

import asyncio
import contextlib
import email
import email.policy
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Protocol

import httpx
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from pydantic import SecretStr

from tenant_operator.adapters.http_mail import HttpMailer
from tenant_operator.adapters.smtp import SmtpMailer
from tenant_operator.ports import Mail
from tenant_operator.saga.errors import ActivityError, Outage, Rejected, Unavailable
from tests.contract.loopback import HttpServer, own_authority
from tests.fakes.mailer import FakeMailer

SENDER = "Tenants <no-reply@tenants.example>"
SUPPORT = "support@tenants.example"
PASSWORD = "correct horse"
TOKEN = "token-of-the-provider"
MAIL = Mail(
    key="7f0c.01JD.welcome",
    recipient="admin@bank.example",
    subject="Willkommen bei Größe – 東京",
    text="Grüße\n.\n.a line that starts with a dot\n" + "long " * 300 + "\n",
    html="<p>Grüße &amp; " + "long " * 300 + "</p>\n",
)


class Receiver(Protocol):
    """The other side of a mailer."""

    def received(self) -> list[Mail]: ...

    def refuse(self) -> None:
        """Say no for good to every recipient."""

    def be_busy(self) -> None:
        """Say "later" to every recipient."""

    def recover(self) -> None:
        """Be well again."""

    def hang_up(self) -> None:
        """Cut the connection before the mail is taken."""

    def fall_silent(self) -> None:
        """Stop answering."""


class FakeReceiver:
    """The memory of the fake, and the faults put into it."""

    def __init__(self, mailer: FakeMailer) -> None:
        self._mailer = mailer
        self._well = mailer.before

    def _fail(self, failure: ActivityError) -> None:
        async def raise_failure(operation: str, name: str) -> None:
            raise failure

        self._mailer.before = raise_failure

    def received(self) -> list[Mail]:
        return self._mailer.mails

    def refuse(self) -> None:
        self._fail(Rejected("550 no such user"))

    def be_busy(self) -> None:
        self._fail(Unavailable("451 try again later"))

    def recover(self) -> None:
        self._mailer.before = self._well

    def hang_up(self) -> None:
        self._fail(Outage("connection lost"))

    def fall_silent(self) -> None:
        self._fail(Outage("no answer"))


class SmtpReceiver:
    """What aiosmtpd calls, and what it kept."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.recipient_reply = "250 OK"
        self.data_reply = "250 OK"
        self.auth_reply: str | None = None
        self.leaves_without_goodbye = False
        self._hangs_up = False
        self._silent = False

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._silent:
            await asyncio.Event().wait()
        if self.recipient_reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.recipient_reply

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self._hangs_up:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        elif self.data_reply.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
            self.envelopes.append(envelope)
        return self.data_reply

    async def handle_QUIT(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self.leaves_without_goodbye:
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return "221 Bye"

    def authenticate(self, server: SMTP, session: Any, envelope: Envelope, mechanism: str, login: Any) -> AuthResult:
        right = (login.login, login.password) == (b"mailbox", PASSWORD.encode())
        return AuthResult(success=right and self.auth_reply is None, handled=False, message=self.auth_reply)

    def received(self) -> list[Mail]:
        return [_mail(message, envelope) for message, envelope in zip(self.messages, self.envelopes, strict=True)]

    def refuse(self) -> None:
        self.recipient_reply = "550 5.1.1 no such user"

    def be_busy(self) -> None:
        self.recipient_reply = "451 4.7.1 greylisted, try again later"

    def recover(self) -> None:
        self.recipient_reply = "250 OK"

    def hang_up(self) -> None:
        self._hangs_up = True

    def fall_silent(self) -> None:
        self._silent = True


def _mail(message: EmailMessage, envelope: Envelope) -> Mail:
    text, html = (part.get_content().replace("\r\n", "\n") for part in message.iter_parts())
    key = str(message["Message-ID"]).removeprefix("<").removesuffix("@tenants.example>")
    return Mail(key, envelope.rcpt_tos[0], str(message["Subject"]), text, html)


class HttpReceiver:
    """A provider that answers as told."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server

    def received(self) -> list[Mail]:
        mails = []
        for request in self.server.requests:
            body = json.loads(request.body)
            key = request.headers["idempotency-key"]
            mails.append(Mail(key, body["to"][0], body["subject"], body["text"], body["html"]))
        return mails

    def _answer(self, status: int) -> None:
        self.server.status = status
        self.server.requests.clear()

    def refuse(self) -> None:
        self._answer(422)

    def be_busy(self) -> None:
        self._answer(429)

    def recover(self) -> None:
        self._answer(202)

    def hang_up(self) -> None:
        self.server.hangs_up = True

    def fall_silent(self) -> None:
        self.server.silent = True


@dataclass(frozen=True)
class SmtpServer:
    """A real SMTP server, and the mailer's settings for it."""

    receiver: SmtpReceiver
    port: int

    def mailer(self, **settings: Any) -> SmtpMailer:
        return smtp_mailer(self.port, **settings)


def smtp_mailer(port: int, **settings: Any) -> SmtpMailer:
    defaults: dict[str, Any] = {"sender": SENDER, "domain": "tenants.example", "tls": "none", "timeout": 5.0}
    return SmtpMailer("127.0.0.1", port, **(defaults | settings))


def http_mailer(url: str, client: httpx.AsyncClient, **settings: Any) -> HttpMailer:
    return HttpMailer(url, SecretStr(TOKEN), sender=SENDER, client=client, **({"timeout": 5.0} | settings))


@contextlib.asynccontextmanager
async def smtp_server() -> AsyncIterator[SmtpServer]:
    """An SMTP server on a free port."""
    receiver = SmtpReceiver()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(receiver, hostname="receiver", loop=loop), "127.0.0.1", 0)
    async with server:
        yield SmtpServer(receiver, server.sockets[0].getsockname()[1])


@dataclass(frozen=True)
class SecureSmtp:
    """Two SMTP servers with one certificate: TLS from the start, and TLS on request."""

    receiver: SmtpReceiver
    implicit: int
    starttls: int
    authority: Path

    def mailer(self, tls: str, **settings: Any) -> SmtpMailer:
        port = self.implicit if tls == "implicit" else self.starttls
        secure = {"tls": tls, "ca_file": self.authority, "username": "mailbox", "password": SecretStr(PASSWORD)}
        return smtp_mailer(port, **(secure | settings))


@contextlib.asynccontextmanager
async def secure_smtp_servers(folder: Path) -> AsyncIterator[SecureSmtp]:
    """Both servers on free ports; `folder` takes the certificates."""
    receiver = SmtpReceiver()
    loop = asyncio.get_running_loop()
    context, authority = own_authority(folder)
    common: dict[str, Any] = {
        "hostname": "receiver",
        "loop": loop,
        "authenticator": receiver.authenticate,
    }
    implicit = await loop.create_server(
        lambda: SMTP(receiver, auth_require_tls=False, **common), "127.0.0.1", 0, ssl=context
    )
    starttls = await loop.create_server(
        lambda: SMTP(receiver, tls_context=context, require_starttls=True, auth_required=True, **common), "127.0.0.1", 0
    )
    async with implicit, starttls:
        yield SecureSmtp(
            receiver,
            implicit.sockets[0].getsockname()[1],
            starttls.sockets[0].getsockname()[1],
            authority,
        )
