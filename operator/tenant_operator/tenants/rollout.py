"""A changed plan reaches a tenant that serves: in place, without a moment in which nobody answers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock, Manifest, ObjectRef
from tenant_operator.provisioning import claims, holdings, route, transition
from tenant_operator.provisioning.activities.deploy_workloads import stored_workloads
from tenant_operator.provisioning.activities.wait_ready import WaitReady
from tenant_operator.provisioning.activity import Context
from tenant_operator.provisioning.contents import Contents
from tenant_operator.provisioning.objects import apply_all, delete_all, ref_of
from tenant_operator.provisioning.rules import check_plan, refusal
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.step import NotYet
from tenant_operator.tenants.feed import Told
from tenant_operator.tenants.host import Silence, TenantSaga
from tenant_operator.tenants.lifecycle import requester
from tenant_operator.tenants.memory import TenantMemory, Tended
from tenant_operator.tenants.notices import Happening
from tenant_operator.tenants.repair import claim
from tenant_operator.tenants.standing import Standing, standing_of
from tenant_operator.tenants.writer import StatusWriter

_RECHECK: Final = 5.0
_SETTLE_SECONDS: Final = 10.0
"""Whoever leads the traffic needs a moment to hear of a route that has moved."""


class Rollout:
    """What makes room comes first, what takes it away last: quota, workloads beside the former ones, the route, and
    when nobody asks for the former ones any more, they go."""

    def __init__(self, host: TenantSaga, writer: StatusWriter, memory: TenantMemory, clock: Clock) -> None:
        self._host = host
        self._writer = writer
        self._memory = memory
        self._clock = clock

    async def change_plan(self, tenant: Tenant) -> Tenant:
        """Take on the plan that the spec names, if the tenant is made of another one and may have it. Raises Rejected,
        Stale, Unavailable."""
        standing, ctx = standing_of(tenant.status), self._context(tenant)
        former, wanted = standing.plan, tenant.spec.plan
        if former in (None, wanted):
            return tenant
        catalog = ctx.ports.catalog
        plan, tenants = catalog.plan(wanted), catalog.tenants_of(tenant.spec.organization)
        violations = check_plan(tenant, plan, ctx.organization, tenants)
        if plan is None or violations:
            raise Rejected(f"it stays on plan {former}: {refusal(violations)}")
        happening = Happening("PlanChanged", f"from {former} to {wanted}")
        event: Told = ("tenant.plan.changed", {"from": former, "to": wanted}, requester(tenant))
        return await self._writer.write_standing(tenant, replace(standing, plan=wanted), happening, events=[event])

    async def begin(self, tenant: Tenant) -> Tenant:
        """Apply what the plan makes of the tenant if that has changed, or if nobody knows how far the last time came.

        Raises Rejected, Unavailable, OwnershipConflict, Stale.
        """
        ctx, tended, standing = self._context(tenant), self._tended(tenant), standing_of(tenant.status)
        if ctx.plan is None:
            raise Rejected(f"plan {standing.plan or tenant.spec.plan} does not exist")
        digest = ctx.digest(ctx.plan)
        is_changed = digest != standing.workloads_hash
        is_sure = not standing.trouble and (not standing.rolling_out or tended.applied == digest)
        if not is_changed and is_sure:
            return tenant
        await claim(ctx)
        if is_changed:
            what = f"rolling out plan {ctx.plan.metadata.name}"
            standing = replace(standing, workloads_hash=digest, rolling_out=what)
            happening = Happening("RollingOut", f"what plan {ctx.plan.metadata.name} makes of the tenant has changed")
            tenant = await self._writer.write_standing(tenant, standing, happening)
        await self._apply(ctx, ctx.plan, standing)
        tended.applied, tended.moved_at = digest, None
        return tenant

    async def _apply(self, ctx: Context, plan: Plan, standing: Standing) -> None:
        cluster, contents = ctx.ports.cluster, ctx.contents(plan)
        namespace, *bounds = contents.namespace
        room, workloads = [*bounds, *contents.policies], [*contents.workloads]
        if standing.rolling_out:
            if not await holdings.lost(ctx.names, ctx.ports):
                await holdings.renew(ctx)  # how many connections the database takes is the plan's to say
            room, workloads = await _beside(ctx, room), await _beside(ctx, workloads)
        await apply_all(cluster, [claims.marked(namespace, ctx.tenant, served=True), *room])
        # An open route moves to what the plan says when the rollout is complete.
        is_route_due = standing.suspended or not standing.rolling_out
        await apply_all(cluster, [*workloads, *(_route(ctx, plan) if is_route_due else ())])

    async def follow(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """Follow a rollout until it is complete; traffic goes on meanwhile. Returns the seconds until the next look."""
        standing = standing_of(tenant.status)
        ctx, tended = self._context(tenant), self._tended(tenant)
        if not standing.rolling_out or ctx.plan is None:
            return tenant, None
        progress = await WaitReady().run(ctx)
        if isinstance(progress, NotYet):
            return await self._tell(tenant, progress.cause), _RECHECK  # its Deployments wake the tenant before that
        now = self._clock.elapsed()
        if tended.moved_at is None:
            # Only now: until here the former workloads took the traffic.
            await apply_all(ctx.ports.cluster, _route(ctx, ctx.plan))
            tended.moved_at = now
        refs, ports = await _former(ctx, ctx.plan)
        left = tended.moved_at + _SETTLE_SECONDS - now
        if (refs or ports) and left > 0 and not standing.suspended:
            first = [*map(str, refs), *ports][0]
            return await self._tell(tenant, f"{first} goes as soon as nobody asks for it any more"), left
        contents = ctx.contents(ctx.plan)
        waited = [each for each in (*contents.namespace, *contents.workloads) if each["kind"] in transition.KINDS]
        await apply_all(ctx.ports.cluster, waited)
        await delete_all(ctx.ports.cluster, [*refs, *_bounds_without_a_plan(ctx, contents)])
        tended.told = tended.applied = tended.moved_at = None
        happening = Happening("RolledOut", progress.detail)
        return await self._writer.write_standing(tenant, replace(standing, rolling_out=""), happening), None

    async def _tell(self, tenant: Tenant, cause: str) -> Tenant:
        standing, tended = standing_of(tenant.status), self._tended(tenant)
        if cause == standing.rolling_out or not tended.is_time_for_news(self._clock.elapsed()):
            return tenant
        happening = Happening("RollingOut", cause)
        return await self._writer.write_standing(tenant, replace(standing, rolling_out=cause), happening)

    def _tended(self, tenant: Tenant) -> Tended:
        return self._memory.slot(tenant).tended

    def _context(self, tenant: Tenant) -> Context:
        return self._host.context(tenant, "", Silence())


async def _beside(ctx: Context, objects: Sequence[Manifest]) -> list[Manifest]:
    """The objects as they are to be while the former pods still run."""
    found = []
    for each in objects:
        stored = await ctx.ports.cluster.get(ref_of(each)) if each["kind"] in transition.KINDS else None
        if (now := transition.during(each, stored)) is not None:
            found.append(now)
    return found


def _route(ctx: Context, plan: Plan) -> list[Manifest]:
    is_open = ctx.tenant.status.state is TenantState.ACTIVE
    return route.manifests(ctx.names, ctx.options, plan, is_open=is_open)


async def _former(ctx: Context, plan: Plan) -> tuple[list[ObjectRef], list[str]]:
    """The workloads that the plan no longer has, and the ports of those that it has."""
    wanted = {ref_of(each): each for each in ctx.contents(plan).workloads}
    stored = await stored_workloads(ctx)
    ports = [
        port
        for ref, each in stored.items()
        if ref.kind == "Service" and ref in wanted
        for port in transition.former_ports(wanted[ref], each)
    ]
    return [ref for ref in stored if ref not in wanted], ports


def _bounds_without_a_plan(ctx: Context, contents: Contents) -> list[ObjectRef]:
    """What bounds the namespace no longer."""
    names, kinds = ctx.names, {each["kind"] for each in contents.namespace}
    bounds = (("ResourceQuota", names.quota), ("LimitRange", names.limits))
    return [ObjectRef("v1", kind, name, names.namespace) for kind, name in bounds if kind not in kinds]
