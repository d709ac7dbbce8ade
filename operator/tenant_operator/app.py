"""The operator put together: ports made real, the engine on top, and the inbox that kopf feeds."""

import asyncio
import logging
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from signal import SIGINT, SIGTERM
from typing import Any, Final
from uuid import uuid4

import httpx
import kopf
from pydantic import ValidationError
from ulid import ULID

from tenant_operator import handlers
from tenant_operator.adapters.circuit import Circuit, SparingMailer
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.health import Need, serve_health
from tenant_operator.adapters.http_mail import HttpMailer
from tenant_operator.adapters.http_probe import HttpProber, probing_client
from tenant_operator.adapters.https_server import HttpsServer
from tenant_operator.adapters.jsonl_audit import JsonLinesAudit
from tenant_operator.adapters.kubernetes.access import own_name
from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.events import KubernetesNotifier
from tenant_operator.adapters.kubernetes.listing import list_objects
from tenant_operator.adapters.kubernetes.platform_store import KubernetesPlatformStore
from tenant_operator.adapters.kubernetes.store import KubernetesTenantStore
from tenant_operator.adapters.kubernetes.watches import Watches
from tenant_operator.adapters.paused import serve_paused
from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.adapters.smtp import SmtpMailer
from tenant_operator.api.names import ANNOTATION_ACTION, LABEL_TENANT_UID
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.audit.courier import Courier
from tenant_operator.catalog.platform_reconciler import PlatformReconciler, PlatformStore
from tenant_operator.catalog.platform_watch import PlatformWatch
from tenant_operator.needs import Needs
from tenant_operator.ports import AuditLog, Endpoint, TenantKey, key_of
from tenant_operator.provisioning.activity import Ports
from tenant_operator.provisioning.egress import database_rules
from tenant_operator.provisioning.schema import load_migrations
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.resync import Resync
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.queue import WorkQueue
from tenant_operator.saga.runner import Runner
from tenant_operator.settings import Settings, SettingsError
from tenant_operator.start import ToldToEnd, patiently, unless
from tenant_operator.tenants.drift import DriftWatch
from tenant_operator.tenants.host import TenantSaga
from tenant_operator.tenants.known import KnownTenants
from tenant_operator.tenants.reconciler import Reconciler
from tenant_operator.tenants.standing import standing_of
from tenant_operator.tenants.upkeep import Upkeep
from tenant_operator.webhooks import serving_tls, webhook_server

_log = logging.getLogger(__name__)

