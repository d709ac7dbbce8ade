"""Whether the workloads of a serving tenant still run, and what is said when they do not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from tenant_operator.api.conditions import ConditionType, Reason, find_condition
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import LABEL_TENANT_UID, WatchEvent
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock, Manifest, ObjectRef
from tenant_operator.provisioning import readiness
from tenant_operator.provisioning.activities.wait_ready import look_at_pods
from tenant_operator.provisioning.activity import Context
from tenant_operator.provisioning.objects import COMPONENT
from tenant_operator.saga.evolve import bounded
from tenant_operator.tenants.feed import Told
from tenant_operator.tenants.host import Silence, TenantSaga
from tenant_operator.tenants.memory import TenantMemory, Tended
from tenant_operator.tenants.notices import Happening
from tenant_operator.tenants.standing import SERVING, Degradation, standing_of
from tenant_operator.tenants.writer import StatusWriter

_NOT_WELL: Final = (Reason.DEGRADED, Reason.UNAVAILABLE, Reason.RESOURCES_LOST)
_SHORTEST_PAUSE: Final = 15.0
_LONGEST_PAUSE: Final = 300.0
_FEWER, _NONE_LEFT = 1, 2
"""How much of a tenant is missing: some pods, or every pod that could take traffic."""


class Health:
    """Watches tell of Deployments that lack pods: only then is anything asked. `damping`: shorter dips are not told."""

    def __init__(
        self, host: TenantSaga, writer: StatusWriter, memory: TenantMemory, clock: Clock, damping: timedelta
    ) -> None:
        self._host = host
        self._writer = writer
        self._memory = memory
        self._clock = clock
        self._damping = damping.total_seconds()

    def heard(self, tenant: KnownTenant, event: str | None, deployment: Manifest) -> bool:
        """A watch told of a Deployment of the tenant. Returns whether the tenant is to be looked at for that."""
        slot, name = self._memory.slot(tenant), deployment["metadata"]["name"]
        is_gone = event == WatchEvent.DELETED
        lacks = is_gone or readiness.lacks_pods(deployment)
        before = slot.lacking.get(name)
        after = (is_gone or not readiness.has_pods(deployment)) if lacks else None
        if after == before:
            return False
        others = {each: is_down for each, is_down in slot.lacking.items() if each != name}
        slot.lacking = others if after is None else {**others, name: after}
        return tenant.status.state in SERVING

    async def look(self, ctx: Context, plan: Plan) -> Degradation | None:
        """What is wrong with the workloads now; None if every pod is available. Raises Unavailable, Rejected."""
        labels = {LABEL_TENANT_UID: ctx.uid, COMPONENT: "workload"}
        deployments = await ctx.ports.cluster.list("apps/v1", "Deployment", ctx.names.namespace, labels)
        found = {each["metadata"]["name"]: each for each in deployments}
        routed = plan.spec.routed_workload.name
        is_down = routed not in found or not readiness.has_pods(found[routed])
        lacking = [
            workload.name
            for workload in plan.spec.workloads
            if workload.name not in found or readiness.lacks_pods(found[workload.name])
        ]
        if not is_down and not lacking:
            return None
        states = readiness.rollouts(lacking, deployments)
        cause = readiness.cause(states, await look_at_pods(ctx, deployments))
        if is_down:
            cause = f"nobody answers: {cause or f'Deployment {routed} is to have no pods'}"
        return Degradation(bounded(cause), is_down)

    async def takes_traffic(self, ctx: Context, plan: Plan) -> bool:
        """Whether the workload that the plan sends the traffic to has a pod that can take it."""
        name = plan.spec.routed_workload.name
        found = await ctx.ports.cluster.get(ObjectRef("apps/v1", "Deployment", name, ctx.names.namespace))
        return found is not None and readiness.has_pods(found)

    async def tend(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """Say how the workloads are, if that is news. Returns the tenant as last journalled, and the seconds after
        which to look again.

        Raises Unavailable, Rejected, Stale, Gone.
        """
        ctx = self._host.context(tenant, "", Silence())
        if ctx.plan is None:
            return tenant, None
        slot, standing = self._memory.slot(tenant), standing_of(tenant.status)
        told = standing.degraded
        heard = _depth_heard(slot.lacking, ctx.plan)
        if standing.rolling_out and heard == _FEWER:
            heard = 0  # pods come and go, which the rollout tells
        if heard <= _depth(told):
            slot.tended.ailing = None
        elif (pause := self._damped(slot.tended, heard)) > 0:
            return tenant, pause
        if not heard and told is None:
            return tenant, None
        found = await self.look(ctx, ctx.plan) if heard else None
        if standing.rolling_out and found is not None and not found.is_down:
            found = None
        is_turn = _depth(found) != _depth(told)
        if found != told and (is_turn or slot.tended.is_time_for_news(self._clock.elapsed())):
            happening, events = _turn(ctx, told, found, self.seconds(tenant))
            standing = replace(standing, degraded=found)
            tenant = await self._writer.write_standing(tenant, standing, happening, events=events)
        return tenant, None if found is None else self._pause(tenant)

    def _damped(self, tended: Tended, depth: int) -> float:
        """Seconds until it has been as bad as that for long enough to be told."""
        now = self._clock.elapsed()
        if tended.ailing is None or tended.ailing[0] != depth:
            tended.ailing = (depth, now)
            tended.is_due = True  # what the pods need may be gone
        return tended.ailing[1] + self._damping - now

    def _pause(self, tenant: Tenant) -> float:
        """The cause may change without a Deployment that does; the longer it lasts, the less often it is looked for."""
        return min(max(self.seconds(tenant) / 4, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    def seconds(self, tenant: Tenant) -> float:
        """For how long the tenant has not been as it should be, as far as that was told."""
        for type_ in (ConditionType.READY, ConditionType.WORKLOADS_READY):
            said = find_condition(tenant.status.conditions, type_)
            if said is not None and said.reason in _NOT_WELL:
                return max((self._clock.now() - said.last_transition_time).total_seconds(), 0.0)
        return 0.0


def went_down(ctx: Context, degradation: Degradation) -> Told:
    """The feed tells that a tenant that serves has ceased to answer."""
    return "tenant.degraded", {"object": _routed(ctx), "cause": degradation.cause}, None


def _turn(
    ctx: Context, before: Degradation | None, after: Degradation | None, seconds: float
) -> tuple[Happening, Sequence[Told]]:
    """What is told when the workloads are no longer as they were: an Event, and for the feed when the tenant ceases to
    answer or answers again. `seconds`: how long it was as before."""
    is_open = ctx.tenant.status.state is TenantState.ACTIVE
    was_down = is_open and before is not None and before.is_down
    if is_open and after is not None and after.is_down:
        return Happening("Degraded", after.cause, warning=True), [] if was_down else [went_down(ctx, after)]
    if was_down:
        still = f"; still {after.cause}" if after is not None else ""
        recovered = Happening("Recovered", f"serving at {ctx.names.url} again, after {seconds:.0f} s{still}")
        return recovered, [("tenant.recovered", {"object": _routed(ctx), "seconds": round(seconds)}, None)]
    if after is not None:
        return Happening("WorkloadsDegraded", after.cause, warning=True), []
    return Happening("WorkloadsRecovered", "every pod is available again"), []


def _routed(ctx: Context) -> str:
    return f"Deployment {ctx.plan.spec.routed_workload.name}" if ctx.plan is not None else ""


def _depth(degradation: Degradation | None) -> int:
    if degradation is None:
        return 0
    return _NONE_LEFT if degradation.is_down else _FEWER


def _depth_heard(lacking: Mapping[str, bool], plan: Plan) -> int:
    """As `_depth`, of what watches told: which Deployments lack pods, and whether they have none."""
    if lacking.get(plan.spec.routed_workload.name):
        return _NONE_LEFT
    return _FEWER if any(workload.name in lacking for workload in plan.spec.workloads) else 0
