"""The only way to a Tenant's status: one guarded write, with the outbox that goes with it, and what is told of it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.names import ActivityName
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.audit.courier import Courier
from tenant_operator.ports import Clock, Notifier, TenantStore, key_of
from tenant_operator.provisioning.contents import Activated, Deployed
from tenant_operator.saga.errors import Gone, Stale
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import ActivityCompleted, CompensationStarted, Fact, RunFinished, RunStarted
from tenant_operator.saga.model import Kind, Outcome, Saga
from tenant_operator.saga.sight import next_time
from tenant_operator.tenants.feed import Told, audit_event, audit_events
from tenant_operator.tenants.journal import saga_of
from tenant_operator.tenants.memory import TenantMemory
from tenant_operator.tenants.notices import Happening, notices
from tenant_operator.tenants.recollection import Recollection
from tenant_operator.tenants.standing import Standing, standing_of
from tenant_operator.tenants.status import project
from tenant_operator.tenants.steps import TenantSteps

_log = logging.getLogger(__name__)


class StatusWriter:
    """The saga and the upkeep write by it alike. What was stored is known at once, and its events are on their way."""

    def __init__(
        self,
        steps: TenantSteps,
        recollection: Recollection,
        worker: Worker,
        *,
        store: TenantStore,
        notifier: Notifier,
        courier: Courier,
        memory: TenantMemory,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._steps = steps
        self._recollection = recollection
        self._worker = worker
        self._store = store
        self._notifier = notifier
        self._courier = courier
        self._memory = memory
        self._clock = clock
        self._new_id = new_id

    async def reread(self, record: Tenant) -> Tenant:
        """The record as it is now. Raises Gone, Unavailable."""
        key = key_of(record)
        fresh = await self._store.read(key)
        if fresh is None or fresh.metadata.uid != record.metadata.uid:
            raise Gone
        self._memory.observe(fresh)
        # The answer to the write that put them there may have been lost.
        self._courier.hand_over(key, fresh.status.outbox)
        return fresh

    async def write(self, record: Tenant, saga: Saga, facts: Sequence[Fact], now: datetime) -> Tenant:
        """Journal a saga, with the audit events and the notices of the facts that led to it. Raises Stale,
        Unavailable."""
        key, names = key_of(record), self._steps.names(record)
        events = audit_events(
            record,
            names,
            saga_of(record),
            facts,
            now=now,
            worker=self._worker,
            steps=self._steps.of(record),
            new_id=self._new_id,
        )
        outbox = [*self._courier.undelivered(key, record.status.outbox), *events]
        standing = self.standing_after(record, facts)
        stored = await self._store_status(self._projected(record, saga, outbox, standing, now))
        if any(isinstance(fact, RunStarted) for fact in facts):
            self._recollection.begun(stored, saga)
        if RunFinished(Outcome.COMPLETED) in facts:
            self._recollection.completed(stored)
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
        names, steps = self._steps.names(record), self._steps.of(record)
        status = project(record, names, saga, steps, outbox, now, standing=standing, backlog=backlog)
        is_made = saga.attempt > 0 or saga.run is not None
        if not is_made or not self._recollection.is_confirmed(record):
            # Who the tenant is has to be found out yet: what the status says of it is a hint that must not be lost.
            status = status.model_copy(update={"tenant_id": record.status.tenant_id})
        return record.model_copy(update={"status": status})

    def standing_after(self, record: Tenant, facts: Sequence[Fact]) -> Standing:
        """What the facts make of the tenant beside its journal."""
        standing = standing_of(record.status)
        for fact in facts:
            match fact:
                case ActivityCompleted(output=Deployed(workloads_hash)):
                    standing = replace(standing, workloads_hash=workloads_hash, rolling_out="", degraded=None)
                case ActivityCompleted(output=Activated(suspended)):
                    standing = replace(standing, suspended=suspended)
                case RunStarted(kind=Kind.ADOPT):
                    found = self._recollection.found(record)
                    standing = Standing(suspended=found is not None and found.suspended, plan=record.spec.plan)
                case RunStarted(kind=Kind.PROVISION):
                    standing = Standing(workloads_hash=standing.workloads_hash, plan=record.spec.plan)
                case RunStarted():
                    standing = Standing(workloads_hash=standing.workloads_hash, plan=standing.plan)
                case RunFinished(outcome) if outcome is not Outcome.COMPLETED:
                    standing = replace(standing, plan=None)
                case CompensationStarted(activity=ActivityName.DEPLOY_WORKLOADS):
                    standing = replace(standing, workloads_hash=None)
                case _:
                    pass
        return standing

    async def write_standing(
        self, record: Tenant, standing: Standing, *happenings: Happening, events: Sequence[Told] = ()
    ) -> Tenant:
        """Journal a change beside the saga, with the audit events that tell it. Raises Stale (the newer record is known
        by then), Unavailable."""
        now, names = next_time(self._clock.now(), saga_of(record)), self._steps.names(record)
        told = [audit_event(record, names, *event, now=now, event_id=self._new_id()) for event in events]
        stored = await self._project(record, standing, now, events=told)
        self._courier.hand_over(key_of(stored), stored.status.outbox)
        await self.tell(stored, happenings)
        return stored

    async def write_backlog(self, record: Tenant, backlog: str) -> Tenant:
        """Journal why the audit sink holds the tenant up or, if empty, that it no longer does; no write if that is
        told already. Raises Stale (the newer record is known by then), Unavailable."""
        told = find_condition(record.status.conditions, ConditionType.AUDIT_BACKLOG)
        if backlog == (told.message if told is not None else ""):
            return record
        return await self._project(record, standing_of(record.status), self._clock.now(), backlog=backlog)

    async def _project(
        self,
        record: Tenant,
        standing: Standing,
        now: datetime,
        *,
        events: Sequence[OutboxEvent] = (),
        backlog: str = "",
    ) -> Tenant:
        """Store what stands beside the journal, which stays as it is."""
        outbox = [*self._courier.undelivered(key_of(record), record.status.outbox), *events]
        return await self._store_or_reread(
            self._projected(record, saga_of(record), outbox, standing, now, backlog=backlog)
        )

    async def tell(self, tenant: Tenant, happenings: Sequence[Happening]) -> None:
        """Log what happened, and post it as Kubernetes Events."""
        for each in happenings:
            level = logging.WARNING if each.warning else logging.INFO
            _log.log(level, "%s: %s: %s", key_of(tenant), each.reason, each.message)
        await self._notifier.publish(tenant, happenings)

    async def observe(self, record: Tenant) -> Tenant:
        """Journal that the spec was seen, where nothing else followed from it. Raises Stale, Unavailable."""
        return await self._project(record, standing_of(record.status), self._clock.now())

    async def clear_outbox(self, record: Tenant) -> Tenant:
        """Take what the sink has out of the outbox. Raises Stale (the newer record is known by then), Unavailable."""
        left = tuple(self._courier.undelivered(key_of(record), record.status.outbox))
        status = record.status.model_copy(update={"outbox": left})
        return await self._store_or_reread(record.model_copy(update={"status": status}))

    async def _store_or_reread(self, tenant: Tenant) -> Tenant:
        try:
            return await self._store_status(tenant)
        except Stale:
            await self.reread(tenant)
            raise

    async def _store_status(self, tenant: Tenant) -> Tenant:
        stored = await self._store.write_status(tenant)
        self._memory.observe(stored)
        self._courier.cleared(key_of(stored), stored.status.outbox)
        return stored
