"""wait-ready: the workloads have rolled out, and the tenant answers."""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar, Final

from tenant_operator.api.names import LABEL_TENANT_UID, ActivityName, PhaseName
from tenant_operator.api.plan import Plan
from tenant_operator.ports import Manifest
from tenant_operator.provisioning import readiness
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.provisioning.manifests import template_values
from tenant_operator.provisioning.objects import COMPONENT, all_of, apply_all
from tenant_operator.provisioning.rendering import render_value
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.saga.step import Done, NotYet, Progress, RetryPolicy

# Rollouts that are complete are told by the watch.
_ROLLOUT_RECHECK: Final = 5.0
_PROBE_RECHECK: Final = 1.0


class WaitReady(Activity):
    """Not ready is no failure until the timeout; the cause is shown while it lasts."""

    name: ClassVar[str] = ActivityName.WAIT_READY
    phase: ClassVar[str] = PhaseName.DEPLOY
    timeout: ClassVar[timedelta] = timedelta(minutes=10)
    retry: ClassVar[RetryPolicy] = RetryPolicy(max_tries=10)
    compensates: ClassVar[bool] = False

    async def run(self, ctx: Context) -> Progress:
        """One look at the workloads, and once they run at the plan's readiness probe."""
        if ctx.plan is None:
            raise Rejected(f"plan {ctx.tenant.spec.plan} no longer exists")
        if ctx.digest(ctx.plan) != ctx.tenant.status.workloads_hash:
            # The plan was edited after the workloads were deployed: what is waited for is what it wants now.
            contents = ctx.contents(ctx.plan)
            await apply_all(ctx.ports.cluster, [*contents.namespace[1:], *contents.policies])
            await apply_all(ctx.ports.cluster, contents.workloads)
        labels = {LABEL_TENANT_UID: ctx.uid, COMPONENT: "workload"}
        ctx.heartbeat("looking at the workloads", None)
        deployments = await ctx.ports.cluster.list("apps/v1", "Deployment", ctx.names.namespace, labels)
        states = readiness.rollouts([workload.name for workload in ctx.plan.spec.workloads], deployments)
        percent = readiness.progress(states)
        if not all(state.complete for state in states):
            cause = await self._cause(ctx, states, deployments)
            return NotYet(cause, _ROLLOUT_RECHECK, percent)
        if unsettled := await self._unsettled(ctx, ctx.plan):
            return NotYet(unsettled, _ROLLOUT_RECHECK, percent)
        unanswered = await _probe(ctx, ctx.plan)
        if unanswered:
            return NotYet(unanswered, _PROBE_RECHECK, percent)
        return Done(f"{len(states)} workloads ready, {sum(state.ready for state in states)} pods")

    async def _unsettled(self, ctx: Context, plan: Plan) -> str:
        """Why pods that are available are not to be relied on; empty if they are."""
        settled = timedelta(seconds=plan.spec.min_ready_seconds)
        if not settled:
            return ""
        pods = await ctx.ports.cluster.list("v1", "Pod", ctx.names.namespace, {LABEL_TENANT_UID: ctx.uid})
        restarted = readiness.restarted(pods, settled, ctx.ports.clock.now())
        return f"{restarted}; it counts when it has been up for {settled.seconds} s" if restarted else ""

    async def _cause(self, ctx: Context, states: Sequence[readiness.Rollout], deployments: Sequence[Manifest]) -> str:
        if not ctx.is_awaited():  # asking what ails the pods would cost the API server three lists, for nobody
            return readiness.cause(states, readiness.Seen(ctx.ports.clock.now(), deployments))
        return readiness.cause(states, await look_at_pods(ctx, deployments))


async def look_at_pods(ctx: Context, deployments: Sequence[Manifest]) -> readiness.Seen:
    """What there is to be seen of the tenant's pods, beside their Deployments."""
    cluster, namespace, own = ctx.ports.cluster, ctx.names.namespace, {LABEL_TENANT_UID: ctx.uid}
    replica_sets, pods, events = await all_of(
        (
            cluster.list("apps/v1", "ReplicaSet", namespace, own),
            cluster.list("v1", "Pod", namespace, own),
            cluster.list("events.k8s.io/v1", "Event", namespace, {}),
        )
    )
    return readiness.Seen(ctx.ports.clock.now(), deployments, replica_sets, pods, events)


async def _probe(ctx: Context, plan: Plan) -> str:
    """Why the readiness probe of the plan does not pass; empty if it passes, or the plan has none."""
    probe = plan.spec.readiness
    if probe is None:
        return ""
    place = f"plan {plan.metadata.name}, readiness URL"
    url = render_value(probe.url, template_values(ctx.names), place=place)
    ctx.heartbeat("asking the readiness probe", 100)
    try:
        status = await ctx.ports.prober.status(url, probe.timeout_seconds)
    except Unavailable as error:
        return f"readiness probe: {error.message}"
    if status != probe.expected_status:
        return f"readiness probe: GET {url} answered {status}, expected {probe.expected_status}"
    return ""
