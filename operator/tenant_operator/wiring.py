"""The parts of a replica put together, over whatever stands behind the ports: the product and the simulation alike."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.api.tenant import Tenant
from tenant_operator.audit.courier import Courier
from tenant_operator.catalog.platform_reconciler import PlatformReconciler, PlatformStore
from tenant_operator.catalog.platform_watch import PlatformWatch
from tenant_operator.inbox import Inbox
from tenant_operator.ports import AuditLog, Notifier, Replicas, TenantKey, TenantStore
from tenant_operator.provisioning.activity import Activity, Ports
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.queue import WorkQueue
from tenant_operator.saga.runner import Runner
from tenant_operator.tenants.comparison import Comparison
from tenant_operator.tenants.health import Health
from tenant_operator.tenants.host import TenantSaga
from tenant_operator.tenants.memory import TenantMemory
from tenant_operator.tenants.recollection import Recollection
from tenant_operator.tenants.reconciler import Reconciler
from tenant_operator.tenants.repair import Repair
from tenant_operator.tenants.rollout import Rollout
from tenant_operator.tenants.steps import TenantSteps
from tenant_operator.tenants.upkeep import Upkeep
from tenant_operator.tenants.writer import StatusWriter


@dataclass(frozen=True, slots=True)
class Outside:
    """What a replica is put upon. `catalog` is the one in `ports` as well: the inbox writes it, activities read it."""

    ports: Ports
    store: TenantStore
    platform_store: PlatformStore
    catalog: WatchedCatalog
    notifier: Notifier
    audit: AuditLog
    replicas: Replicas


@dataclass(frozen=True, slots=True)
class Parts:
    """A replica in its parts. `comparison` has tenants compared with what there is of them. `queue` looks at tenants,
    `requests` takes requests off their annotations."""

    inbox: Inbox
    memory: TenantMemory
    courier: Courier
    comparison: Comparison
    runner: Runner[Tenant]
    queue: WorkQueue[TenantKey]
    requests: WorkQueue[TenantKey]
    platform: PlatformWatch


def assemble(
    outside: Outside,
    steps: Sequence[Activity],
    options: Options,
    worker: Worker,
    *,
    new_id: Callable[[], str],
    concurrency: int,
    open_databases: Callable[[], Sequence[str]] = tuple,
    jitter: random.Random | None = None,
) -> Parts:
    """Put a replica together; nothing runs yet. `concurrency`: tenants at work at once. `open_databases`: what the last
    look at the database server found open to tenants' roles. `jitter` spreads retries."""
    ports, memory = outside.ports, outside.catalog.memory
    courier = Courier(outside.audit, outside.replicas, lambda key: queue.wake(key), now=ports.clock.now)  # noqa: PLW0108 (the queue is made after it)
    activities = {activity.name: activity for activity in steps}
    recollection = Recollection(memory, new_id)
    tenant_steps = TenantSteps(activities, ports.catalog, options, recollection)
    writer = StatusWriter(
        tenant_steps,
        recollection,
        worker,
        store=outside.store,
        notifier=outside.notifier,
        courier=courier,
        memory=memory,
        clock=ports.clock,
        new_id=new_id,
    )
    host = TenantSaga(
        activities,
        tenant_steps,
        recollection,
        writer,
        ports,
        options,
        memory=memory,
        replicas=outside.replicas,
        new_id=new_id,
    )
    runner = Runner(host, worker, ports.clock, jitter=jitter)
    health = Health(host, writer, memory, ports.clock, options.degraded_after)
    repair = Repair(host, writer, health, memory, ports.clock)
    rollout = Rollout(host, writer, memory, ports.clock)
    upkeep = Upkeep(host, writer, repair, rollout, health, memory, ports.clock)
    reconciler = Reconciler(
        host,
        writer,
        recollection,
        runner,
        upkeep,
        store=outside.store,
        memory=memory,
        courier=courier,
        clock=ports.clock,
        new_id=new_id,
    )

    async def take(key: TenantKey, attention: asyncio.Event) -> float | None:
        again = await reconciler.take(key, attention)
        # What it wrote is known already: the watch will tell nothing new, and wake nobody.
        queue.wake(key)
        return again

    queue = WorkQueue(reconciler.reconcile, concurrency=concurrency)
    requests = WorkQueue(take, concurrency=concurrency)
    keeper = PlatformReconciler(
        outside.platform_store,
        ports.cluster,
        outside.catalog,
        ports.clock,
        options,
        outside.replicas,
        open_databases=open_databases,
    )
    platform = PlatformWatch(outside.catalog, keeper.reconcile)
    memory.on_change = platform.tenant_changed
    inbox = Inbox(outside.catalog, tenant_steps, reconciler, repair, health, platform, queue=queue, requests=requests)
    return Parts(inbox, memory, courier, Comparison(memory, queue.wake), runner, queue, requests, platform)
