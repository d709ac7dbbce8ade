"""What a serving tenant needs beside sagas: traffic as desired, workloads as the plan has them, repair, health."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from tenant_operator.api.plan import Plan
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock, Manifest
from tenant_operator.provisioning import claims, route
from tenant_operator.provisioning.activities.deploy_workloads import workload_refs
from tenant_operator.provisioning.activities.wait_ready import WaitReady
from tenant_operator.provisioning.activity import Context
from tenant_operator.provisioning.objects import apply_all, delete_all, ref_of
from tenant_operator.saga.errors import ActivityError, Rejected
from tenant_operator.saga.evolve import bounded
from tenant_operator.saga.step import NotYet
from tenant_operator.tenants.feed import Told
from tenant_operator.tenants.health import Health, went_down
from tenant_operator.tenants.host import Silence, TenantSaga
from tenant_operator.tenants.lifecycle import requester
from tenant_operator.tenants.memory import TenantMemory, Tended
from tenant_operator.tenants.notices import Happening
from tenant_operator.tenants.repair import Repair, claim
from tenant_operator.tenants.standing import SERVING, Trouble, standing_of
from tenant_operator.tenants.writer import StatusWriter

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
_ROLLOUT_RECHECK: Final = 5.0


class Upkeep:
    """Level-triggered like everything else: compares, and does what is missing. An idle tenant costs no write.

    Intent before effect, as in the saga: what is about to be done stands in the status before it is begun, and is
    taken back only when it is done. So whoever looks next, after a crash or a change of mind, does not believe the
    status where the cluster may be ahead of it.
    """

    def __init__(
        self,
        host: TenantSaga,
        writer: StatusWriter,
        repair: Repair,
        health: Health,
        memory: TenantMemory,
        clock: Clock,
    ) -> None:
        self._host = host
        self._repair = repair
        self._health = health
        self._memory = memory
        self._writer = writer
        self._clock = clock

    async def tend(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """See to a serving tenant. Returns it as last journalled, and the seconds after which to look again.

        Raises Stale, Gone.
        """
        if not self._host.mine(tenant):
            return tenant, None
        slot = self._memory.slot(tenant)
        released = tenant.spec.desired_state is DesiredState.DECOMMISSIONED
        if tenant.status.state not in SERVING or released or tenant.metadata.deletion_timestamp is not None:
            slot.tended = Tended()
            return tenant, None
        try:
            tenant = await self._traffic(tenant)
            tenant = await self._contents(tenant)
            tenant, later = await self._repair.tend(tenant)
            tenant = await self._contents(tenant)  # what reads a Secret that was made again
            tenant, again = await self._rollout(tenant)
            tenant = await self._traffic(tenant)  # what had to wait for the rollout
            tenant, soon = await self._health.tend(tenant)
            tenant = await self._recovered(tenant)
        except ActivityError as error:
            return await self._in_trouble(tenant, error), self._pause(slot.tended)
        slot.tended.pause = None
        return tenant, min((each for each in (again, soon, later) if each is not None), default=None)

    def _pause(self, tended: Tended) -> float:
        """Until the next try, unless something wakes the tenant before: that is a try, too, but doubles nothing."""
        now = self._clock.elapsed()
        pause, due = tended.pause or (_FIRST_PAUSE / 2, now)
        if now >= due:
            pause = min(pause * 2, _LONGEST_PAUSE)
        tended.pause = (pause, now + pause)
        return pause

    async def _in_trouble(self, tenant: Tenant, error: ActivityError) -> Tenant:
        """Say what failed: in the conditions if that is news, in an Event in any case."""
        standing = standing_of(tenant.status)
        suspended = tenant.spec.desired_state is DesiredState.SUSPENDED
        what = f"the tenant does not follow plan {tenant.spec.plan}"
        if standing.suspended is not suspended:
            what = f"the tenant could not be {'suspended' if suspended else 'resumed'}"
        message = f"{what}: {bounded(error.message)}; it goes on being tried"
        happening = Happening("UpkeepFailed", message, warning=True)
        trouble, old = Trouble(message, error.can_heal), standing.trouble
        turned = old is None or old.can_heal is not trouble.can_heal
        if turned or (old != trouble and self._tended(tenant).is_time_for_news(self._clock.elapsed())):
            with suppress(ActivityError):  # no status can be written: the next try finds out whether that has passed
                return await self._writer.write_standing(tenant, replace(standing, trouble=trouble), happening)
        await self._writer.tell(tenant, [happening])
        return tenant

    async def _recovered(self, tenant: Tenant) -> Tenant:
        standing = standing_of(tenant.status)
        if standing.trouble is None:
            return tenant
        happening = Happening("UpkeepRecovered", f"no longer so: {standing.trouble.message}")
        return await self._writer.write_standing(tenant, replace(standing, trouble=None), happening)

    async def _traffic(self, tenant: Tenant) -> Tenant:
        """Suspend or resume: the intent, one apply of the route, the outcome. Run again, it changes nothing."""
        wanted = tenant.spec.desired_state is DesiredState.SUSPENDED
        standing = standing_of(tenant.status)
        if standing.suspended is wanted and not standing.switching:
            return tenant
        ctx, degraded = self._context(tenant), standing.degraded
        if not wanted and ctx.plan is not None:
            degraded = await self._health.look(ctx, ctx.plan)
            is_down = degraded is not None and degraded.is_down
            if is_down and (standing.rolling_out or ctx.digest(ctx.plan) != standing.workloads_hash):
                return tenant  # nobody answers yet: opening waits for the changed plan
        if not standing.switching:
            standing = replace(standing, switching=True)
            tenant = await self._writer.write_standing(tenant, standing)
        await route.set_open(ctx.ports.cluster, ctx.names, ctx.options, ctx.plan, is_open=not wanted)
        done = replace(standing, suspended=wanted, switching=False)
        if standing.suspended is wanted:  # somebody changed their mind in between
            return await self._writer.write_standing(tenant, done)
        who = requester(tenant)
        if wanted:
            paused = Happening("Suspended", "traffic is paused, everything is kept")
            return await self._writer.write_standing(tenant, done, paused, events=[("tenant.suspended", {}, who)])
        events: list[Told] = [("tenant.resumed", {}, who)]
        if degraded is None or not degraded.is_down:
            resumed = Happening("Resumed", f"serving at {ctx.names.url}")
            return await self._writer.write_standing(tenant, done, resumed, events=events)
        resumed = Happening("Resumed", f"the route is open, and {degraded.cause}", warning=True)
        events.append(went_down(ctx, degraded))
        return await self._writer.write_standing(tenant, replace(done, degraded=degraded), resumed, events=events)

    async def _contents(self, tenant: Tenant) -> Tenant:
        """Roll out what the plan has changed, and put right what somebody else has."""
        ctx, tended, standing = self._context(tenant), self._tended(tenant), standing_of(tenant.status)
        if ctx.plan is None:
            if standing.trouble is not None:
                raise Rejected(f"plan {tenant.spec.plan} does not exist")
            return tenant
        digest = ctx.digest(ctx.plan)
        is_changed = digest != standing.workloads_hash
        # Where something was left undone, perhaps by another process, nobody knows how far it came.
        is_sure = not standing.trouble and (not standing.rolling_out or tended.applied == digest)
        if not is_changed and is_sure:
            return tenant
        await claim(ctx)
        if is_changed:
            what = f"rolling out plan {ctx.plan.metadata.name}"
            standing = replace(standing, workloads_hash=digest, rolling_out=what)
            happening = Happening("RollingOut", f"what plan {ctx.plan.metadata.name} makes of the tenant has changed")
            tenant = await self._writer.write_standing(tenant, standing, happening)
        # An open route moves to what the plan says when the rollout is complete.
        await self._apply(ctx, ctx.plan, with_route=standing.suspended or not standing.rolling_out)
        tended.applied = digest
        return tenant

    async def _apply(self, ctx: Context, plan: Plan, *, with_route: bool) -> None:
        # A larger quota comes before the pods that need it.
        await apply_all(ctx.ports.cluster, self._boundary(ctx, plan))
        workloads = ctx.contents(plan).workloads
        await apply_all(ctx.ports.cluster, [*workloads, *(self._route(ctx, plan) if with_route else ())])

    def _boundary(self, ctx: Context, plan: Plan) -> list[Manifest]:
        contents = ctx.contents(plan)
        namespace, *bounds = contents.namespace
        return [claims.marked(namespace, ctx.tenant, served=True), *bounds, *contents.policies]

    def _route(self, ctx: Context, plan: Plan) -> list[Manifest]:
        is_open = ctx.tenant.status.state is TenantState.ACTIVE
        return route.manifests(ctx.names, ctx.options, plan, is_open=is_open)

    async def _prune(self, ctx: Context, workloads: Iterable[Manifest]) -> None:
        """Delete the workloads that the plan no longer has."""
        wanted = {ref_of(manifest) for manifest in workloads}
        await delete_all(ctx.ports.cluster, [ref for ref in await workload_refs(ctx) if ref not in wanted])

    async def _rollout(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """Follow a rollout in place until it is complete; traffic goes on meanwhile."""
        standing = standing_of(tenant.status)
        if not standing.rolling_out:
            return tenant, None
        ctx, tended = self._context(tenant), self._tended(tenant)
        progress = await WaitReady().run(ctx)
        if isinstance(progress, NotYet):
            if progress.cause != standing.rolling_out and tended.is_time_for_news(self._clock.elapsed()):
                happening = Happening("RollingOut", progress.cause)
                tenant = await self._writer.write_standing(
                    tenant, replace(standing, rolling_out=progress.cause), happening
                )
            return tenant, _ROLLOUT_RECHECK  # its Deployments wake the tenant before that
        tended.told = tended.applied = None
        if ctx.plan is not None:
            # Only now: until here the former workloads took the traffic.
            await apply_all(ctx.ports.cluster, self._route(ctx, ctx.plan))
            await self._prune(ctx, ctx.contents(ctx.plan).workloads)
        happening = Happening("RolledOut", progress.detail)
        return await self._writer.write_standing(tenant, replace(standing, rolling_out=""), happening), None

    def _tended(self, tenant: Tenant) -> Tended:
        return self._memory.slot(tenant).tended

    def _context(self, tenant: Tenant) -> Context:
        return self._host.context(tenant, "", Silence())
