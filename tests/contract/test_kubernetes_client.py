"""How the connection to the API server deals with servers that are busy, broken or gone, and with credentials."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, incluster_config

from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient, LoginError, login
from tenant_operator.adapters.kubernetes.cluster import KubernetesCluster
from tenant_operator.adapters.kubernetes.store import KubernetesTenantStore
from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.tenant import Admin, Tenant, TenantSpec
from tenant_operator.ports import Manifest, ObjectRef, TenantKey
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tests.contract.loopback import HttpServer, http_server, listening, unused_port

CONFIG = ObjectRef("v1", "ConfigMap", "settings", "shop")
MANIFEST: Manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "shop"}}


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with http_server() as running:
        running.body = b"{}"
        yield running


def client_of(port: int, seconds: float = 30.0, **options: object) -> KubernetesClient:
    connection = Connection(timeout_seconds=seconds)
    return KubernetesClient(Configuration(host=f"http://127.0.0.1:{port}"), connection, **options)  # type: ignore[arg-type]


def status(message: str, reason: str = "") -> bytes:
    return json.dumps({"kind": "Status", "message": message, "reason": reason}).encode()


async def test_a_busy_server_is_asked_again_after_the_pause_it_wants(server: HttpServer) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            server.status = 200

    server.status, server.headers = 429, {"Retry-After": "1"}
    async with client_of(server.port, sleep=sleep) as client:
        await KubernetesCluster(client).apply(MANIFEST)

    assert len(server.requests) == 3
    assert all(0.5 <= pause <= 1.0 for pause in pauses)


async def test_a_server_that_stays_busy_is_unavailable_after_a_few_short_pauses(server: HttpServer) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    server.status, server.headers, server.body = 429, {"Retry-After": "3600"}, status("too many requests")
    async with client_of(server.port, sleep=sleep) as client:
        with pytest.raises(Outage, match="ConfigMap shop/settings: too many requests"):
            await KubernetesCluster(client).get(CONFIG)

    assert len(pauses) == 3
    assert max(pauses) <= 2.0


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_a_server_in_trouble_is_unavailable(server: HttpServer, code: int) -> None:
    server.status, server.body = code, b"<html>bad gateway</html>"
    async with client_of(server.port) as client:
        with pytest.raises(Outage, match="ConfigMap shop/settings: <html>bad gateway</html>"):
            await KubernetesCluster(client).get(CONFIG)


async def test_a_refusal_is_rejected_with_a_bounded_message(server: HttpServer) -> None:
    server.status, server.body = 403, status("no " * 1000, "Forbidden")
    async with client_of(server.port) as client:
        with pytest.raises(Rejected) as caught:
            await KubernetesCluster(client).delete(CONFIG)

    assert caught.value.message.startswith("ConfigMap shop/settings: no no")
    assert len(caught.value.message) == 500


@pytest.mark.parametrize(
    "message",
    [
        'secrets "a" is forbidden: status unknown for quota: plan, resources: secrets',
        'pods "a" is forbidden: error looking up service account shop/default: serviceaccount "default" not found',
    ],
)
async def test_a_refusal_that_ends_when_a_controller_has_caught_up_can_heal(server: HttpServer, message: str) -> None:
    server.status, server.body = 403, status(message, "Forbidden")
    async with client_of(server.port) as client:
        with pytest.raises(Unavailable):
            await KubernetesCluster(client).apply(MANIFEST)


async def test_a_silent_server_is_unavailable(server: HttpServer) -> None:
    server.silent = True
    async with client_of(server.port, seconds=0.2) as client:
        with pytest.raises(Outage, match=r"ConfigMap shop/settings: the API server did not answer: .*[Tt]imeout"):
            await KubernetesCluster(client).get(CONFIG)


async def test_an_unreachable_server_is_unavailable_for_every_operation() -> None:
    tenant = Tenant(
        metadata=ObjectMeta(name="banking", namespace="acme", uid="u", resource_version="1"),
        spec=TenantSpec(organization="acme", plan="starter", admin=Admin(email="ann@acme.example")),
    )
    async with client_of(unused_port()) as client:
        cluster, store = KubernetesCluster(client), KubernetesTenantStore(client)
        for operation in (
            cluster.get(CONFIG),
            cluster.list("v1", "ConfigMap", "shop", {}),
            cluster.create(MANIFEST),
            cluster.apply(MANIFEST),
            cluster.delete(CONFIG),
            store.read(TenantKey("acme", "banking")),
            store.list("acme"),
            store.write_status(tenant),
            store.write_metadata(tenant),
        ):
            with pytest.raises(Outage, match="the API server did not answer: Cannot connect"):
                await operation


async def test_a_connection_that_breaks_is_replaced() -> None:
    heads: list[bytes] = []

    async def hang_up_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(heads) > 1:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()

    async with listening(hang_up_once) as port, client_of(port) as client:
        await KubernetesCluster(client).apply(MANIFEST)

    assert len(heads) == 2


async def test_a_server_that_always_hangs_up_is_unavailable(server: HttpServer) -> None:
    server.hangs_up = True
    async with client_of(server.port) as client:
        with pytest.raises(Outage, match="did not answer"):
            await KubernetesCluster(client).apply(MANIFEST)


def write_kubeconfig(folder: Path, port: int) -> Path:
    """A kubeconfig whose token is in the file `token` beside it."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {"tokenFile": "token"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


