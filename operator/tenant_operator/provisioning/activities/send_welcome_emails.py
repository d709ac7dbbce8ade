"""Tell the first administrator that the tenant is there."""

from datetime import timedelta
from typing import ClassVar, Final

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.mail import Email, Facts, Templates
from tenant_operator.saga.errors import ActivityError
from tenant_operator.saga.step import Done, RetryPolicy

_TEMPLATES: Final = Templates()
_LAST: Final = tuple(Email)[-1]


class SendWelcomeEmails(Activity):
    """Sends the welcome emails in order, each once in a run however often it is tried.

    Best effort: a tenant that serves is not rolled back for an email, and what was sent cannot be taken back.
    """

    name: ClassVar[str] = ActivityName.SEND_WELCOME_EMAILS
    phase: ClassVar[str] = PhaseName.WELCOME
    timeout: ClassVar[timedelta] = timedelta(minutes=1)
    # A mailbox that is busy (4xx) is asked again for as long as there is time.
    retry: ClassVar[RetryPolicy] = RetryPolicy(max_tries=10)
    best_effort: ClassVar[bool] = True
    compensates: ClassVar[bool] = False

    async def run(self, ctx: Context) -> Done:
        """Send what no earlier try has sent; the first failure ends the try, named after its email."""
        recipient = ctx.tenant.spec.admin.email
        if not ctx.options.may_mail(recipient):
            return Done(f"withheld: recipient {recipient} is not in the allowlist")
        for number, email in enumerate(Email):
            if email in ctx.checkpoints:
                continue
            ctx.heartbeat(f"sending email {email} to {recipient}", 100 * number // len(Email))
            await self._send(ctx, email, recipient)
            # The last one is journalled by the outcome of the activity itself: a checkpoint right before that would be
            # one write more, and a crash between sending and journalling would look the same.
            if email is not _LAST:
                await ctx.checkpoint(email.value)
        return Done("welcome emails dispatched")

    async def _send(self, ctx: Context, email: Email, recipient: str) -> None:
        try:
            key = f"{ctx.uid}.{_round(ctx)}.{email}"
            mail = _TEMPLATES.render(email, _facts(ctx), key=key, recipient=recipient)
            await ctx.ports.mailer.send(mail)
        except ActivityError as error:
            raise type(error)(f"email {email} to {recipient}: {error.message}") from error


def _round(ctx: Context) -> str:
    """What stays the same over restarts and tries, and changes when the tenant is made again: the run."""
    run = ctx.tenant.status.run
    return run.id if run is not None else str(ctx.tenant.status.attempt)


def _facts(ctx: Context) -> Facts:
    spec = ctx.tenant.spec
    organization = ctx.organization.spec.display_name if ctx.organization is not None else ""
    plan = ctx.plan.spec.display_name if ctx.plan is not None else ""
    return Facts(
        tenant=spec.display_name or ctx.tenant.slug,
        organization=organization or spec.organization,
        plan=plan or spec.plan,
        url=ctx.names.url,
        console_url=ctx.options.console_url,
        support_email=ctx.options.support_email,
    )
