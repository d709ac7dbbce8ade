"""Emails by SMTP."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Final, Literal

import aiosmtplib
from pydantic import SecretStr

from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.failure_cause import is_untrusted_certificate, root_cause
from tenant_operator.ports import Clock, Mail
from tenant_operator.saga.errors import ActivityError, Outage, Rejected, Unavailable
from tenant_operator.text import cut

Tls = Literal["none", "starttls", "implicit"]

_SYSTEM_CLOCK: Final = SystemClock()
_QUIT_SECONDS: Final = 1.0
_REPLY_LENGTH: Final = 300


class SmtpMailer:
    """Hands each mail to one SMTP server, one connection a mail.

    `sender` and `reply_to` are header addresses like `Platform <no-reply@tenants.example>`; `domain` is the name
    the server is greeted with and the end of a Message-ID: `<key@domain>`. `timeout` (seconds) spans the delivery
    of a mail. `ca_file` (PEM) replaces the system's authorities; certificate and host name are always verified,
    and with "starttls" a server that does not offer it gets neither credentials nor mail.

    Replies 4xx, lost connections and timeouts raise Outage; a 4xx that is about the recipient alone raises
    Unavailable. Replies 5xx and an untrusted certificate raise Rejected, and so does 535 (wrong credentials): nothing
    heals them within the time an email has, and going on trying gets the account locked. Messages name the server and
    its reply, never the credentials. Settings that cannot work raise ValueError at once.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        sender: str,
        domain: str,
        username: str | None = None,
        password: SecretStr | None = None,
        tls: Tls = "starttls",
        timeout: float = 20.0,
        reply_to: str | None = None,
        ca_file: Path | None = None,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self._host = host
        self._port = port
        self._sender = sender
        self._domain = domain
        self._username = username
        self._password = password
        self._tls = tls
        self._timeout = timeout
        self._reply_to = reply_to
        self._clock = clock
        # Loading the authorities takes milliseconds of CPU: once, not for every mail.
        self._tls_context = None if tls == "none" else ssl.create_default_context(cafile=ca_file)
        if not parseaddr(sender)[1]:
            raise ValueError(f"sender {sender!r} has no address")
        if (username is None) != (password is None):
            raise ValueError("username and password go together: one of them is missing")
        # Refuses what cannot be a host name now rather than with the first mail.
        self._session()

    @property
    def server(self) -> str:
        """What the server is called in messages."""
        return f"mail server {self._host}:{self._port}"

    async def send(self, mail: Mail) -> None:
        """Returns once the server has taken responsibility for the mail."""
        content = self._compose(mail)
        async with self._conversation() as session:
            await session.mail(parseaddr(self._sender)[1])
            await session.rcpt(mail.recipient)
            await session.data(content)

    async def check(self) -> None:
        """Returns if the server lets us in: it says hello, encrypts and authenticates as configured."""
        async with self._conversation() as session:
            await session.noop()

    @contextlib.asynccontextmanager
    async def _conversation(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """A session that is let in, for as long as the timeout allows; what fails in it is raised as ours."""
        session = self._session()
        try:
            async with asyncio.timeout(self._timeout):
                await session.connect()
                yield session
            # What was asked for is done: however the goodbye goes, it must not make a mail look unsent.
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await session.quit(timeout=_QUIT_SECONDS)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise self._failure(error) from error
        finally:
            session.close()

    def _compose(self, mail: Mail) -> bytes:
        """The mail as it goes over the wire: seven bits wide, so that any server takes it."""
        message = EmailMessage(policy=SMTP_POLICY.clone(cte_type="7bit"))
        try:
            message["Message-ID"] = f"<{mail.key}@{self._domain}>"
            message["Date"] = format_datetime(self._clock.now())
            message["From"] = self._sender
            message["To"] = mail.recipient
            if self._reply_to is not None:
                message["Reply-To"] = self._reply_to
            message["Subject"] = mail.subject
        except ValueError as error:
            raise Rejected(f"mail {mail.key!r} has a header that cannot be written: {error}") from error
        # Keeps vacation responders silent (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text, cte="quoted-printable")
        message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
        return message.as_bytes()

    def _session(self) -> aiosmtplib.SMTP:
        """A session that on connect says hello, encrypts and authenticates as configured."""
        return aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            local_hostname=self._domain,
            timeout=self._timeout,
            use_tls=self._tls == "implicit",
            start_tls=self._tls == "starttls",
            tls_context=self._tls_context,
            username=self._username,
            password=None if self._password is None else self._password.get_secret_value(),
        )

    def _failure(self, error: Exception) -> ActivityError:
        """What the failure of a delivery means."""
        server = self.server
        match error:
            case aiosmtplib.SMTPResponseException():
                reply = self._without_secrets(" ".join(f"{error.code} {error.message}".split()))
                # 421 is a goodbye to everybody, whatever it answers.
                own = isinstance(error, aiosmtplib.SMTPRecipientRefused) and error.code != 421
                kind = Rejected if error.code >= 500 else Unavailable if own else Outage
                return kind(f"{server} replied: {cut(reply, _REPLY_LENGTH)}")
            case TimeoutError():
                return Outage(f"{server} did not answer within {self._timeout:g} s")
            case OSError() if is_untrusted_certificate(error):
                return Rejected(f"{server}: {root_cause(error)}")
            case OSError():
                return Outage(f"{server}: {root_cause(error)}")
            case _:
                return Rejected(f"{server}: {error}")

    def _without_secrets(self, reply: str) -> str:
        """The reply of a server that may quote the command it did not like."""
        if self._password is None:
            return reply
        password = self._password.get_secret_value()
        plain = f"\0{self._username}\0{password}"
        secrets = {password, *(base64.b64encode(each.encode()).decode() for each in (password, plain))} - {""}
        # One may end another: the longer first, or a part of it would stay.
        for secret in sorted(secrets, key=len, reverse=True):
            reply = reply.replace(secret, "***")
        return reply