async def test_renewed_credentials_are_picked_up_when_the_old_ones_are_refused(
    server: HttpServer, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("old")
    connection = Connection(write_kubeconfig(tmp_path, server.port))
    async with await KubernetesClient.connect(connection) as client:
        (tmp_path / "token").write_text("new")
        server.status, server.body = 401, status("Unauthorized", "Unauthorized")
        with pytest.raises(Outage, match="Unauthorized"):
            await KubernetesCluster(client).get(CONFIG)

    assert [request.headers["authorization"] for request in server.requests] == ["Bearer old", "Bearer new"]


async def test_a_token_that_cannot_be_read_now_can_be_read_later(server: HttpServer) -> None:
    def rotating(configuration: Configuration) -> None:
        if not configuration.api_key:
            configuration.api_key["BearerToken"] = "bearer next"
            raise ConfigException("Token file exists but empty.")

    configuration = Configuration(host=f"http://127.0.0.1:{server.port}")
    configuration.refresh_api_key_hook = rotating  # type: ignore[assignment]
    async with KubernetesClient(configuration, Connection()) as client:
        with pytest.raises(Outage, match="token cannot be read"):
            await KubernetesCluster(client).apply(MANIFEST)
        await KubernetesCluster(client).apply(MANIFEST)

    assert server.requests[0].headers["authorization"] == "bearer next"


async def test_the_environment_names_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("mine")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, 4711)))

    assert (await login(Connection())).host == "http://127.0.0.1:4711"


async def test_the_proxy_of_the_environment_is_used_unless_it_says_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("mine")
    connection = Connection(write_kubeconfig(tmp_path, 4711))
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")
    assert (await login(connection)).proxy == "http://proxy.example:3128"

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert (await login(connection)).proxy is None


async def test_a_pod_logs_in_with_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-the-pod")
    (tmp_path / "ca.crt").write_text("a certificate")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    configuration = await login(Connection(connections=7))

    assert configuration.host == "https://10.0.0.1:443"
    assert configuration.connection_pool_maxsize == 7
    assert await configuration.get_api_key_with_prefix("BearerToken") == "bearer of-the-pod"


async def test_no_way_to_log_in_is_told_with_the_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match=str(tmp_path / "nowhere")):
        await login(Connection(tmp_path / "nowhere"))


async def test_what_a_secret_holds_is_in_no_error(client: KubernetesClient) -> None:
    cluster, namespace = KubernetesCluster(client), f"contract-{uuid4().hex[:8]}"
    await cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    encoded = base64.b64encode(b"hunter2").decode()
    metadata = {"name": "credentials", "namespace": namespace}
    broken: list[Manifest] = [
        {"data": {"password": "hunter2!"}},
        {"data": {"password": encoded, "pass word": encoded}},
        {"stringData": {"password": ["hunter2"]}},
        {"data": {"password": encoded}, "type": "kubernetes.io/tls"},
        {"data": "hunter2"},
    ]

    for content in broken:
        manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, **content}
        for operation in (cluster.apply, cluster.create):
            with pytest.raises(Rejected) as caught:
                await operation(manifest)
            assert caught.value.message.startswith(f"Secret {namespace}/credentials: ")
            assert "hunter2" not in str(caught.value)
            assert encoded not in str(caught.value)
