"""validate-request: refuse now what a later phase would choke on; at the end of a release, see that all is gone."""

from datetime import timedelta
from typing import ClassVar, Final

from tenant_operator.api.names import ActivityName, PhaseName
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.objects import belongs_to, namespace_ref, taken_by
from tenant_operator.provisioning.organization_rules import Defect, defects
from tenant_operator.provisioning.recall import remains
from tenant_operator.provisioning.rules import check_request, refusal
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tenant_operator.saga.evolve import RELEASED_AGAIN
from tenant_operator.saga.step import Done, NotYet, Progress, Remains, Undone

# The catalogue is fed by watches: a Plan applied together with the Tenant may reach it a moment later.
_CATALOGUE_LAG: Final = timedelta(seconds=2)


class ValidateRequest(Activity):
    """Checks again what admission checks, because admission can be bypassed; holds nothing."""

    name: ClassVar[str] = ActivityName.VALIDATE_REQUEST
    phase: ClassVar[str] = PhaseName.VALIDATE
    timeout: ClassVar[timedelta] = timedelta(seconds=30)
    compensates: ClassVar[bool] = False
    verifies: ClassVar[bool] = True
    looks_only: ClassVar[bool] = True

    async def run(self, ctx: Context) -> Progress:
        """Rejected with every violation at once; OwnershipConflict if the host is already known to be taken."""
        ctx.heartbeat("checking the request", None)
        catalog = ctx.ports.catalog
        tenants = catalog.tenants_of(ctx.tenant.spec.organization)
        found: list[Defect] = []
        if ctx.organization is not None:
            found = defects(ctx.organization, catalog.organizations(), tenants, ctx.options.responder_namespace)
        violations = check_request(ctx.tenant, ctx.plan, ctx.organization, tenants, ctx.names, found)
        if violations and _just_begun(ctx):
            return NotYet(refusal(violations), 0.25)
        if violations:
            raise Rejected(refusal(violations))
        holder = await ctx.ports.cluster.get(namespace_ref(ctx.names))
        if holder is not None and not belongs_to(holder, ctx.names):
            # Not the decision, which is the creation of the namespace: an early word.
            raise OwnershipConflict(taken_by(holder, ctx.names))
        return Done(f"plan {ctx.tenant.spec.plan} and host {ctx.names.host} are available")

    async def compensate(self, ctx: Context) -> Undone:
        """The last look: a journal that tells of nothing does not prove that nothing is there."""
        ctx.heartbeat("looking whether anything is left", None)
        found = await remains(ctx)
        if not found:
            return Done(f"nothing is left, host {ctx.names.host} is free")
        if RELEASED_AGAIN in ctx.checkpoints:
            raise Unavailable(f"still there: {', '.join(found)}")
        return Remains(found)


def _just_begun(ctx: Context) -> bool:
    """Whether the run is so young that the catalogue may not know yet what was applied before it."""
    run = ctx.tenant.status.run
    return run is not None and abs(ctx.ports.clock.now() - run.started_at) < _CATALOGUE_LAG