_MAILS_AT_ONCE: Final = 20
"""Servers refuse more connections from one client."""


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
        audit: AuditLog,
        needs: Needs,
    ) -> None:
        self._not_working = "starting"
        self._needs = needs
        self._watches: Watches | None = None
        self._webhooks: HttpsServer | None = None
        self._settings = settings
        self._store = store
        self._catalog = catalog
        self._known = KnownTenants()
        self._key_by_uid: dict[str, TenantKey] = {}
        self._courier = Courier(audit, self._wake, now=ports.clock.now)
        options = settings.options()
        self._host = host = TenantSaga(
            provisioning_steps(options, load_migrations()),
            ports,
            options,
            worker := Worker(id=f"{settings.worker}-{uuid4().hex[:6]}", fence=0, started_at=ports.clock.now()),
            store=store,
            notifier=notifier,
            courier=self._courier,
            known=self._known,
            new_id=new_id,
        )
        self._recollection = host.recollection
        self._worker = worker
        self._runner = Runner(host, worker, ports.clock)
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
        platform = PlatformReconciler(
            platform_store, ports.cluster, catalog, ports.clock, options, open_databases=needs.open_databases
        )
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
            self.tenant_listed(tenant)

    def tenant_gone(self, tenant: Tenant) -> None:
        """A Tenant was deleted, and no watch has told so."""
        self._catalog.drop_tenant(key_of(tenant))
        self._platform.tenant_changed(tenant, None)
        self._forget(tenant)

    def tenant_listed(self, tenant: Tenant) -> None:
        """A Tenant is there, in this version or a newer one."""
        key = key_of(tenant)
        self._key_by_uid[tenant.metadata.uid] = key
        if self._known.observe(tenant):
            self._queue.wake(key)
        if ANNOTATION_ACTION in tenant.metadata.annotations:
            self._requests.wake(key)

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
        uid = (metadata.get("labels") or {}).get(LABEL_TENANT_UID, "")
        key = self._key_by_uid.get(uid) or self._recollection.key_of_adopted(uid)
        tenant = None if key is None else self._known.get(key)
        if tenant is None or self._host.names(tenant).namespace != metadata.get("namespace", metadata["name"]):
            return None
        return tenant

    def part_changed(self, event: str | None, body: dict[str, Any]) -> None:
        """Something that no saga waits for changed: it matters only if it has to be put right."""
        if event == "DELETED":
            self.child_changed(event, body)

    def needs(self) -> list[Need]:
        """What it needs to be ready, and what is wrong with it now."""
        found = [Need("operator", self._not_working)]
        if self._watches is not None:
            found.append(Need("watches", self._watches.fault()))
        if self._webhooks is not None:
            found.append(Need("webhooks", "" if self._webhooks.is_listening else "not listening"))
        return found + self._needs.report()

    async def run(self, kubernetes: KubernetesClient, webhooks: HttpsServer | None, told_to_end: asyncio.Event) -> None:
        """Work until told to end; then drain. The webhooks are the last that ends."""
        self._platform.begin()
        _log.info("%d tenants known; working as %s", len(self._known), self._worker.id)
        heard = handlers.listeners(self, self._settings.route_kind)
        watches = self._watches = Watches([each.path for each in heard])
        self._webhooks = webhooks

        def login() -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=kubernetes.server, aiohttp_session=kubernetes.session(watches.observe))

        async with webhooks or nullcontext():
            seconds = self._settings.resync.total_seconds()
            resync = Resync(self._store, partial(list_objects, kubernetes), self._known, self._catalog, self)
            loops = [
                asyncio.create_task(loop, name=name)
                for name, loop in (
                    ("audit courier", self._courier.run()),
                    ("resync", resync.run(seconds)),
                    ("look at what is needed", self._needs.keep_looking(seconds)),
                )
            ]
            drained = asyncio.Event()
            endings = [asyncio.create_task(told_to_end.wait())]
            if webhooks is not None:
                endings.append(asyncio.create_task(webhooks.ended.wait()))
            ours = asyncio.all_tasks()
            parts = await kopf.spawn_tasks(
                registry=handlers.registry(heard, login),
                settings=handlers.settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=drained,
            )
            # In place of kopf's own: told to end, it lets the sagas go on for 5 s and then cancels whatever there is.
            _end_on_signals(told_to_end)
            self._not_working = ""
            try:
                await asyncio.wait({*parts, *endings, *loops}, return_when=asyncio.FIRST_COMPLETED)
                ended = [loop for loop in loops if loop.done()]
            finally:
                self._not_working = "ending"
                await self._drain()
                drained.set()
                for loop in (*loops, *endings):
                    loop.cancel()
                await asyncio.gather(*loops, *endings, return_exceptions=True)
                await kopf.run_tasks(parts, ignored=ours)  # raises what one of them may have failed with
        for loop in ended:
            raise RuntimeError(f"the {loop.get_name()} ended by itself") from loop.exception()
        if webhooks is not None and not told_to_end.is_set():
            raise RuntimeError("the server of the webhooks ended by itself")

    async def _drain(self) -> None:
        _log.info("draining")
        self._runner.stop()
        closing = (self._requests, self._queue, self._platform)
        await asyncio.gather(*(each.close(self._settings.drain_seconds) for each in closing))

    async def learn(self, kubernetes: KubernetesClient) -> None:
        """Find out what there is; plans and organisations first: a tenant is judged by them. Raises ActivityError."""
        for plan in await list_objects(kubernetes, Plan.definition.plural):
            self._catalog.observe_plan(None, plan)
        for organization in await list_objects(kubernetes, Organization.definition.plural):
            self._catalog.observe_organization(None, organization)
        for tenant in await list_objects(kubernetes, Tenant.definition.plural):
            self.tenant_changed(None, tenant)

    def wake_unfinished(self) -> None:
        """A server is back: whoever waits for it goes on. Who that is shows when it is asked."""
        for tenant in self._known:
            run = tenant.status.run
            if (run is not None and run.finished_at is None) or standing_of(tenant.status).trouble is not None:
                self._queue.wake(key_of(tenant))

    def _wake(self, key: TenantKey) -> None:
        self._queue.wake(key)

    def _forget(self, tenant: Tenant) -> None:
        key = key_of(tenant)
        self._key_by_uid.pop(tenant.metadata.uid, None)
        self._known.forget(key, tenant.metadata.uid)
        self._recollection.forget(tenant)
        self._courier.cleared(key, ())
        self._upkeep.forget(key)
        self._runner.forget(key)
        self._queue.wake(key)  # a run in hand has to learn of it


