"""mark-active: from here on the tenant's URL serves."""

from datetime import timedelta
from typing import ClassVar, Final

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.api.states import DesiredState
from tenant_operator.provisioning import claims, manifests, route
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.contents import Activated
from tenant_operator.provisioning.objects import belongs_to, is_going, namespace_ref
from tenant_operator.provisioning.rules import refusal, tenant_limit
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.step import Done, NotYet, Progress

# A creationTimestamp has whole seconds; the rest allows for clocks that differ a little.
_SAME_SECOND: Final = timedelta(seconds=1.25)


class MarkActive(Activity):
    """Opens the route. From before that the namespace says that the tenant has served: no rollback takes it away again,
    whatever becomes of the status."""

    name: ClassVar[str] = ActivityName.MARK_ACTIVE
    phase: ClassVar[str] = PhaseName.ACTIVATE
    timeout: ClassVar[timedelta] = timedelta(seconds=30)

    async def run(self, ctx: Context) -> Progress:
        """A tenant that is wanted suspended is complete with its route closed."""
        if (waiting := await _seat(ctx)) is not None:
            return waiting
        if not await _marked(ctx, served=True):
            raise Rejected(f"namespace {ctx.names.namespace} is gone, or another tenant's")
        if ctx.tenant.spec.desired_state is DesiredState.SUSPENDED:
            return Done(f"{ctx.names.url} is kept closed: the tenant is wanted suspended", Activated(suspended=True))
        ctx.heartbeat(f"opening {ctx.names.url}", None)
        await route.set_open(ctx.ports.cluster, ctx.names, ctx.options, ctx.plan, is_open=True)
        return Done(f"{ctx.names.url} is open", Activated(suspended=False))

    async def compensate(self, ctx: Context) -> Progress:
        """Close the route; one that is not there is closed."""
        ctx.heartbeat(f"closing {ctx.names.url}", None)
        closed = await route.set_open(ctx.ports.cluster, ctx.names, ctx.options, ctx.plan, is_open=False)
        await _marked(ctx, served=False)
        return Done(f"{ctx.names.url} is closed" if closed else f"{ctx.names.url} has no route")


async def _marked(ctx: Context, *, served: bool) -> bool:
    """Have the namespace remember whether it has served. False if there is none: applying would make one."""
    namespace = await ctx.ports.cluster.get(namespace_ref(ctx.names))
    if namespace is None or is_going(namespace) or not belongs_to(namespace, ctx.names):
        return False
    await ctx.ports.cluster.apply(claims.marked(manifests.claim(ctx.names), ctx.tenant, served=served))
    return True


async def _seat(ctx: Context) -> NotYet | None:
    """Whether the tenant is within its plan's limit, for good this time. Rejected if it is not.

    Two tenants created in the same second come in the order of their UIDs, and the first of them to be validated may
    not have seen the other. The order is certain once that second is over and all who were created in it are known.
    """
    limited = ctx.plan is not None and ctx.plan.spec.limits.tenants is not None
    created = ctx.tenant.metadata.creation_timestamp
    if ctx.plan is None or not limited or created is None:
        return None
    left = (created + _SAME_SECOND - ctx.ports.clock.now()).total_seconds()
    if 0 < left <= _SAME_SECOND.total_seconds():  # more would be a clock that is wrong
        return NotYet("the second of its creation is not over: who came first is not certain yet", left)
    namespace = ctx.tenant.metadata.namespace or ""
    if ctx.ports.catalog.tenants_in(namespace) < await ctx.ports.census.count(namespace):
        return NotYet(f"the catalogue is behind: not every Tenant of namespace {namespace} is known yet", 0.2)
    tenants = ctx.ports.catalog.tenants_of(ctx.tenant.spec.organization)
    if over := list(tenant_limit(ctx.tenant, ctx.plan, tenants)):
        raise Rejected(refusal(over))
    return None
