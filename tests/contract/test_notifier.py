"""Kubernetes Events reach `kubectl describe` without anyone waiting for them."""

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.aio.client import Configuration

from devcluster import Environment
from tenant_operator.adapters.clock import SystemClock
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.adapters.kubernetes.events import CONTROLLER, KubernetesNotifier
from tenant_operator.adapters.kubernetes.store import KubernetesTenantStore
from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.names import API_VERSION
from tenant_operator.api.tenant import Admin, Tenant, TenantSpec
from tenant_operator.ports import TenantKey
from tests.contract.loopback import http_server, unused_port


@dataclass(frozen=True)
class News:
    reason: str
    message: str
    warning: bool = False


def somebody(namespace: str = "acme") -> Tenant:
    return Tenant(
        metadata=ObjectMeta(name="banking", namespace=namespace, uid="u"),
        spec=TenantSpec(organization="acme", plan="starter", admin=Admin(email="ann@acme.example")),
    )


def notifier_on(client: KubernetesClient, **options: Any) -> KubernetesNotifier:
    return KubernetesNotifier(client, SystemClock(), instance="replica-0", **options)


def client_of(port: int) -> KubernetesClient:
    return KubernetesClient(Configuration(host=f"http://127.0.0.1:{port}"), Connection())


@pytest.fixture
async def tenant(client: KubernetesClient) -> Tenant:
    """A Tenant in the real cluster."""
    namespace = f"contract-{uuid4().hex[:8]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    await client.request("POST", "/api/v1/namespaces", subject="Namespace", body=body)
    wanted = somebody()
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "Tenant",
        "metadata": {"name": "banking"},
        "spec": wanted.spec.to_wire(),
    }
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/tenants"
    await client.request("POST", path, subject="Tenant", body=manifest)
    stored = await KubernetesTenantStore(client).read(TenantKey(namespace, "banking"))
    assert stored is not None
    return stored


@pytest.fixture
def events_of(client: KubernetesClient) -> Callable[[Tenant], Any]:
    async def events(tenant: Tenant) -> list[dict[str, Any]]:
        path = f"/apis/events.k8s.io/v1/namespaces/{tenant.metadata.namespace}/events"
        answer = await client.request("GET", path, subject="Events")
        return sorted(answer.json()["items"], key=lambda event: str(event["eventTime"]))

    return events


async def test_notices_become_events_that_kubectl_describes(
    client: KubernetesClient, devcluster: Environment, tenant: Tenant, events_of: Callable[[Tenant], Any]
) -> None:
    notifier = notifier_on(client)
    notifier.start()
    await notifier.publish(
        tenant, [News("Provisioning", "attempt 1 has started"), News("ActivityFailed", "no such image", warning=True)]
    )
    await notifier.close()

    first, second = await events_of(tenant)
    assert (first["reason"], first["type"], first["note"]) == ("Provisioning", "Normal", "attempt 1 has started")
    assert (second["reason"], second["type"], second["note"]) == ("ActivityFailed", "Warning", "no such image")
    assert first["reportingController"] == CONTROLLER
    assert first["reportingInstance"] == "replica-0"
    assert (notifier.dropped, notifier.failed) == (0, 0)

    command = [str(devcluster.kubectl), f"--kubeconfig={devcluster.kubeconfig}", "describe", "tenant", "banking"]
    described = await asyncio.to_thread(
        subprocess.run,
        [*command, f"--namespace={tenant.metadata.namespace}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Provisioning" in described.stdout.partition("Events:")[2]
    assert "no such image" in described.stdout.partition("Events:")[2]


async def test_the_same_news_again_is_counted_on_one_event(
    client: KubernetesClient, tenant: Tenant, events_of: Callable[[Tenant], Any]
) -> None:
    notifier = notifier_on(client)
    notifier.start()
    for _ in range(3):
        await notifier.publish(tenant, [News("ReleaseFailed", "the database is away", warning=True)])
    await notifier.publish(tenant, [News("ReleaseFailed", "something else", warning=True)])
    await notifier.close()

    first, second = await events_of(tenant)
    assert first["series"]["count"] == 3
    assert "series" not in second


async def test_long_messages_are_cut_to_what_the_api_server_takes(
    client: KubernetesClient, tenant: Tenant, events_of: Callable[[Tenant], Any]
) -> None:
    notifier = notifier_on(client)
    notifier.start()
    await notifier.publish(tenant, [News("ActivityFailed", "ü" * 2000)])
    await notifier.close()

    (event,) = await events_of(tenant)
    assert event["note"].endswith("ü…")
    assert len(event["note"].encode()) <= 1024
    assert notifier.failed == 0


async def test_nobody_waits_for_a_server_that_does_not_answer() -> None:
    async with http_server() as server, client_of(server.port) as client:
        server.silent = True
        notifier = notifier_on(client, queue_size=2)
        notifier.start()
        async with asyncio.timeout(5):
            for number in range(10):
                await notifier.publish(somebody(), [News("Active", f"news {number}")])
            await notifier.close(timeout_seconds=0.05)

    assert notifier.dropped == 10


async def test_events_that_the_server_does_not_take_are_counted_and_forgotten() -> None:
    async with client_of(unused_port()) as client:
        notifier = notifier_on(client)
        notifier.start()
        await notifier.publish(somebody(), [News("Active", "one"), News("Active", "two")])
        await notifier.close()

    assert (notifier.failed, notifier.dropped) == (2, 0)


async def test_a_notice_that_cannot_even_be_sent_does_not_end_the_posting() -> None:
    async with http_server() as server, client_of(server.port) as client:
        notifier = notifier_on(client)
        notifier.start()
        nobody = somebody()
        unspeakable = nobody.metadata.model_copy(update={"namespace": "\ud800"})  # a lone surrogate
        await notifier.publish(nobody.model_copy(update={"metadata": unspeakable}), [News("Active", "one")])
        await notifier.publish(nobody, [News("Active", "two")])
        await notifier.close()

    assert notifier.failed == 1
    assert len(server.requests) == 1
