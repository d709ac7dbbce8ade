"""The tenant as a host of sagas: its status is the journal, its plan the steps, its spec and annotations the demand."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.names import ActivityName
from tenant_operator.api.plan import Plan, PlanSpec
from tenant_operator.api.tenant import OutboxEvent, Tenant
from tenant_operator.audit.courier import Courier
from tenant_operator.ports import Conflict, Notifier, TenantKey, TenantStore, key_of
from tenant_operator.provisioning.activity import Activity, Context, Ports
from tenant_operator.provisioning.contents import Activated, Deployed
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.recall import recall, remains
from tenant_operator.provisioning.rules import lives_with
from tenant_operator.saga.activity import Done, Progress, Step, Undone
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import ActivityCompleted, CompensationStarted, Fact, RunFinished, RunStarted
from tenant_operator.saga.host import Gone, Pulse, Stale
from tenant_operator.saga.model import Kind, Outcome, Saga
from tenant_operator.saga.sight import next_time
from tenant_operator.tenants.feed import audit_event, audit_events
from tenant_operator.tenants.journal import decode, encode
from tenant_operator.tenants.known import KnownTenants
from tenant_operator.tenants.lifecycle import (
    contradicts_service,
    demand,
    is_at_rest,
    is_cut_off,
    mended,
    requester,
    state_of,
)
from tenant_operator.tenants.notices import Happening, notices
from tenant_operator.tenants.recollection import Recollection
from tenant_operator.tenants.standing import Standing, standing_of
from tenant_operator.tenants.status import project

_log = logging.getLogger(__name__)

_KEPT_STEPS = 1000
"""Tenants whose steps are remembered from one write to the next."""


class TenantSaga:
    """Implements `saga.host.Host` for Tenants."""

    def __init__(
        self,
        plan: Sequence[Activity],
        ports: Ports,
        options: Options,
        worker: Worker,
        *,
        store: TenantStore,
        notifier: Notifier,
        courier: Courier,
        known: KnownTenants,
        new_id: Callable[[], str],
    ) -> None:
        self._activities = {activity.name: activity for activity in plan}
        self._ports = ports
        self._options = options
        self._worker = worker
        self._store = store
        self._notifier = notifier
        self._courier = courier
        self._known = known
        self._new_id = new_id
        self.recollection = Recollection(new_id)
        self._steps: dict[Names, tuple[PlanSpec | None, Mapping[str, Step]]] = {}

    def names(self, tenant: Tenant) -> Names:
        """What everything of the tenant is called. One that only pretends to be of an organisation learns no slug."""
        return self._names(tenant, self.recollection.identity(tenant))

    def _names(self, tenant: Tenant, identity: str) -> Names:
        organization = self._ports.catalog.organization(tenant.spec.organization)
        is_member = organization is not None and lives_with(tenant, organization)
        slug = organization.slug if organization is not None and is_member else tenant.spec.organization
        if tenant.status.allocations and tenant.status.organization_slug:
            slug = tenant.status.organization_slug
        return Names(
            slug=tenant.slug,
            organization=slug,
            organization_name=tenant.spec.organization,
            uid=identity,
            base_domain=self._options.base_domain,
        )

    def key(self, record: Tenant) -> TenantKey:
        return key_of(record)

    def saga(self, record: Tenant) -> Saga:
        if record.status.record_uid not in (None, record.metadata.uid):
            return Saga()  # it came from the backup of another record: what is so is for the world to say
        return mended(decode(record.status))

    def is_running(self, record: Tenant) -> bool:
        """Whether a run is on its way."""
        run = self.saga(record).run
        return run is not None and not run.finished

    def is_doubtful(self, record: Tenant) -> bool:
        """Whether the status has to be held against the world before anything is done by it."""
        return not is_at_rest(record) and self.recollection.is_doubtful(record, self.saga(record))

    def is_misread(self, record: Tenant) -> bool:
        """Whether people read another state or identity in the status than there is to be believed."""
        if is_at_rest(record):
            return False
        saga, status = self.saga(record), record.status
        is_sure = saga.attempt > 0 and self.recollection.is_confirmed(record)
        if is_sure and status.tenant_id != self.recollection.identity(record):
            return True
        return status.state is not state_of(saga, suspended=standing_of(status).suspended)

    def steps(self, record: Tenant) -> Mapping[str, Step]:
        names = self.names(record)
        plan = self._ports.catalog.plan(record.spec.plan)
        spec = plan.spec if plan is not None else None
        known, steps = self._steps.get(names, (None, None))
        if steps is None or known is not spec:
            steps = {name: self._step(activity, names, plan) for name, activity in self._activities.items()}
            if len(self._steps) >= _KEPT_STEPS:
                self._steps.clear()
            self._steps[names] = (spec, steps)
        return steps

    def _step(self, activity: Activity, names: Names, plan: Plan | None) -> Step:
        """The step with the platform's overrides, and over them the plan's."""
        timeout = self._options.timeouts.get(activity.name, activity.timeout)
        retry = replace(activity.retry, stalled_every=self._options.stalled_retry)
        overrides = [self._options.retries.get(activity.name)]
        if plan is not None:
            timeout = plan.spec.timeouts.get(activity.name, timeout)
            overrides.append(plan.spec.retries.get(activity.name))
        for override in overrides:
            if override is not None:
                retry = replace(
                    retry,
                    max_tries=override.max_tries or retry.max_tries,
                    initial=override.initial_backoff or retry.initial,
                    maximum=override.max_backoff or retry.maximum,
                )
        return Step(
            activity=activity.name,
            phase=activity.phase,
            timeout=timeout,
            retry=retry,
            max_takeovers=self._options.max_takeovers,
            best_effort=activity.best_effort,
            compensates=activity.compensates,
            verifies=activity.verifies,
            renews=activity.renews,
            looks_only=activity.looks_only,
            reserves=tuple(activity.reserves(names)),
        )

    def demand(self, record: Tenant, saga: Saga, *, held: bool) -> Sequence[Fact]:
        found = self.recollection.found(record)
        hindrance = found.hindrance if found is not None else ""
        asked = demand(record, saga, self._new_id, held=held, hindrance=hindrance)
        return self.recollection.judge(record, saga, asked)

    @property
    def recheck_seconds(self) -> float:
        """The pause between two looks at what hinders a tenant."""
        return self._options.stalled_retry.total_seconds()

    async def recall(self, record: Tenant) -> str:
        """Look who the tenant is, and what there is of it. Returns why nothing may be begun; empty if it may.

        Raises Unavailable, Rejected.
        """
        saga = self.saga(record)
        asked = demand(record, saga, self._new_id, held=False)
        starts = [fact.kind for fact in asked if isinstance(fact, RunStarted)]
        found = await recall(
            record,
            self._names(record, record.metadata.uid),
            self._ports,
            self._options,
            for_run=Kind.PROVISION in starts or (not starts and contradicts_service(saga)),
            journal_is_empty=saga.attempt == 0 and not saga.ledger,
        )
        self.recollection.note(record, saga, found, is_needed=bool(starts) or (found.holds and is_cut_off(saga)))
        return found.hindrance

    async def is_cleared(self, record: Tenant) -> bool:
        """Whether a look has told that nothing of a released tenant is left; if not, it is to be released again."""
        saga = self.saga(record)
        if not self.recollection.is_cleared(record, saga):
            left = await remains(self.context(record, "", Silence()))
            self.recollection.clear(record, saga, is_clear=not left)
        return self.recollection.is_cleared(record, saga)

    def newest(self, record: Tenant) -> Tenant:
        known = self._known.get(key_of(record))
        if known is None or known.metadata.uid != record.metadata.uid:
            raise Gone
        return known

    async def refresh(self, record: Tenant) -> Tenant:
        fresh = await self._store.read(key_of(record))
        if fresh is None or fresh.metadata.uid != record.metadata.uid:
            self._known.forget(key_of(record), record.metadata.uid)
            raise Gone
        self._known.observe(fresh)
        if self.is_doubtful(fresh) and (hindrance := await self.recall(fresh)):
            raise Unavailable(f"Tenant {key_of(fresh)}: {hindrance}")
        # The answer to the write that put them there may have been lost.
        self._courier.hand_over(key_of(fresh), fresh.status.outbox)
        return fresh

    async def write(self, record: Tenant, saga: Saga, facts: Sequence[Fact], now: datetime) -> Tenant:
        key, names, steps = key_of(record), self.names(record), self.steps(record)
        events = audit_events(
            record,
            names,
            self.saga(record),
            facts,
            now=now,
            worker=self._worker,
            steps=steps,
            new_id=self._new_id,
        )
        outbox = [*self._courier.undelivered(key, record.status.outbox), *events]
        standing = self._standing(record, facts)
        stored = await self._store_status(self._projected(record, saga, outbox, standing, now))
        if any(isinstance(fact, RunStarted) for fact in facts):
            self.recollection.begun(stored, saga)
        if RunFinished(Outcome.COMPLETED) in facts:
            self.recollection.completed(stored)
        self._courier.hand_over(key, stored.status.outbox)
        await self.tell(stored, notices(names, saga, facts))
        return stored

    def _projected(
        self,
        record: Tenant,
        saga: Saga,
        outbox: Sequence[OutboxEvent],
        standing: Standing,
        now: datetime,
        *,
        backlog: str = "",
    ) -> Tenant:
        """The record with the status that tells the saga."""
        names, steps = self.names(record), self.steps(record)
        status = project(record, names, saga, steps, outbox, now, standing=standing, backlog=backlog)
        is_made = saga.attempt > 0 or saga.run is not None
        if not is_made or not self.recollection.is_confirmed(record):
            # Who the tenant is has to be found out yet: what the status says of it is a hint that must not be lost.
            status = status.model_copy(update={"tenant_id": record.status.tenant_id})
        return record.model_copy(update={"status": status})

    def _standing(self, record: Tenant, facts: Sequence[Fact]) -> Standing:
        """What the facts make of the tenant beside its journal."""
        standing = standing_of(record.status)
        for fact in facts:
            match fact:
                case ActivityCompleted(output=Deployed(workloads_hash)):
                    standing = replace(standing, workloads_hash=workloads_hash, rolling_out="")
                case ActivityCompleted(output=Activated(suspended)):
                    standing = replace(standing, suspended=suspended)
                case RunStarted(kind=Kind.ADOPT):
                    found = self.recollection.found(record)
                    standing = Standing(suspended=found is not None and found.suspended)
                case RunStarted():
                    standing = Standing(workloads_hash=standing.workloads_hash)
                case CompensationStarted(activity=ActivityName.DEPLOY_WORKLOADS):
                    standing = replace(standing, workloads_hash=None)
                case _:
                    pass
        return standing

    async def write_standing(
        self, record: Tenant, standing: Standing, *happenings: Happening, event: str | None = None
    ) -> Tenant:
        """Journal a change beside the saga, with the audit event that tells it if it is a change of state. Raises
        Stale (the newer record is known by then), Unavailable."""
        key, saga = key_of(record), self.saga(record)
        now = next_time(self._ports.clock.now(), saga)
        outbox = self._courier.undelivered(key, record.status.outbox)
        if event is not None:
            names, who = self.names(record), requester(record)
            outbox.append(audit_event(record, names, event, {}, who, now=now, event_id=self._new_id()))
        stored = await self._project(record, saga, outbox, standing, now)
        self._courier.hand_over(key, stored.status.outbox)
        await self.tell(stored, happenings)
        return stored

    async def write_backlog(self, record: Tenant, backlog: str) -> Tenant:
        """Journal why the audit sink holds the tenant up or, if empty, that it no longer does; no write if that is
        told already. Raises Stale (the newer record is known by then), Unavailable."""
        told = find_condition(record.status.conditions, ConditionType.AUDIT_BACKLOG)
        if backlog == (told.message if told is not None else ""):
            return record
        outbox = self._courier.undelivered(key_of(record), record.status.outbox)
        standing, now = standing_of(record.status), self._ports.clock.now()
        return await self._project(record, self.saga(record), outbox, standing, now, backlog=backlog)

    async def _project(
        self,
        record: Tenant,
        saga: Saga,
        outbox: Sequence[OutboxEvent],
        standing: Standing,
        now: datetime,
        *,
        backlog: str = "",
    ) -> Tenant:
        try:
            return await self._store_status(self._projected(record, saga, outbox, standing, now, backlog=backlog))
        except Stale:
            await self.refresh(record)
            raise

    async def tell(self, tenant: Tenant, happenings: Sequence[Happening]) -> None:
        """Log what happened, and post it as Kubernetes Events."""
        for each in happenings:
            level = logging.WARNING if each.warning else logging.INFO
            _log.log(level, "%s: %s: %s", key_of(tenant), each.reason, each.message)
        await self._notifier.publish(tenant, happenings)

    async def observe(self, record: Tenant) -> Tenant:
        """Journal that the spec was seen, where nothing else followed from it. Raises Stale, Unavailable."""
        key, saga = key_of(record), self.saga(record)
        outbox = self._courier.undelivered(key, record.status.outbox)
        return await self._project(record, saga, outbox, standing_of(record.status), self._ports.clock.now())

    async def clear_outbox(self, record: Tenant) -> Tenant:
        """Take what the sink has out of the outbox. Raises Stale (the newer record is known by then), Unavailable."""
        left = tuple(self._courier.undelivered(key_of(record), record.status.outbox))
        status = record.status.model_copy(update={"outbox": left})
        try:
            return await self._store_status(record.model_copy(update={"status": status}))
        except Stale:
            await self.refresh(record)
            raise

    async def _store_status(self, tenant: Tenant) -> Tenant:
        try:
            stored = await self._store.write_status(tenant)
        except Conflict:
            raise Stale from None
        self._known.observe(stored)
        self._courier.cleared(key_of(stored), stored.status.outbox)
        return stored

    async def act(self, record: Tenant, saga: Saga, ticks: Sequence[Fact], activity: str, pulse: Pulse) -> Progress:
        if ticks:
            told = {**encode(saga), "workloads_hash": self._standing(record, ticks).workloads_hash}
            record = record.model_copy(update={"status": record.status.model_copy(update=told)})
        return await self._activities[activity].run(self.context(record, activity, pulse))

    async def undo(self, record: Tenant, activity: str, pulse: Pulse) -> Undone:
        progress = await self._activities[activity].compensate(self.context(record, activity, pulse))
        if self._activities[activity].verifies and isinstance(progress, Done):
            self.recollection.clear(record, self.saga(record), is_clear=True)
        return progress

    def context(self, tenant: Tenant, activity: str, pulse: Pulse) -> Context:
        """What an activity is given to work with."""
        checkpoints = (row.checkpoints for row in tenant.status.timeline if row.activity == activity)
        return Context(
            tenant=tenant,
            plan=self._ports.catalog.plan(tenant.spec.plan),
            organization=self._ports.catalog.organization(tenant.spec.organization),
            names=self.names(tenant),
            ports=self._ports,
            options=self._options,
            checkpoints=frozenset(next(checkpoints, ())),
            heartbeat=pulse.heartbeat,
            is_awaited=pulse.is_awaited,
            checkpoint=pulse.checkpoint,
        )


class Silence:
    """Nobody listens to what is done outside a saga: the conditions tell it."""

    def heartbeat(self, detail: str, progress: int | None = None) -> None:
        """Not told."""

    def is_awaited(self) -> bool:
        return True

    async def checkpoint(self, name: str) -> None:
        raise Rejected("there is no journal row outside a saga")
