"""What turns a bare development cluster into the platform: the product's kinds, a running operator, the samples."""

from __future__ import annotations

import base64
import copy
import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import yaml

from devcluster import ports
from devcluster.certificates import Authority
from devcluster.cluster import DevCluster, Environment, supervisor_pid

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "manifests" / "samples"
CATALOG = (SAMPLES / "organization.yaml", SAMPLES / "plans.yaml", SAMPLES / "failing" / "plan.yaml")
"""The sample organisation and all plans that it may use; no tenants."""

OPERATOR = "tenant-operator"
"""The service account of the operator, and its namespace."""

_INSTALL = ROOT / "manifests" / "install.yaml"
_KINDS = "CustomResourceDefinition"
_ACCOUNT = (
    *("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
)
"""What an operator on this machine needs in the cluster beside the product's kinds: who it is, and what it may do."""
_NO_TENANTS = "kube-public"
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_VALID_FOR = "8760h"
_PREFIX = "TENANT_OPERATOR_"
_HOST = "127.0.0.1"
_KUBECTL_SECONDS = 60.0
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05


class PlatformError(RuntimeError):
    """The platform could not be set up; the message says what refused."""


@dataclass(frozen=True)
class Operator:
    """A running operator: the process that keeps it alive, and where it tells how it is doing."""

    supervisor: int
    health_port: int
    log: Path
    audit: Path

    @classmethod
    def load(cls, state: Path) -> Self | None:
        """The operator that is ready in the cluster of ``state``, or None."""
        file = _file(state)
        supervisor = supervisor_pid(state)
        if supervisor is None or not file.exists():
            return None
        raw = json.loads(file.read_text())
        operator = cls(raw["supervisor"], raw["health_port"], Path(raw["log"]), Path(raw["audit"]))
        # A file that an earlier cluster of the same folder left behind tells nothing.
        return operator if operator.supervisor == supervisor else None


def kubectl(environment: Environment, *arguments: str, stdin: str = "") -> str:
    """Run kubectl as the cluster's administrator and return what it prints. Raises `PlatformError`."""
    command = [str(environment.kubectl), f"--kubeconfig={environment.kubeconfig}", *arguments]
    try:
        result = subprocess.run(  # noqa: S603
            command, input=stdin, capture_output=True, text=True, timeout=_KUBECTL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PlatformError(f"kubectl {' '.join(arguments)}: no answer after {error.timeout:.0f} s") from error
    if result.returncode != 0:
        raise PlatformError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout


def read(environment: Environment, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
    """One object, or None if there is none of that name."""
    where = () if namespace is None else (f"--namespace={namespace}",)
    text = kubectl(environment, "get", kind, name, *where, "--ignore-not-found", "--output=json")
    return json.loads(text) if text.strip() else None


def installed(*kinds: str) -> list[dict[str, Any]]:
    """The objects of these kinds in the plain install, in their order."""
    return [copy.deepcopy(each) for each in _plain_install() if each["kind"] in kinds]


@cache
def _plain_install() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load_all(_INSTALL.read_text(encoding="utf-8")))


def install(environment: Environment) -> None:
    """Teach the cluster the product's kinds and roles, and make the operator's account; returns once the API server
    serves them, and holds the operator to its policy."""
    kinds = yaml.safe_dump_all(installed(_KINDS))
    kubectl(environment, "apply", "--server-side", "--filename=-", stdin=kinds)
    kubectl(environment, "apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(installed(*_ACCOUNT)))
    kubectl(environment, "wait", "--for=condition=Established", "--filename=-", "--timeout=30s", stdin=kinds)
    _wait_until_held(environment)
    _write_operator_kubeconfig(environment)


def _wait_until_held(environment: Environment) -> None:
    """The API server compiles a policy in its own time, and until then nobody is held to it."""
    attempt = ("create", "configmap", "attempt", f"--namespace={_NO_TENANTS}", "--dry-run=server")
    account = f"--as=system:serviceaccount:{OPERATOR}:{OPERATOR}"
    deadline = time.monotonic() + _READY_SECONDS
    refusal = "it was accepted"
    while "ValidatingAdmissionPolicy" not in refusal:
        if time.monotonic() > deadline:
            raise PlatformError(f"the operator is not held to its policy after {_READY_SECONDS:.0f} s: {refusal}")
        try:
            refusal = f"it was accepted: {kubectl(environment, *attempt, account)}"
        except PlatformError as error:
            refusal = str(error)


def operator_kubeconfig(environment: Environment) -> Path:
    """With this the operator is its service account, as in a pod, and may do what that may. `install` writes it."""
    return environment.state.absolute() / "operator.kubeconfig"


def client_authority(environment: Environment) -> Path:
    """The authority (PEM) of the API server's and of all users' client certificates."""
    return environment.state.absolute() / "certificates" / "devcluster-ca.crt"


def _write_operator_kubeconfig(environment: Environment) -> None:
    config = json.loads(kubectl(environment, "config", "view", "--minify", "--flatten", "--output=json"))
    create_token = ("create", "token", OPERATOR, f"--namespace={OPERATOR}", f"--duration={_VALID_FOR}")
    config["users"] = [{"name": OPERATOR, "user": {"token": kubectl(environment, *create_token).strip()}}]
    for context in config["contexts"]:
        context["context"]["user"] = OPERATOR
    file = operator_kubeconfig(environment)
    file.touch(mode=0o600)
    file.write_text(json.dumps(config, indent=2))


@dataclass(frozen=True)
class Webhook:
    """Where the admission webhooks of an operator on this machine are served, and with which certificate."""

    port: int
    token: str
    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def issue(cls, folder: Path, port: int) -> Self:
        """Make a token, a certificate, and an authority for it, in the folder; what is there is used again."""
        folder.mkdir(mode=0o700, exist_ok=True)
        token = folder / "token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(24))
        authority = Authority(folder, "webhook-authority")
        pair = authority.serving_certificate("webhook")
        return cls(port, token.read_text(), authority.pair.certificate, pair.certificate, pair.key)

    @property
    def address(self) -> str:
        """Where the server is."""
        return f"https://{_HOST}:{self.port}"

    @property
    def url(self) -> str:
        """What the path of each webhook begins with."""
        return f"{self.address}/{self.token}"

    def settings(self) -> dict[str, str]:
        """The settings of the operator that serves them, without the prefix of their names."""
        return {
            "WEBHOOK_HOST": _HOST,
            "WEBHOOK_PORT": str(self.port),
            "WEBHOOK_TOKEN": self.token,
            "WEBHOOK_CERTIFICATE": str(self.certificate),
            "WEBHOOK_KEY": str(self.key),
        }


def install_webhook(environment: Environment, url: str, ca: bytes) -> None:
    """Have the API server ask the operator at ``url``, whose certificate ``ca`` (PEM) has signed, about every write but
    its own; each webhook by its name there."""
    configurations = installed(*_WEBHOOKS)
    for configuration in configurations:
        for webhook in configuration["webhooks"]:
            name = webhook["clientConfig"]["service"]["path"].rpartition("/")[2]
            webhook["clientConfig"] = {"url": f"{url}/{name}", "caBundle": base64.b64encode(ca).decode()}
    kubectl(environment, "apply", "--filename=-", stdin=yaml.safe_dump_all(configurations))


def remove_webhook(environment: Environment) -> None:
    """Have the API server ask nobody."""
    configurations = yaml.safe_dump_all(installed(*_WEBHOOKS))
    kubectl(environment, "delete", "--filename=-", "--ignore-not-found", stdin=configurations)


def apply(environment: Environment, *paths: Path) -> None:
    """Apply manifests, in this order, as a user would."""
    for path in paths:
        kubectl(environment, "apply", f"--filename={path}")


def operator_environment(environment: Environment, *, health_port: int) -> dict[str, str]:
    """The environment variables by which an operator works in this cluster, with this database and mail receiver, and
    with the rights of its service account."""
    settings = {
        "DATABASE_URL": environment.database_url,
        "BASE_DOMAIN": "tenants.example",
        "MAIL_TRANSPORT": "smtp",
        "SMTP_HOST": environment.smtp_host,
        "SMTP_PORT": str(environment.smtp_port),
        "SMTP_TLS": "none",
        "AUDIT_LOG": str(environment.state / "audit.jsonl"),
        "HEALTH_HOST": _HOST,
        "HEALTH_PORT": str(health_port),
        "PAUSED_HOST": _HOST,
        "PAUSED_PORT": "0",
        "LOG_FORMAT": "console",
    }
    account = {"KUBECONFIG": str(operator_kubeconfig(environment))}
    return {_PREFIX + name: value for name, value in settings.items()} | account


def start_operator(
    cluster: DevCluster, environment: Environment, settings: Mapping[str, str] | None = None
) -> Operator:
    """Start an operator that lives as long as the cluster; returns once it is ready.

    ``settings`` are environment variables that win over those of `operator_environment`. Raises `PlatformError`, or
    `devcluster.children.ChildFailedError` if it ends.
    """
    health_port, webhook_port = ports.choose(2)
    webhook = Webhook.issue(environment.state / "webhook", webhook_port)
    # Whatever the caller's shell says of some other operator must not reach this one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
    own = {
        **operator_environment(environment, health_port=health_port),
        **{_PREFIX + name: value for name, value in webhook.settings().items()},
        **(settings or {}),
    }
    path = os.pathsep.join(part for part in (str(ROOT / "operator"), os.environ.get("PYTHONPATH")) if part)
    cluster.spawn(
        "operator", [sys.executable, "-m", "tenant_operator", "run"], {**inherited, **own, "PYTHONPATH": path}
    )
    _wait_until_ready(cluster, health_port, environment.state / "logs")
    install_webhook(environment, webhook.url, webhook.authority.read_bytes())
    operator = Operator(
        supervisor=os.getpid(),
        health_port=health_port,
        log=environment.state / "logs" / "operator.log",
        audit=Path(own[_PREFIX + "AUDIT_LOG"]),
    )
    file = _file(environment.state)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(json.dumps(asdict(operator), default=str, indent=2))
    unfinished.rename(file)
    return operator


def _file(state: Path) -> Path:
    return state.absolute() / "operator.json"


def _wait_until_ready(cluster: DevCluster, port: int, logs: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not _is_ready(port):
        cluster.check()
        if time.monotonic() > deadline:
            raise PlatformError(f"the operator is not ready after {_READY_SECONDS:.0f} s; see {logs / 'operator.log'}")
        time.sleep(_POLL_SECONDS)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
