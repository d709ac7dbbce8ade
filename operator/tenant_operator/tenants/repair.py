"""What a serving tenant is made of, held against what there is: what others have changed is put right, what is gone is
made again, and what cannot be made again without loss is said to be lost."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final

from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Clock, Difference, Manifest
from tenant_operator.provisioning import claims, holdings, route, transition
from tenant_operator.provisioning.activities.allocate_namespace import AllocateNamespace, blockers
from tenant_operator.provisioning.activity import Context
from tenant_operator.provisioning.objects import all_of, belongs_to, is_going, namespace_ref, ref_of, taken_by
from tenant_operator.saga.errors import OwnershipConflict, Unavailable
from tenant_operator.saga.evolve import bounded
from tenant_operator.saga.step import NotYet
from tenant_operator.tenants.feed import Told
from tenant_operator.tenants.health import Health
from tenant_operator.tenants.host import Silence, TenantSaga
from tenant_operator.tenants.memory import Part, TenantMemory, Tended
from tenant_operator.tenants.notices import Happening
from tenant_operator.tenants.standing import Standing, standing_of
from tenant_operator.tenants.writer import StatusWriter

_FIELDS_TOLD: Final = 5
_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 300.0
_CALM_SECONDS: Final = 900.0
"""After so long without a correction of an object, whoever changed it has given up."""

_Found = tuple[Manifest, Sequence[Difference]]


class Repair:
    """Looks at what a watch has told of, and at everything when that is due; what is fine costs no write."""

    def __init__(
        self, host: TenantSaga, writer: StatusWriter, health: Health, memory: TenantMemory, clock: Clock
    ) -> None:
        self._host = host
        self._writer = writer
        self._health = health
        self._memory = memory
        self._clock = clock

    def noticed(self, tenant: Tenant, kind: str, name: str) -> None:
        """Somebody else changed or deleted an object in the tenant's namespace. Only what the plan makes is looked at:
        what was pruned is no part of the tenant any more, and what somebody put there never was."""
        self._memory.slot(tenant).tended.noticed.add((kind, name))

    async def tend(self, tenant: Tenant) -> tuple[Tenant, float | None]:
        """Put right what is not as it should be. Returns the tenant as last journalled, and the seconds after which to
        look again.

        Raises ActivityError, Stale, Gone.
        """
        ctx, tended, standing = self._context(tenant), self._tended(tenant), standing_of(tenant.status)
        if ctx.plan is None:
            return tenant, None
        is_left_undone = bool(standing.repairing or standing.lost or standing.trouble)
        is_whole = tended.is_due or is_left_undone
        noticed, later = self._split(tended)
        if not is_whole and not noticed:
            return tenant, later
        was_due, tended.is_due, tended.noticed = tended.is_due, False, tended.noticed - noticed
        try:
            tenant = await self._look(tenant, ctx.plan, None if is_whole else noticed)
        except Unavailable:
            tended.noticed |= noticed
            if noticed or is_left_undone:
                raise
            return tenant, later  # there was nothing to be done that is known of: the next comparison may see more
        except BaseException:
            tended.noticed |= noticed
            tended.is_due |= was_due
            raise
        if not standing_of(tenant.status).lost:
            return tenant, later
        recheck = self._host.recheck_seconds
        return tenant, recheck if later is None else min(later, recheck)

    def _split(self, tended: Tended) -> tuple[set[Part], float | None]:
        """What was noticed and is to be looked at now, and after how many seconds the rest is: who is changed back each
        time an object is put right is not to be run a race with."""
        now, at_once, pauses = self._clock.elapsed(), set[Part](), []
        for part in tended.noticed:
            count, last = tended.corrected.get(part, (0, 0.0))
            pause = min(_FIRST_PAUSE * 2 ** (count - 2), _LONGEST_PAUSE) if count > 1 else 0.0
            if (left := last + pause - now) > 0:
                pauses.append(left)
            else:
                at_once.add(part)
        return at_once, min(pauses, default=None)

    async def _look(self, tenant: Tenant, plan: Plan, only: Collection[Part] | None) -> Tenant:
        """`only` these parts, or all there is."""
        was_missing = await claim(self._context(tenant))
        if only is None or was_missing:
            tenant, only = await self._holdings(tenant), None
        ctx, standing, tended = self._context(tenant), standing_of(tenant.status), self._tended(tenant)
        digest = ctx.digest(plan)
        is_applied = not standing.rolling_out or tended.applied == digest
        if digest != standing.workloads_hash or standing.trouble or not is_applied:
            tended.is_due = True  # after everything was applied, which is about to be tried
            return tenant
        parts = [
            each
            for each in await self._parts(ctx, plan, standing)
            if only is None or (each["kind"], each["metadata"]["name"]) in only
        ]
        compared = await all_of(ctx.ports.cluster.compare(each) for each in parts)
        found = [(part, differences) for part, differences in zip(parts, compared, strict=True) if differences]
        if not found and not was_missing:
            return tenant
        await all_of(ctx.ports.cluster.correct(part) for part, _ in found)
        after = await all_of(ctx.ports.cluster.compare(part) for part, _ in found)
        for (part, _), left in zip(found, after, strict=True):
            if left:
                raise Unavailable(f"{ref_of(part)}: {_described(left)} again as soon as it is put right")
        self._count(self._tended(tenant), found)
        gone = [f"Namespace {ctx.names.namespace}"] if was_missing else []
        happenings, events = _told(gone, found)
        return await self._writer.write_standing(tenant, standing, *happenings, events=events)

    async def _parts(self, ctx: Context, plan: Plan, standing: Standing) -> list[Manifest]:
        """What the plan makes of the tenant, the route in the state in which it is to be."""
        contents = ctx.contents(plan)
        namespace, *bounds = contents.namespace
        parts = [claims.marked(namespace, ctx.tenant, served=True), *bounds, *contents.policies, *contents.workloads]
        if standing.rolling_out:  # some are for now what former pods need beside
            parts = [each for each in parts if each["kind"] not in transition.KINDS]
        # A route that was changed during a rollout may lead to where nobody answers yet.
        if standing.suspended or not standing.rolling_out or await self._health.takes_traffic(ctx, plan):
            is_open = ctx.tenant.status.state is TenantState.ACTIVE
            parts += route.manifests(ctx.names, ctx.options, plan, is_open=is_open)
        return parts

    async def _holdings(self, tenant: Tenant) -> Tenant:
        """See to what holds the tenant's data and what opens it. Intent before effect: until all of it is made again,
        the status says so."""
        ctx, standing = self._context(tenant), standing_of(tenant.status)
        missing = await holdings.lost(ctx.names, ctx.ports)
        tenant = await self._lost(tenant, holdings.way_out(ctx.names, missing) if missing else "", missing)
        if any(each != str(holdings.signing_key(ctx.names)) for each in missing):
            return tenant
        damaged = [str(each) for each in await holdings.damaged(ctx)]
        standing = standing_of(tenant.status)
        if damaged:
            # Whoever reads a Secret when it starts, has to be started anew.
            revision = standing.credentials + any(each.startswith("Secret") for each in damaged)
            standing = replace(standing, repairing=f"{', '.join(damaged)} is made again", credentials=revision)
            tenant = await self._writer.write_standing(tenant, standing)
        if not standing.repairing:
            return tenant
        await holdings.renew(self._context(tenant))
        what = standing.repairing.removesuffix(" is made again")
        happening = Happening("Repaired", f"{what} was gone or damaged, and is made again")
        event: Told = ("tenant.repaired", {"object": what, "fields": [], "manager": ""}, None)
        return await self._writer.write_standing(tenant, replace(standing, repairing=""), happening, events=[event])

    async def _lost(self, tenant: Tenant, message: str, missing: Sequence[str]) -> Tenant:
        """Say what is lost, or that it is there again, and fits."""
        standing = standing_of(tenant.status)
        if message == standing.lost:
            return tenant
        after, events = replace(standing, lost=message), list[Told]()
        if message:
            happening = Happening("ResourcesLost", message, warning=True)
            if not standing.lost and tenant.status.state is TenantState.ACTIVE:
                events.append(("tenant.degraded", {"object": missing[0], "cause": message}, None))
        else:
            # Whoever restored it may have set other passwords, or another key.
            await holdings.renew(self._context(tenant))
            after = replace(after, credentials=standing.credentials + 1)
            what = standing.lost.partition(" is gone")[0].partition(" are gone")[0]
            happening = Happening("ResourcesFound", f"{what} is there again")
            if tenant.status.state is TenantState.ACTIVE:
                data = {"object": what, "seconds": round(self._health.seconds(tenant))}
                events.append(("tenant.recovered", data, None))
        return await self._writer.write_standing(tenant, after, happening, events=events)

    def _count(self, tended: Tended, found: Iterable[_Found]) -> None:
        now = self._clock.elapsed()
        tended.corrected = {part: each for part, each in tended.corrected.items() if now - each[1] < _CALM_SECONDS}
        for manifest, _ in found:
            part = (manifest["kind"], manifest["metadata"]["name"])
            tended.corrected[part] = (tended.corrected.get(part, (0, now))[0] + 1, now)

    def _tended(self, tenant: Tenant) -> Tended:
        return self._memory.slot(tenant).tended

    def _context(self, tenant: Tenant) -> Context:
        return self._host.context(tenant, "", Silence())


async def claim(ctx: Context) -> bool:
    """The tenant's namespace is its own; it is made again if it is gone, which is returned. Nothing may be applied
    before: the name may be another's by now. Raises OwnershipConflict, Unavailable."""
    stored = await ctx.ports.cluster.get(namespace_ref(ctx.names))
    if stored is None:
        progress = await AllocateNamespace().run(ctx)
        if isinstance(progress, NotYet):
            raise Unavailable(progress.cause)
        return True
    if not belongs_to(stored, ctx.names):
        raise OwnershipConflict(taken_by(stored, ctx.names))
    if is_going(stored):
        raise Unavailable(f"namespace {ctx.names.namespace} is being deleted{blockers(stored)}")
    return False


