"""The process of one replica: its ports made real, begun in order, until the signal to end and through the drain."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from signal import SIGINT, SIGTERM
from typing import Any, Final
from uuid import uuid4

import aiohttp
import httpx
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
from tenant_operator.adapters.kubernetes.listing import listed
from tenant_operator.adapters.kubernetes.object_watch import watch_all
from tenant_operator.adapters.kubernetes.platform_store import KubernetesPlatformStore
from tenant_operator.adapters.kubernetes.store import KubernetesTenantStore
from tenant_operator.adapters.kubernetes.watches import Watches
from tenant_operator.adapters.paused import serve_paused
from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.adapters.smtp import SmtpMailer
from tenant_operator.inbox import kinds_of_children, own_kinds
from tenant_operator.needs import Needs
from tenant_operator.ports import Endpoint
from tenant_operator.provisioning.activity import Ports
from tenant_operator.provisioning.egress import database_rules
from tenant_operator.provisioning.migration_files import load_migrations
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.replica import Replica
from tenant_operator.replicas.alone import Alone
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.evolve import Worker
from tenant_operator.settings import Settings, SettingsError
from tenant_operator.start import ToldToEnd, patiently, unless
from tenant_operator.webhooks import serving_tls, webhook_server
from tenant_operator.wiring import Outside, assemble

_log = logging.getLogger(__name__)

_MAILS_AT_ONCE: Final = 20
"""Servers refuse more connections from one client."""


async def serve(settings: Settings) -> None:
    """Run one replica until it is told to end (SIGTERM, SIGINT).

    Raises LoginError, CertificateError, OSError for a port that cannot be had, an ActivityError if the API server does
    not answer at the start, and PartEnded.
    """
    told_to_end = asyncio.Event()
    _end_on_signals(told_to_end)
    async with AsyncExitStack() as stack:
        connection = Connection(connections=settings.kube_connections)
        kubernetes = await stack.enter_async_context(await KubernetesClient.connect(connection))
        tls, options, clock = serving_tls(settings), settings.options(), SystemClock()
        worker = Worker(id=f"{settings.worker}-{uuid4().hex[:6]}", fence=0, started_at=clock.now())
        outside, needs, circuits = await _outside(settings, kubernetes, clock, stack)
        parts = assemble(
            outside,
            provisioning_steps(options, load_migrations()),
            options,
            worker,
            new_id=lambda: str(ULID()),  # sortable by time, unique without asking anyone
            concurrency=settings.concurrency,
            open_databases=needs.open_databases,
        )
        for circuit in circuits:
            circuit.on_closed = parts.inbox.server_is_back
        resync_seconds = settings.resync.total_seconds()
        replica = Replica(
            parts,
            outside.catalog,
            partial(listed, kubernetes),
            resync_seconds=resync_seconds,
            compare_seconds=settings.compare.total_seconds(),
            drain_seconds=settings.drain_seconds,
        )
        own, children = own_kinds(parts.inbox), kinds_of_children(parts.inbox, settings.route_kind)
        watches = Watches([each.path for each in (*own, *children)])
        begun: list[Callable[[], Need]] = []

        def report() -> list[Need]:
            """What it needs to be ready, and what is wrong with it now."""
            return [Need("operator", replica.not_working), *(look() for look in begun), *needs.report()]

        if settings.health_port:
            await stack.enter_async_context(serve_health(settings.health_host, settings.health_port, report))
        if settings.paused_port:
            await stack.enter_async_context(serve_paused(settings.paused_host, settings.paused_port))

        async def begin() -> HttpsServer | None:
            """In this order: whoever learns of tenants begins to work on them, and needs the database for it."""
            name = await patiently(lambda: own_name(kubernetes))
            await needs.wait_for_database()
            await patiently(replica.learn)
            return None if tls is None else webhook_server(settings, tls, name, kubernetes, outside)

        def session() -> aiohttp.ClientSession:
            return kubernetes.session(watches.observe)

        try:
            webhooks = await unless(told_to_end, begin())
        except ToldToEnd:
            return
        _log.info("working as %s", worker.id)
        begun.append(lambda: Need("watches", watches.fault()))
        # The webhooks are the last that ends.
        async with webhooks or nullcontext(), handlers.watching(own, kubernetes.server, session) as watched:
            # In place of kopf's own: told to end, it lets the sagas go on for 5 s and then cancels whatever there is.
            _end_on_signals(told_to_end)
            beside: dict[str, Coroutine[Any, Any, object]] = {
                "look at what is needed": needs.keep_looking(resync_seconds),
                "watches": watched,
                "watches of what tenants are made of": watch_all(session(), kubernetes.server, children),
            }
            if webhooks is not None:
                begun.append(lambda: Need("webhooks", "" if webhooks.is_listening else "not listening"))
                beside["server of the webhooks"] = webhooks.ended.wait()
            await replica.work(told_to_end, beside)


async def _outside(
    settings: Settings, kubernetes: KubernetesClient, clock: SystemClock, stack: AsyncExitStack
) -> tuple[Outside, Needs, Sequence[Circuit]]:
    """The ports made real, closed with the stack; what is looked at beside the API server; what tells of its return."""
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
    catalog, store, audit = WatchedCatalog(), KubernetesTenantStore(kubernetes), JsonLinesAudit(settings.audit_log)
    ports = Ports(
        cluster=KubernetesCluster(kubernetes),
        storage=storage,
        mailer=SparingMailer(mailer, post),
        prober=HttpProber(await stack.enter_async_context(probing_client())),
        catalog=catalog,
        census=store,
        clock=clock,
    )
    outside = Outside(ports, store, KubernetesPlatformStore(kubernetes), catalog, notifier, audit, Alone())
    return outside, Needs(storage, {"mail": mailer, "audit feed": audit}), (database, post)


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
