"""The operator put together: ports made real, the engine on top, and the inbox that kopf feeds."""

import asyncio
import logging
from contextlib import AsyncExitStack
from signal import SIGINT, SIGTERM
from typing import Any
from uuid import uuid4

import httpx
import kopf
from pydantic import ValidationError
from ulid import ULID

from tenant_operator import handlers
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.health import serve_health
from tenant_operator.adapters.http_mail import HttpMailer
from tenant_operator.adapters.http_probe import HttpProber, probing_client
from tenant_operator.adapters.jsonl_audit import JsonLinesAudit
from tenant_operator.adapters.kubernetes.access import SubjectAccessReviews, own_name
from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.events import KubernetesNotifier
from tenant_operator.adapters.kubernetes.listing import list_objects
from tenant_operator.adapters.kubernetes.offers import KubernetesOffers
from tenant_operator.adapters.kubernetes.platform_store import KubernetesPlatformStore
from tenant_operator.adapters.kubernetes.store import KubernetesTenantStore
from tenant_operator.adapters.paused import serve_paused
from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.adapters.smtp import SmtpMailer
from tenant_operator.admission import AdmissionServer, install
from tenant_operator.api.names import ANNOTATION_ACTION, LABEL_TENANT_UID
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.activity import Ports
from tenant_operator.provisioning.admission import Admission
from tenant_operator.provisioning.courier import Courier
from tenant_operator.provisioning.drift import DriftWatch
from tenant_operator.provisioning.known import KnownTenants, key_of
from tenant_operator.provisioning.plan import provisioning_plan
from tenant_operator.provisioning.platform_reconciler import PlatformReconciler, PlatformStore
from tenant_operator.provisioning.platform_watch import PlatformWatch
from tenant_operator.provisioning.ports import Endpoint, Mailer, TenantKey
from tenant_operator.provisioning.reconciler import Reconciler
from tenant_operator.provisioning.schema import load_migrations
from tenant_operator.provisioning.tenant_saga import TenantSaga
from tenant_operator.provisioning.upkeep import Upkeep
from tenant_operator.saga.errors import ActivityError
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.queue import WorkQueue
from tenant_operator.saga.runner import Runner
from tenant_operator.settings import Settings

_log = logging.getLogger(__name__)


def new_id() -> str:
    """A ULID: sortable by time, unique without asking anyone."""
    return str(ULID())