def _told(gone: Sequence[str], found: Sequence[_Found]) -> tuple[Sequence[Happening], Sequence[Told]]:
    """What is told of what was put right."""
    happenings, events = list[Happening](), list[Told]()
    gone = [*gone, *(str(ref_of(part)) for part, differences in found if not differences[0].field)]
    if gone:
        what = bounded(", ".join(gone))
        happenings.append(Happening("Repaired", f"{what} was gone, and is made again"))
        events.append(("tenant.repaired", {"object": what, "fields": [], "manager": ""}, None))
    for part, differences in found:
        if differences[0].field:
            ref, manager = str(ref_of(part)), ", ".join(sorted({each.manager for each in differences} - {""}))
            happenings.append(Happening("DriftCorrected", f"{ref}: {_described(differences)}; put right"))
            fields = [each.field for each in differences[:_FIELDS_TOLD]]
            events.append(("tenant.drift.corrected", {"object": ref, "fields": fields, "manager": manager}, None))
    return happenings, events


def _described(differences: Sequence[Difference]) -> str:
    """Which fields, and who has set them."""
    if not differences[0].field:
        return "gone"
    fields = [each.field + (f" (set by {each.manager})" if each.manager else " (removed)") for each in differences]
    more = f" and {len(fields) - _FIELDS_TOLD} more" if len(fields) > _FIELDS_TOLD else ""
    return bounded(", ".join(fields[:_FIELDS_TOLD]) + more)