async def serve(settings: Settings) -> None:
    """Run one replica until it is told to end (SIGTERM, SIGINT).

    Raises LoginError, CertificateError, OSError for a port that cannot be had, and an ActivityError if the API server
    does not answer at the start.
    """
    told_to_end = asyncio.Event()
    _end_on_signals(told_to_end)
    async with AsyncExitStack() as stack:
        connection = Connection(connections=settings.kube_connections)
        kubernetes = await stack.enter_async_context(await KubernetesClient.connect(connection))
        tls = serving_tls(settings)
        clock = SystemClock()
        notifier = KubernetesNotifier(kubernetes, clock, instance=settings.worker)
        notifier.start()
        stack.push_async_callback(notifier.close)
        database = Circuit(
            "PostgreSQL",
            lambda: storage.check(),  # noqa: PLW0108 (the storage is made with the circuit)
            limit=settings.database_connections,
            clock=clock,
        )
        storage = PostgresStorage(
            settings.database_url.get_secret_value(),
            maintenance=settings.database_maintenance,
            close_others=settings.database_others == "close",
            advertised_host=settings.database_host,
            advertised_port=settings.database_port,
            connections=settings.database_connections,
            permits=database,
        )
        stack.push_async_callback(storage.close)
        stack.push_async_callback(database.close)
        mailer = await _mailer(settings, stack)
        post = Circuit(mailer.server, mailer.check, limit=_MAILS_AT_ONCE, clock=clock)
        stack.push_async_callback(post.close)
        _say_where_the_database_is(settings, storage.endpoint)
        catalog = WatchedCatalog()
        store = KubernetesTenantStore(kubernetes)
        audit = JsonLinesAudit(settings.audit_log)
        ports = Ports(
            cluster=KubernetesCluster(kubernetes),
            storage=storage,
            mailer=SparingMailer(mailer, post),
            prober=HttpProber(await stack.enter_async_context(probing_client())),
            catalog=catalog,
            census=store,
            clock=clock,
        )
        needs = Needs(storage, {"mail": mailer, "audit feed": audit})
        operator = Operator(
            settings,
            ports,
            store=store,
            platform_store=KubernetesPlatformStore(kubernetes),
            catalog=catalog,
            notifier=notifier,
            audit=audit,
            needs=needs,
        )
        for circuit in (database, post):
            circuit.on_closed = operator.wake_unfinished
        if settings.health_port:
            health = serve_health(settings.health_host, settings.health_port, operator.needs)
            await stack.enter_async_context(health)
        if settings.paused_port:
            await stack.enter_async_context(serve_paused(settings.paused_host, settings.paused_port))

        async def begin() -> HttpsServer | None:
            """In this order: whoever learns of tenants begins to work on them, and needs the database for it."""
            name = await patiently(lambda: own_name(kubernetes))
            await needs.wait_for_database()
            await patiently(lambda: operator.learn(kubernetes))
            return None if tls is None else webhook_server(settings, tls, name, kubernetes, ports, catalog, store)

        try:
            webhooks = await unless(told_to_end, begin())
        except ToldToEnd:
            return
        await operator.run(kubernetes, webhooks, told_to_end)


def _end_on_signals(told_to_end: asyncio.Event) -> None:
    """As the first process of a container it has no default: without a handler a SIGTERM would be lost."""
    for signal in (SIGTERM, SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal, told_to_end.set)


def _say_where_the_database_is(settings: Settings, database: Endpoint) -> None:
    """Raises SettingsError where tenants could not be let out to it: every one of them would fail."""
    try:
        database_rules(settings.options(), database)
    except Rejected as error:
        raise SettingsError(error.message) from None


async def _mailer(settings: Settings, stack: AsyncExitStack) -> HttpMailer | SmtpMailer:
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
