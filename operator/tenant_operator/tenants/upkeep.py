"""What a serving tenant needs beside sagas: traffic as desired, workloads as the plan has them, repair, health."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from tenant_operator.api.states import DesiredState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock
from tenant_operator.provisioning import route
from tenant_operator.provisioning.activity import Context
from tenant_operator.saga.errors import ActivityError
from tenant_operator.saga.evolve import bounded
from tenant_operator.tenants.feed import Told
from tenant_operator.tenants.health import Health, went_down
from tenant_operator.tenants.host import Silence, TenantSaga
from tenant_operator.tenants.lifecycle import requester
from tenant_operator.tenants.memory import TenantMemory, Tended
from tenant_operator.tenants.notices import Happening
from tenant_operator.tenants.repair import Repair
from tenant_operator.tenants.rollout import Rollout
from tenant_operator.tenants.standing import SERVING, Trouble, standing_of
from tenant_operator.tenants.writer import StatusWriter

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
_SOON: Final = 1.0


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
        rollout: Rollout,
        health: Health,
        memory: TenantMemory,
        clock: Clock,
    ) -> None:
        self._host = host
        self._repair = repair
        self._rollout = rollout
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
        pauses, error = list[float | None](), None
        try:
            tenant = await self._traffic(tenant)
            tenant, pause = await self._repair.tend(tenant)
            pauses.append(pause)
            tenant = await self._rollout.begin(await self._rollout.change_plan(tenant))
            tenant, pause = await self._rollout.follow(tenant)
            pauses.append(pause)
            tenant = await self._traffic(tenant)  # what had to wait for the rollout
        except ActivityError as caught:
            tenant, error = self._host.newest(tenant), caught
        try:
            tenant, pause = await self._health.tend(tenant)  # whatever else is wrong
            pauses.append(pause)
            if error is None:
                tenant = await self._recovered(tenant)
        except ActivityError as caught:
            error = error or caught
        if error is not None:
            pauses.append(self._pause(slot.tended))
            return await self._in_trouble(self._host.newest(tenant), error), _soonest(pauses)
        slot.tended.pause = None
        return tenant, _soonest([*pauses, _SOON if slot.tended.is_due else None])

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

    def _tended(self, tenant: Tenant) -> Tended:
        return self._memory.slot(tenant).tended

    def _context(self, tenant: Tenant) -> Context:
        return self._host.context(tenant, "", Silence())


def _soonest(pauses: Iterable[float | None]) -> float | None:
    return min((each for each in pauses if each is not None), default=None)
