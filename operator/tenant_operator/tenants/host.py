"""The tenant as a host of sagas: its status is the journal, its plan the steps, its spec and annotations the demand."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Replicas, key_of
from tenant_operator.provisioning.activity import Activity, Context, Ports
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.recall import recall, remains
from tenant_operator.saga.errors import Gone, Rejected, Unavailable
from tenant_operator.saga.facts import Fact, RunStarted
from tenant_operator.saga.host import Pulse
from tenant_operator.saga.model import Kind, Saga
from tenant_operator.saga.sight import Kept
from tenant_operator.saga.step import Done, Progress, Step, Undone
from tenant_operator.tenants.journal import encode, saga_of
from tenant_operator.tenants.lifecycle import (
    contradicts_service,
    demand,
    is_at_rest,
    is_cut_off,
    state_of,
)
from tenant_operator.tenants.memory import TenantMemory
from tenant_operator.tenants.recollection import Recollection
from tenant_operator.tenants.standing import standing_of
from tenant_operator.tenants.steps import TenantSteps
from tenant_operator.tenants.writer import StatusWriter


class TenantSaga:
    """Implements `saga.host.Host` for Tenants."""

    def __init__(
        self,
        activities: Mapping[str, Activity],
        steps: TenantSteps,
        recollection: Recollection,
        writer: StatusWriter,
        ports: Ports,
        options: Options,
        *,
        memory: TenantMemory,
        replicas: Replicas,
        new_id: Callable[[], str],
    ) -> None:
        self._activities = activities
        self._steps = steps
        self._recollection = recollection
        self._writer = writer
        self._ports = ports
        self._options = options
        self._memory = memory
        self._replicas = replicas
        self._new_id = new_id

    def saga(self, record: Tenant) -> Saga:
        return saga_of(record)

    def steps(self, record: Tenant) -> Mapping[str, Step]:
        return self._steps.of(record)

    def is_running(self, record: Tenant) -> bool:
        """Whether a run is on its way."""
        run = self.saga(record).run
        return run is not None and not run.finished

    def is_doubtful(self, record: Tenant) -> bool:
        """Whether the status has to be held against the world before anything is done by it."""
        return not is_at_rest(record) and self._recollection.is_doubtful(record, self.saga(record))

    def is_misread(self, record: Tenant) -> bool:
        """Whether people read another state or identity in the status than there is to be believed."""
        if is_at_rest(record):
            return False
        saga, status = self.saga(record), record.status
        is_sure = saga.attempt > 0 and self._recollection.is_confirmed(record)
        if is_sure and status.tenant_id != self._recollection.identity(record):
            return True
        return status.state is not state_of(saga, suspended=standing_of(status).suspended)

    def demand(self, record: Tenant, saga: Saga, *, held: bool) -> Sequence[Fact]:
        found = self._recollection.found(record)
        hindrance = found.hindrance if found is not None else ""
        asked = demand(record, saga, self._new_id, held=held, hindrance=hindrance)
        return self._recollection.judge(record, saga, asked)

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
            self._steps.names_as(record, record.metadata.uid),
            self._ports,
            self._options,
            for_run=Kind.PROVISION in starts or (not starts and contradicts_service(saga)),
            journal_is_empty=saga.attempt == 0 and not saga.ledger,
        )
        self._recollection.note(record, saga, found, is_needed=bool(starts) or (found.holds and is_cut_off(saga)))
        return found.hindrance

    async def is_cleared(self, record: Tenant) -> bool:
        """Whether a look has told that nothing of a released tenant is left; if not, it is to be released again."""
        saga = self.saga(record)
        if not self._recollection.is_cleared(record, saga):
            left = await remains(self.context(record, "", Silence()))
            self._recollection.clear(record, saga, is_clear=not left)
        return self._recollection.is_cleared(record, saga)

    def mine(self, record: Tenant) -> bool:
        return self._replicas.mine(key_of(record))

    def newest(self, record: Tenant) -> Tenant:
        known = self._memory.get(key_of(record))
        if known is None or known.metadata.uid != record.metadata.uid:
            raise Gone
        return known

    def kept(self, record: Tenant) -> Kept | None:
        return self._memory.slot(record).kept

    def keep(self, record: Tenant, kept: Kept | None) -> None:
        self._memory.slot(record).kept = kept

    async def refresh(self, record: Tenant) -> Tenant:
        fresh = await self._writer.reread(record)
        if self.is_doubtful(fresh) and (hindrance := await self.recall(fresh)):
            raise Unavailable(f"Tenant {key_of(fresh)}: {hindrance}")
        return fresh

    async def write(self, record: Tenant, saga: Saga, facts: Sequence[Fact], now: datetime) -> Tenant:
        return await self._writer.write(record, saga, facts, now)

    async def act(self, record: Tenant, saga: Saga, ticks: Sequence[Fact], activity: str, pulse: Pulse) -> Progress:
        if ticks:
            told = {**encode(saga), "workloads_hash": self._writer.standing_after(record, ticks).workloads_hash}
            record = record.model_copy(update={"status": record.status.model_copy(update=told)})
        return await self._activities[activity].run(self.context(record, activity, pulse))

    async def undo(self, record: Tenant, activity: str, pulse: Pulse) -> Undone:
        progress = await self._activities[activity].compensate(self.context(record, activity, pulse))
        if self._activities[activity].verifies and isinstance(progress, Done):
            self._recollection.clear(record, self.saga(record), is_clear=True)
        return progress

    def context(self, tenant: Tenant, activity: str, pulse: Pulse) -> Context:
        """What an activity is given to work with."""
        checkpoints = (row.checkpoints for row in tenant.status.timeline if row.activity == activity)
        return Context(
            tenant=tenant,
            plan=self._ports.catalog.plan(tenant.status.plan or tenant.spec.plan),
            organization=self._ports.catalog.organization(tenant.spec.organization),
            names=self._steps.names(tenant),
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
