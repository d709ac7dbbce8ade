"""A mailer that keeps what it is given."""

from dataclasses import dataclass, field

from tenant_operator.ports import Mail
from tenant_operator.saga.errors import Rejected
from tests.fakes.hooks import Hook, nothing_happens


@dataclass
class FakeMailer:
    """Keeps every mail in order, doubles included, so that a test sees them.

    `before` and `after` are awaited around the effect with ("send", key); what they raise is raised: a fault before
    the mail is out, or an answer that is lost after it is.
    """

    mails: list[Mail] = field(default_factory=list)
    before: Hook = nothing_happens
    after: Hook = nothing_happens

    async def send(self, mail: Mail) -> None:
        """Keep the mail."""
        if not all(header.isprintable() for header in (mail.key, mail.recipient, mail.subject)):
            raise Rejected(f"mail {mail.key!r} has a header that cannot be written")
        await self.before("send", mail.key)
        self.mails.append(mail)
        await self.after("send", mail.key)