class Operator:
    """One replica: what it knows, the queues it works off, and the inbox through which it hears of changes."""

    def __init__(
        self,
        settings: Settings,
        ports: Ports,
        *,
        store: KubernetesTenantStore,
        platform_store: PlatformStore,
        catalog: WatchedCatalog,
        notifier: KubernetesNotifier,
    ) -> None:
        self.ready = False
        self._settings = settings
        self._store = store
        self._catalog = catalog
        self._known = KnownTenants()
        self._key_by_uid: dict[str, TenantKey] = {}
        self._courier = Courier(JsonLinesAudit(settings.audit_log), self._wake)
        options = settings.options()
        self._host = host = TenantSaga(
            provisioning_plan(options, load_migrations()),
            ports,
            options,
            worker := Worker(id=f"{settings.worker}-{uuid4().hex[:6]}", fence=0, started_at=ports.clock.now()),
            store=store,
            notifier=notifier,
            courier=self._courier,
            known=self._known,
            new_id=new_id,
        )
        self._worker = worker
        self._runner = Runner(host, worker, ports.clock.now)
        self._upkeep = Upkeep(host, ports.clock)
        self._drift = DriftWatch()
        reconciler = Reconciler(
            host,
            self._runner,
            self._upkeep,
            store=store,
            known=self._known,
            courier=self._courier,
            clock=ports.clock,
            new_id=new_id,
        )
        self._queue = WorkQueue(reconciler.reconcile, concurrency=settings.concurrency)
        self._reconciler = reconciler
        self._requests = WorkQueue(self._take, concurrency=settings.concurrency)
        platform = PlatformReconciler(platform_store, ports.cluster, catalog, ports.clock, options)
        self._platform = PlatformWatch(catalog, platform.reconcile)

    async def _take(self, key: TenantKey, attention: asyncio.Event) -> float | None:
        again = await self._reconciler.take(key, attention)
        # What it wrote is known already: the watch will tell nothing new, and wake nobody.
        self._queue.wake(key)
        return again

    def tenant_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A Tenant was listed, added, modified or deleted."""
        key = TenantKey(body["metadata"]["namespace"], body["metadata"]["name"])
        before = self._catalog.tenant(key)
        self._catalog.observe_tenant(event, body)
        self._platform.tenant_changed(before, self._catalog.tenant(key))
        try:
            tenant = Tenant.model_validate(body)
        except ValidationError:
            return  # the catalogue has logged it; nothing can be done about an object that cannot be read
        if event == "DELETED":
            self._forget(tenant)
        else:
            self._observe(tenant)

    def plan_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A Plan was listed, added, modified or deleted."""
        name = body["metadata"]["name"]
        before = self._catalog.plan(name)
        self._catalog.observe_plan(event, body)
        self._platform.plan_changed(event, body)
        plan = self._catalog.plan(name)
        if plan is None or before is None or plan.spec != before.spec:
            for tenant in self._catalog.tenants():
                if tenant.spec.plan == name:
                    self._queue.wake(key_of(tenant))  # its workloads may have to follow

    def organization_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """An Organization was listed, added, modified or deleted."""
        self._catalog.observe_organization(event, body)
        self._platform.organization_changed(event, body)

    def namespace_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A namespace was listed, added, modified or deleted: a tenant's own, or perhaps an organisation's."""
        self.child_changed(event, body)
        self._platform.namespace_changed(body)

    def role_binding_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """A RoleBinding was listed, added, modified or deleted: perhaps one that a member needs."""
        self._platform.role_binding_changed(body)

    def child_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """Something that a tenant is made of changed: its saga may be waiting for that, or have to put it right."""
        if (tenant := self._owner(body)) is None:
            self._drift.forget(body)
            return
        if self._drift.is_drift(event, body):
            self._upkeep.drifted(tenant, body.get("kind", ""), body["metadata"]["name"])
        self._queue.wake(key_of(tenant))

    def _owner(self, body: dict[str, Any]) -> Tenant | None:
        """The tenant that an object is part of: one whose UID is on it and whose own namespace it is, or is in. Labels
        alone are nobody's word: whoever may write an object anywhere can copy them."""
        metadata = body["metadata"]
        key = self._key_by_uid.get((metadata.get("labels") or {}).get(LABEL_TENANT_UID, ""))
        tenant = None if key is None else self._known.get(key)
        if tenant is None or self._host.names(tenant).namespace != metadata.get("namespace", metadata["name"]):
            return None
        return tenant

    def part_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """Something that no saga waits for changed: it matters only if it has to be put right."""
        if event == "DELETED":
            self.child_changed(event, body)

    async def run(
        self,
        kubernetes: KubernetesClient,
        webhooks: tuple[Admission, AdmissionServer] | None,
        told_to_end: asyncio.Event,
    ) -> None:
        """Learn what there is, then work until told to end; then drain."""
        await self._learn(kubernetes)
        self._platform.begin()
        _log.info("%d tenants known; working as %s", len(self._known), self._worker.id)
        loops = [asyncio.create_task(self._courier.run()), asyncio.create_task(self._resync())]
        registry, kopf_settings = handlers.registry(self), handlers.settings()
        if webhooks is not None:
            install(*webhooks, registry, kopf_settings)
        drained = asyncio.Event()
        ending = asyncio.create_task(told_to_end.wait())
        ours = asyncio.all_tasks()
        watches = await kopf.spawn_tasks(
            registry=registry,
            settings=kopf_settings,
            standalone=True,
            clusterwide=True,
            stop_flag=drained,
        )
        # In place of kopf's own: told to end, it lets the sagas go on for 5 s and then cancels whatever task there is.
        _end_on_signals(told_to_end)
        self.ready = True
        try:
            await asyncio.wait({*watches, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ready = False
            await self._drain()
            drained.set()
            for loop in (*loops, ending):
                loop.cancel()
            await asyncio.gather(*loops, ending, return_exceptions=True)
            await kopf.run_tasks(watches, ignored=ours)  # raises what one of them may have failed with

    async def _drain(self) -> None:
        _log.info("draining")
        self._runner.stop()
        closing = (self._requests, self._queue, self._platform)
        await asyncio.gather(*(each.close(self._settings.drain_seconds) for each in closing))

    async def _learn(self, kubernetes: KubernetesClient) -> None:
        """Plans and organisations first: a tenant is judged by them."""
        for plan in await list_objects(kubernetes, Plan.definition.plural):
            self._catalog.observe_plan(None, plan)
        for organization in await list_objects(kubernetes, Organization.definition.plural):
            self._catalog.observe_organization(None, organization)
        for tenant in await list_objects(kubernetes, Tenant.definition.plural):
            self.tenant_changed(None, tenant)

    async def _resync(self) -> None:
        """Find what the watches missed: a re-list after a lost watch does not tell of deletions."""
        while True:
            await asyncio.sleep(self._settings.resync.total_seconds())
            before = self._known.keys()  # what comes while the list is read is not missing from it
            try:
                tenants = await self._store.list()
            except Exception as error:  # the next one may do better; a loop that has ended does nothing
                _log.warning("resync: %s", error if isinstance(error, ActivityError) else type(error).__name__)
                continue
            for key in before - {key_of(tenant) for tenant in tenants}:
                if (gone := self._known.get(key)) is not None:
                    self._catalog.drop_tenant(key)
                    self._platform.tenant_changed(gone, None)
                    self._forget(gone)
            for tenant in tenants:
                self._observe(tenant)

    def _wake(self, key: TenantKey) -> None:
        self._queue.wake(key)

    def _observe(self, tenant: Tenant) -> None:
        key = key_of(tenant)
        self._key_by_uid[tenant.metadata.uid] = key
        if self._known.observe(tenant):
            self._queue.wake(key)
        if ANNOTATION_ACTION in tenant.metadata.annotations:
            self._requests.wake(key)

    def _forget(self, tenant: Tenant) -> None:
        key = key_of(tenant)
        self._key_by_uid.pop(tenant.metadata.uid, None)
        self._known.forget(key, tenant.metadata.uid)
        self._courier.cleared(key, ())
        self._upkeep.forget(key)
        self._queue.wake(key)  # a run in hand has to learn of it


async def serve(settings: Settings) -> None:
    """Run one replica until it is told to end (SIGTERM, SIGINT)."""
    told_to_end = asyncio.Event()
    _end_on_signals(told_to_end)
    async with AsyncExitStack() as stack:
        connection = Connection(connections=settings.kube_connections)
        kubernetes = await stack.enter_async_context(await KubernetesClient.connect(connection))
        clock = SystemClock()
        notifier = KubernetesNotifier(kubernetes, clock, instance=settings.worker)
        notifier.start()
        stack.push_async_callback(notifier.close)
        storage = PostgresStorage(
            settings.database_url.get_secret_value(),
            advertised=_advertised(settings),
            connections=settings.database_connections,
        )
        stack.push_async_callback(storage.close)
        catalog = WatchedCatalog()
        store = KubernetesTenantStore(kubernetes)
        ports = Ports(
            cluster=KubernetesCluster(kubernetes),
            storage=storage,
            mailer=await _mailer(settings, stack),
            prober=HttpProber(await stack.enter_async_context(probing_client())),
            catalog=catalog,
            census=store,
            clock=clock,
        )
        webhooks = await _webhooks(settings, kubernetes, ports, catalog, store)
        operator = Operator(
            settings,
            ports,
            store=store,
            platform_store=KubernetesPlatformStore(kubernetes),
            catalog=catalog,
            notifier=notifier,
        )
        if settings.health_port:
            await stack.enter_async_context(
                serve_health(
                    settings.health_host,
                    settings.health_port,
                    lambda: operator.ready and (webhooks is None or webhooks[1].is_listening),
                )
            )
        if settings.paused_port:
            await stack.enter_async_context(serve_paused(settings.paused_host, settings.paused_port))
        await operator.run(kubernetes, webhooks, told_to_end)


def _end_on_signals(told_to_end: asyncio.Event) -> None:
    """As the first process of a container it has no default: without a handler a SIGTERM would be lost."""
    for signal in (SIGTERM, SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal, told_to_end.set)


def _advertised(settings: Settings) -> Endpoint | None:
    if settings.database_host is None:
        return None
    return Endpoint(settings.database_host, settings.database_port or 5432)


async def _webhooks(
    settings: Settings,
    kubernetes: KubernetesClient,
    ports: Ports,
    catalog: WatchedCatalog,
    store: KubernetesTenantStore,
) -> tuple[Admission, AdmissionServer] | None:
    """The rules of admission and the server that asks them; None where they are turned off."""
    if not settings.webhook_port or settings.webhook_certificate is None or settings.webhook_key is None:
        return None
    server = AdmissionServer(
        settings.webhook_host, settings.webhook_port, settings.webhook_certificate, settings.webhook_key
    )
    admission = Admission(
        operator=await own_name(kubernetes),
        options=settings.options(),
        catalog=catalog,
        offers=KubernetesOffers(kubernetes),
        access=SubjectAccessReviews(kubernetes),
        cluster=ports.cluster,
        store=store,
        clock=ports.clock,
    )
    return admission, server


async def _mailer(settings: Settings, stack: AsyncExitStack) -> Mailer:
    if settings.mail_transport == "http" and settings.mail_api_url and settings.mail_api_token:
        client = await stack.enter_async_context(httpx.AsyncClient())
        return HttpMailer(settings.mail_api_url, settings.mail_api_token, sender=settings.mail_sender, client=client)
    return SmtpMailer(
        settings.smtp_host,
        settings.smtp_port,
        sender=settings.mail_sender,
        domain=settings.mail_domain,
        username=settings.smtp_username,
        password=settings.smtp_password,
        tls=settings.smtp_tls,
    )
