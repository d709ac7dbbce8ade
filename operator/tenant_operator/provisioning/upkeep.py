"""What a serving tenant needs beside sagas: traffic as desired, workloads as the plan has them, drift put right."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from tenant_operator.api.plan import Plan
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.activities.deploy_workloads import workload_refs
from tenant_operator.provisioning.activities.wait_ready import WaitReady
from tenant_operator.provisioning.activity import Context
from tenant_operator.provisioning.known import key_of
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.notices import Happening
from tenant_operator.provisioning.objects import apply_all, delete_all, ref_of
from tenant_operator.provisioning.ports import Manifest, TenantKey
from tenant_operator.provisioning.standing import Trouble, contents_hash, standing_of
from tenant_operator.provisioning.tenant_saga import TenantSaga
from tenant_operator.saga.activity import NotYet
from tenant_operator.saga.errors import ActivityError, Rejected, Unavailable
from tenant_operator.saga.evolve import bounded

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
_ROLLOUT_RECHECK: Final = 5.0
_NEWS: Final = timedelta(seconds=5)
_SERVING: Final = (TenantState.ACTIVE, TenantState.SUSPENDED)


class Upkeep:
    """Level-triggered like everything else: compares, and does what is missing. An idle tenant costs no request."""

    def __init__(self, host: TenantSaga) -> None:
        self._host = host
        self._drifted: set[TenantKey] = set()
        self._hashes: dict[TenantKey, tuple[Plan, Names, str]] = {}
        self._pruned: dict[TenantKey, set[tuple[str, str]]] = {}
        self._pauses: dict[TenantKey, float] = {}
        self._told: dict[TenantKey, datetime] = {}

    def drifted(self, key: TenantKey, kind: str, name: str) -> None:
        """Somebody else changed or deleted what the tenant is made of: it is to be applied again. What was pruned does
        not count."""
        if (kind, name) not in self._pruned.get(key, ()):
            self._drifted.add(key)

    def forget(self, key: TenantKey) -> None:
        """The tenant is gone."""
        self._drifted.discard(key)
        self._told.pop(key, None)
        self._pruned.pop(key, None)
        self._hashes.pop(key, None)
        self._pauses.pop(key, None)

    async def tend(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """See to a serving tenant. Returns it as last journalled, and the seconds after which to look again.

        Raises Stale, Gone.
        """
        released = tenant.spec.desired_state is DesiredState.DECOMMISSIONED
        if tenant.status.state not in _SERVING or released or tenant.metadata.deletion_timestamp is not None:
            self.forget(key_of(tenant))
            return tenant, None
        try:
            tenant = await self._traffic(tenant)
            tenant = await self._contents(tenant)
            tenant, again = await self._rollout(tenant)
            tenant = await self._recovered(tenant)
        except ActivityError as error:
            key = key_of(tenant)
            pause = self._pauses[key] = min(self._pauses.get(key, _FIRST_PAUSE / 2) * 2, _LONGEST_PAUSE)
            return await self._in_trouble(tenant, error), pause
        self._pauses.pop(key_of(tenant), None)
        return tenant, again

    async def _in_trouble(self, tenant: Tenant, error: ActivityError) -> Tenant:
        """Say what failed: in the conditions if that is news, in an Event in any case."""
        standing = standing_of(tenant.status)
        suspended = tenant.spec.desired_state is DesiredState.SUSPENDED
        what = f"the tenant does not follow plan {tenant.spec.plan}"
        if standing.suspended is not suspended:
            what = f"the route could not be {'closed' if suspended else 'opened'}"
        message = f"{what}: {bounded(error.message)}; it goes on being tried"
        happening = Happening("UpkeepFailed", message, warning=True)
        trouble = Trouble(message, error.can_heal)
        if trouble != standing.trouble:
            with suppress(Unavailable):  # no status can be written: the next try finds out whether that has passed
                return await self._host.write_standing(tenant, replace(standing, trouble=trouble), happening)
        await self._host.tell(tenant, [happening])
        return tenant

    async def _recovered(self, tenant: Tenant) -> Tenant:
        standing = standing_of(tenant.status)
        if standing.trouble is None:
            return tenant
        happening = Happening("UpkeepRecovered", f"no longer so: {standing.trouble.message}")
        return await self._host.write_standing(tenant, replace(standing, trouble=None), happening)

    async def _traffic(self, tenant: Tenant) -> Tenant:
        """Suspend or resume: one apply of the route, then the journal. Run again, it changes nothing."""
        wanted = tenant.spec.desired_state is DesiredState.SUSPENDED
        standing = standing_of(tenant.status)
        if standing.suspended is wanted:
            return tenant
        ctx = self._context(tenant)
        await route.set_open(ctx.ports.cluster, ctx.names, ctx.options, ctx.plan, is_open=not wanted)
        happening = (
            Happening("Suspended", "traffic is paused, everything is kept")
            if wanted
            else Happening("Resumed", f"serving at {ctx.names.url}")
        )
        event = "tenant.suspended" if wanted else "tenant.resumed"
        return await self._host.write_standing(tenant, replace(standing, suspended=wanted), happening, event=event)

    async def _contents(self, tenant: Tenant) -> Tenant:
        """Roll out what the plan has changed, and put right what somebody else has."""
        ctx, key, standing = self._context(tenant), key_of(tenant), standing_of(tenant.status)
        if ctx.plan is None:
            return tenant
        digest = self._hash(key, ctx, ctx.plan)
        drifted = key in self._drifted
        # After a failure, perhaps of another process, nobody knows how far it came.
        if digest == standing.workloads_hash and not drifted and standing.trouble is None:
            return tenant
        with_route = drifted or (digest == standing.workloads_hash and not standing.rolling_out)
        self._drifted.discard(key)
        workloads = manifests.workloads(ctx.names, ctx.plan)
        try:
            # A larger quota comes before the pods that need it; the route moves when they are ready.
            await apply_all(ctx.ports.cluster, self._boundary(ctx, ctx.plan))
            await apply_all(ctx.ports.cluster, [*workloads, *(self._route(ctx, ctx.plan) if with_route else ())])
        except BaseException:
            if drifted:
                self._drifted.add(key)
            raise
        if drifted:
            await self._host.tell(
                tenant, [Happening("DriftCorrected", "what was changed by another hand is put right")]
            )
        if digest == standing.workloads_hash:
            return tenant
        changed = replace(standing, workloads_hash=digest, rolling_out=f"rolling out plan {ctx.plan.metadata.name}")
        happening = Happening("RollingOut", f"the workloads of plan {ctx.plan.metadata.name} have changed")
        return await self._host.write_standing(tenant, changed, happening)

    def _boundary(self, ctx: Context, plan: Plan) -> list[Manifest]:
        port = ctx.ports.storage.endpoint.port
        return [
            *manifests.namespace(ctx.names, plan),
            *manifests.network_policies(ctx.names, ctx.options, plan, database_port=port),
        ]

    def _route(self, ctx: Context, plan: Plan) -> list[Manifest]:
        is_open = ctx.tenant.status.state is TenantState.ACTIVE
        return route.manifests(ctx.names, ctx.options, plan, is_open=is_open)

    async def _prune(self, ctx: Context, key: TenantKey, workloads: list[Manifest]) -> None:
        """Delete the workloads that the plan no longer has."""
        wanted = {ref_of(manifest) for manifest in workloads}
        pruned = [ref for ref in await workload_refs(ctx) if ref not in wanted]
        if pruned:
            self._pruned[key] = {(ref.kind, ref.name) for ref in pruned}
            await delete_all(ctx.ports.cluster, pruned)

    async def _rollout(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """Follow a rollout in place until it is complete; traffic goes on meanwhile."""
        standing = standing_of(tenant.status)
        if not standing.rolling_out:
            return tenant, None
        ctx, key = self._context(tenant), key_of(tenant)
        now = ctx.ports.clock.now()
        progress = await WaitReady().run(ctx)
        if isinstance(progress, NotYet):
            if (
                progress.cause != standing.rolling_out
                and now - self._told.get(key, datetime.min.replace(tzinfo=now.tzinfo)) >= _NEWS
            ):
                self._told[key] = now
                happening = Happening("RollingOut", progress.cause)
                tenant = await self._host.write_standing(
                    tenant, replace(standing, rolling_out=progress.cause), happening
                )
            return tenant, _ROLLOUT_RECHECK  # its Deployments wake the tenant before that
        self._told.pop(key, None)
        if ctx.plan is not None:
            # Only now: until here the former workloads took the traffic.
            await apply_all(ctx.ports.cluster, self._route(ctx, ctx.plan))
            await self._prune(ctx, key, manifests.workloads(ctx.names, ctx.plan))
        happening = Happening("RolledOut", progress.detail)
        return await self._host.write_standing(tenant, replace(standing, rolling_out=""), happening), None

    def _hash(self, key: TenantKey, ctx: Context, plan: Plan) -> str:
        known = self._hashes.get(key)
        if known is None or known[0] is not plan or known[1] != ctx.names:
            known = self._hashes[key] = (plan, ctx.names, contents_hash(ctx.names, plan, ctx.options))
        return known[2]

    def _context(self, tenant: Tenant) -> Context:
        return self._host.context(tenant, "", _Silence())


class _Silence:
    """Nobody listens to what is done outside a saga: the conditions tell it."""

    def heartbeat(self, detail: str, progress: int | None = None) -> None:
        """Not told."""

    async def checkpoint(self, name: str) -> None:
        raise Rejected("there is no journal row outside a saga")
