"""The Kubernetes control plane: etcd, API server, controllers, scheduler, and kwok in place of kubelets."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from devcluster.binaries import Binaries
from devcluster.certificates import (
    Authority,
    KeyPair,
    write_kubeconfig,
    write_service_account_key,
    write_webhook_kubeconfig,
)
from devcluster.children import Child, Children

_COLLECTIONS = {
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "Node": "/api/v1/nodes",
}
_HERE = Path(__file__).parent
WEBHOOK_CLIENT = "kube-apiserver-webhooks"
"""Who the API server is to a webhook that asks for a client certificate."""
_SERVICE_NETWORK = "10.96.0.0/16"
_SERVICE_ADDRESS = "10.96.0.1"
_POD_NETWORK = "10.128.0.0/12"
# With their defaults (20 queries a second, a handful of workers) these programs, not what is tested, are the
# bottleneck.
_CLIENT_LIMITS = ("--kube-api-qps=2000", "--kube-api-burst=3000")
_CONCURRENT_SYNCS = (
    "deployment-syncs=20",
    "replicaset-syncs=20",
    "statefulset-syncs=20",
    "job-syncs=20",
    "namespace-syncs=40",
    "resource-quota-syncs=20",
    "service-endpoint-syncs=20",
    "endpoint-syncs=20",
    "serviceaccount-token-syncs=20",
    "gc-syncs=40",
)


@dataclass(frozen=True)
class Ports:
    """The loopback port of each program."""

    etcd: int
    etcd_peer: int
    etcd_health: int
    api_server: int
    controllers: int
    scheduler: int
    kwok: int


class ControlPlane:
    """Starts the programs of one control plane in the order in which they need each other."""

    def __init__(
        self, state: Path, binaries: Binaries, children: Children, ports: Ports, *, audited: Sequence[str] = ()
    ) -> None:
        """``audited``: the users whose requests the API server notes."""
        self._state = state
        self._audited = audited
        self._binaries = binaries
        self._children = children
        self._ports = ports
        self._certificates = state / "certificates"
        self._certificates.mkdir(exist_ok=True)
        self._authority = Authority(self._certificates, "devcluster-ca")
        # An authority of its own, so that a user of the cluster cannot go around RBAC to the data.
        self._etcd_authority = Authority(self._certificates, "devcluster-etcd-ca")
        self._serving = self._authority.serving_certificate("serving", [_SERVICE_ADDRESS])
        self._service_accounts = write_service_account_key(self._certificates)
        # Of an anonymous client: for the health endpoints, which need no login.
        self._health = httpx.Client(verify=self._tls_context(), trust_env=False, timeout=2.0)

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://127.0.0.1:{self._ports.api_server}"

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the cluster's administrator."""
        return self._state / "kubeconfig"

    def write_user(self, path: Path, user: str, groups: Sequence[str], *, file_name: str) -> Path:
        """Write a kubeconfig that logs in as ``user`` in ``groups`` with a certificate; return its path."""
        client = self._authority.client_certificate(file_name, user, groups)
        write_kubeconfig(path, server=self.server, authority=self._authority, client=client, user=user)
        return path

    def start(self) -> None:
        """Start everything and return when pods can be created and run; to be called once."""
        with self._health:
            self._start_etcd()
            self._start_api_server()
            self.write_user(self.kubeconfig, "admin", ["system:masters"], file_name="admin")
            self._start_controllers()
            self._start_scheduler()
            with self._administrator() as api:
                self._install(api)
                self._start_kwok()
                self._wait_until_usable(api)

    def _internal_kubeconfig(self, name: str) -> Path:
        path = self._certificates / f"{name}.kubeconfig"
        return self.write_user(path, f"system:{name}", (), file_name=name)

    def _healthy(self, url: str) -> bool:
        try:
            return self._health.get(url).is_success
        except httpx.TransportError:
            return False

    def _start_etcd(self) -> None:
        ports, pair = self._ports, self._etcd_authority.serving_certificate("etcd")
        client, peer = f"https://127.0.0.1:{ports.etcd}", f"https://127.0.0.1:{ports.etcd_peer}"
        trusted = str(self._etcd_authority.pair.certificate)
        self._spawn(
            "etcd",
            "--name=devcluster",
            f"--data-dir={self._state / 'etcd'}",
            "--unsafe-no-fsync",
            "--heartbeat-interval=10",
            "--election-timeout=100",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=devcluster={peer}",
            f"--listen-metrics-urls=http://127.0.0.1:{ports.etcd_health}",
            "--client-cert-auth",
            *_tls(pair, trusted),
            "--peer-client-cert-auth",
            *_tls(pair, trusted, prefix="peer-"),
            "--auto-compaction-retention=10m",
            "--quota-backend-bytes=8589934592",
            "--log-level=warn",
        )
        health = f"http://127.0.0.1:{ports.etcd_health}/health"
        self._children.wait_until(lambda: self._healthy(health), "etcd")

    def _start_api_server(self) -> None:
        etcd = self._etcd_authority.client_certificate("etcd-client", "kube-apiserver")
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=https://127.0.0.1:{self._ports.etcd}",
            f"--etcd-cafile={self._etcd_authority.pair.certificate}",
            f"--etcd-certfile={etcd.certificate}",
            f"--etcd-keyfile={etcd.key}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self._ports.api_server}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self._authority.pair.certificate}",
            f"--admission-control-config-file={self._admission_configuration()}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._service_accounts.certificate}",
            f"--service-account-signing-key-file={self._service_accounts.key}",
            f"--service-cluster-ip-range={_SERVICE_NETWORK}",
            "--max-requests-inflight=1000",
            "--max-mutating-requests-inflight=500",
            "--profiling=false",
            *(self._audit_log() if self._audited else ()),
        )
        self._children.wait_until(lambda: self._healthy(f"{self.server}/readyz"), "the API server")

    def _audit_log(self) -> Sequence[str]:
        """What makes the API server note who asked what, once it has answered."""
        policy = self._state / "audit-policy.yaml"
        rules = [
            {"level": "Metadata", "users": list(self._audited), "omitStages": ["RequestReceived"]},
            {"level": "None"},
        ]
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        log = self._state / "logs" / "requests.jsonl"
        # Whoever reads it goes on from where it was: it must not begin anew.
        return (f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-maxsize=100000")

    def _admission_configuration(self) -> Path:
        """What makes the API server show a client certificate to webhooks."""
        kubeconfig, path = self._certificates / "webhooks.kubeconfig", self._certificates / "admission.yaml"
        write_webhook_kubeconfig(kubeconfig, self._authority.client_certificate("webhook-client", WEBHOOK_CLIENT))
        version = "apiserver.config.k8s.io/v1"
        plugin = {"apiVersion": version, "kind": "WebhookAdmissionConfiguration", "kubeConfigFile": str(kubeconfig)}
        names = ("ValidatingAdmissionWebhook", "MutatingAdmissionWebhook")
        plugins = [{"name": name, "configuration": plugin} for name in names]
        document = {"apiVersion": version, "kind": "AdmissionConfiguration", "plugins": plugins}
        path.write_text(json.dumps(document, indent=2))
        return path

    def _start_controllers(self) -> None:
        authority = self._authority.pair
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self._internal_kubeconfig('kube-controller-manager')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports.controllers}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self._service_accounts.key}",
            f"--root-ca-file={authority.certificate}",
            f"--cluster-signing-cert-file={authority.certificate}",
            f"--cluster-signing-key-file={authority.key}",
            "--leader-elect=false",
            "--profiling=false",
            *_CLIENT_LIMITS,
            *(f"--concurrent-{setting}" for setting in _CONCURRENT_SYNCS),
        )

    def _start_scheduler(self) -> None:
        self._spawn(
            "kube-scheduler",
            f"--kubeconfig={self._internal_kubeconfig('kube-scheduler')}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports.scheduler}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            "--leader-elect=false",
            "--profiling=false",
            *_CLIENT_LIMITS,
        )

    def _install(self, api: httpx.Client) -> None:
        """Apply the nodes, kwok's permissions and the Gateway API's kinds.

        Not with kubectl: its discovery of an API server that has just started takes longer than all of this.
        """
        for folder in (_HERE / "manifests", self._binaries.gateway_api):
            for file in sorted(folder.glob("*.yaml")):
                for document in yaml.load_all(file.read_bytes(), yaml.CSafeLoader):
                    path = f"{_COLLECTIONS[document['kind']]}/{document['metadata']['name']}"
                    response = api.patch(
                        path,
                        params={"fieldManager": "devcluster", "force": "true"},
                        headers={"Content-Type": "application/apply-patch+yaml"},
                        content=json.dumps(document),
                    )
                    response.raise_for_status()

    def _start_kwok(self) -> None:
        stages = self._state / "stages.yaml"
        stages.write_text("---\n".join(path.read_text() for path in sorted((_HERE / "stages").glob("*.yaml"))))
        self._spawn(
            "kwok",
            f"--kubeconfig={self._internal_kubeconfig('kwok')}",
            f"--config={stages}",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            f"--cidr={_POD_NETWORK}",
            "--node-ip=127.0.0.1",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{self._ports.kwok}",
        )

    def _tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._authority.pair.certificate))

    def _administrator(self) -> httpx.Client:
        admin = self._authority.client_certificate("admin", "admin", ["system:masters"])
        context = self._tls_context()
        context.load_cert_chain(admin.certificate, admin.key)
        return httpx.Client(base_url=self.server, verify=context, trust_env=False, timeout=30.0)

    def _wait_until_usable(self, api: httpx.Client) -> None:
        ports, wait = self._ports, self._children.wait_until
        wait(lambda: self._healthy(f"https://127.0.0.1:{ports.controllers}/healthz"), "the controllers")
        wait(lambda: self._healthy(f"https://127.0.0.1:{ports.scheduler}/healthz"), "the scheduler")
        wait(lambda: self._healthy(f"http://127.0.0.1:{ports.kwok}/healthz"), "kwok")
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        wait(lambda: api.get(account).is_success, "the default service account")
        wait(lambda: _all_schedulable(api.get("/api/v1/nodes")), "the nodes")

    def _spawn(self, name: str, *arguments: str) -> Child:
        return self._children.spawn(name, [self._binaries[name], *arguments])


def _all_schedulable(response: httpx.Response) -> bool:
    response.raise_for_status()

    def is_ready(node: dict[str, Any]) -> bool:
        conditions = node.get("status", {}).get("conditions", ())
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

    return all(is_ready(node) and not node["spec"].get("taints") for node in response.json()["items"])


def _tls(pair: KeyPair, trusted: str, *, prefix: str = "") -> list[str]:
    return [
        f"--{prefix}cert-file={pair.certificate}",
        f"--{prefix}key-file={pair.key}",
        f"--{prefix}trusted-ca-file={trusted}",
    ]
