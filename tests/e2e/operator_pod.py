"""The operator in a pod, installed by the chart, in a kind cluster."""

import json
import logging
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from devcluster import Environment, binaries
from devcluster.children import fork, tied_to_us
from devcluster.platform import OPERATOR, ROOT
from tests.e2e import cluster_source
from tests.e2e.operator_process import RUN, Operator, OperatorProcess
from tests.e2e.waiting import until

_log = logging.getLogger(__name__)

CHART = ROOT / "charts" / "tenant-operator"

_POD = f"--selector=app.kubernetes.io/instance={OPERATOR},app.kubernetes.io/component=operator"
_DATABASE_SECRET = "tenant-operator-database"
_AUDIT, _AUDIT_FOLDER = "audit", "/var/lib/tenant-operator"
_OF_THIS_MACHINE = frozenset(
    {"DATABASE_URL", "SMTP_PORT", "PAUSED_PORT", "RESPONDER_NAMESPACE", "RESPONDER_SERVICE", "RESPONDER_PORT"}
)
"""Settings by which a module leads its operator to a port of the tests, or that the chart decides for its pod."""
_SECONDS = 120.0


def operator(
    platform: Environment, folder: Path, settings: Mapping[str, str], command: Sequence[str] = RUN
) -> Operator:
    """An operator in a pod if there are pods that run, and a process of this machine if the tests need it here."""
    if cluster_source.is_kind() and tuple(command) == RUN and not _OF_THIS_MACHINE & set(settings):
        return OperatorPod(platform, folder, settings, cluster_source.image())
    return OperatorProcess(platform, folder, settings, command)


def chart_values(
    platform: Environment, settings: Mapping[str, str], image: str, audit_log: str, *, webhooks: bool
) -> dict[str, Any]:
    """What the chart is told; `settings` by their names without the prefix, `image` with its tag."""
    repository, _, tag = image.rpartition(":")
    here = {
        "BASE_DOMAIN": "tenants.example",
        "SMTP_HOST": platform.smtp_host,
        "SMTP_PORT": str(platform.smtp_port),
        "SMTP_TLS": "none",
        "AUDIT_LOG": audit_log,
    }
    database = conninfo_to_dict(platform.database_url)
    return {
        # It was loaded into the node, and is nowhere else.
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "settings": {_camel(name): _parsed(value) for name, value in {**here, **settings}.items()},
        "secrets": {"databaseUrl": {"name": _DATABASE_SECRET, "key": "url"}},
        "webhook": {"enabled": webhooks},
        "networkPolicy": {
            "databasePorts": [int(str(database["port"]))],
            # Plans of the tests have the tests asked whether a tenant is ready.
            "extraEgress": [{"to": [{"ipBlock": {"cidr": f"{platform.smtp_host}/32"}}]}],
        },
        # Its audit feed is a file, and has one writer.
        "strategy": "Recreate",
        "extraVolumes": [{"name": _AUDIT, "persistentVolumeClaim": {"claimName": _AUDIT}}],
        "extraVolumeMounts": [{"name": _AUDIT, "mountPath": _AUDIT_FOLDER}],
    }


def _camel(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(part.capitalize() for part in rest)


def _parsed(value: str) -> Any:
    """A number, a list or an object is one in the chart's values as well."""
    try:
        return json.loads(value)
    except ValueError:
        return value


class OperatorPod(Operator):
    """An operator in a pod. Its audit feed is a file in a volume: only that tells once what was told before a crash."""

    def __init__(
        self, platform: Environment, folder: Path, settings: Mapping[str, str], image: str, *, webhooks: bool = False
    ) -> None:
        super().__init__(folder)
        self._platform = platform
        self._audit_copy = folder / "audit.jsonl"
        self._audit_log = f"{_AUDIT_FOLDER}/{folder.name}-{secrets.token_hex(4)}.jsonl"
        self._values = chart_values(platform, settings, image, self._audit_log, webhooks=webhooks)
        self._is_installed = False
        self._pod: str | None = None
        self._follower: subprocess.Popen[bytes] | None = None

    @property
    def audit(self) -> Path:
        volume = self._kubectl("get", "pvc", _AUDIT, "--output=jsonpath={.spec.volumeName}")
        where = "--output=jsonpath={.spec.local.path}{.spec.hostPath.path}"
        file = f"{self._kubectl('get', 'pv', volume, where)}/{Path(self._audit_log).name}"
        # A node of kind is a container of the same name. The operator may be down: it cannot be asked.
        node = self._kubectl("get", "nodes", "--output=jsonpath={.items[0].metadata.name}")
        self._audit_copy.write_text(_run("docker", "exec", node, "sh", "-c", f"! test -e {file} || cat {file}"))
        return self._audit_copy

    def start(self) -> None:
        assert self._pod is None, "it is running already"
        if self._is_installed:
            self._scale(1)
        else:
            self._install()
        try:
            self._kubectl("rollout", "status", f"deployment/{OPERATOR}", f"--timeout={_SECONDS:g}s")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._told_by_pods()}") from None
        (self._pod,) = json.loads(self._kubectl("get", "pods", _POD, '--output=jsonpath=["{.items[*].metadata.name}"]'))
        with self.log.open("ab") as output:
            self._follower = fork(
                tied_to_us(self._command("logs", "--follow", self._pod)), env=None, stdout=output.fileno()
            )

    def stop(self) -> int:
        assert self._pod is not None, "it is not running"
        watch = self._command("get", "pod", self._pod, "--watch", "--output-watch-events", "--output=json")
        code = None
        with subprocess.Popen([*watch, f"--request-timeout={_SECONDS:g}s"], stdout=subprocess.PIPE) as versions:  # noqa: S603
            assert versions.stdout is not None
            versions.stdout.readline()
            self._scale(0)
            for line in versions.stdout:
                event = json.loads(line)
                if event["type"] == "DELETED":
                    (container,) = event["object"]["status"]["containerStatuses"]
                    code = container["state"].get("terminated", {}).get("exitCode")
                    break
            versions.terminate()
        self._ended()
        assert code is not None, "the pod went without telling how its process ended"
        return int(code)

    def kill(self) -> None:
        assert self._pod is not None, "it is not running"
        self._kubectl("delete", "pod", self._pod, "--grace-period=0", "--force")
        # The one that takes its place has had no time to begin.
        self._scale(0)
        until(self._is_down, "no pod is left, and none comes", _SECONDS)
        self._ended()

    @property
    def is_running(self) -> bool:
        return self._pod is not None

    def _is_down(self) -> bool:
        found = json.loads(self._kubectl("get", "replicasets,pods", _POD, "--output=json"))["items"]
        return all(
            each["kind"] == "ReplicaSet"
            and each["spec"]["replicas"] == 0
            and each["status"].get("observedGeneration") == each["metadata"]["generation"]
            for each in found
        )

    def _install(self) -> None:
        url = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _DATABASE_SECRET}}
        volume = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": _AUDIT}}
        self._apply(url | {"stringData": {"url": self._platform.database_url}})
        size = {"resources": {"requests": {"storage": "64Mi"}}}
        self._apply(volume | {"spec": {"accessModes": ["ReadWriteOnce"], **size}})
        _run(
            *(binaries.clients(_log.info)["helm"], "upgrade", "--install"),
            *(OPERATOR, str(CHART), f"--namespace={OPERATOR}", f"--kubeconfig={self._platform.kubeconfig}"),
            # The kinds and the account may be there for operators on this machine.
            *("--take-ownership", "--force-conflicts", "--values=-"),
            stdin=json.dumps(self._values),
        )
        self._is_installed = True

    def _apply(self, manifest: Mapping[str, Any]) -> None:
        _run(*self._command("apply", "--filename=-"), stdin=json.dumps(manifest))

    def _scale(self, replicas: int) -> None:
        self._kubectl("scale", f"deployment/{OPERATOR}", f"--replicas={replicas}")

    def _told_by_pods(self) -> str:
        """What there is to say of pods that do not come up; some have no log."""
        asked = (("describe", "pods", _POD), ("logs", _POD, "--tail=50"))
        return "".join(
            subprocess.run(self._command(*each), capture_output=True, text=True, timeout=60, check=False).stdout  # noqa: S603
            for each in asked
        )

    def _ended(self) -> None:
        self._pod = None
        if self._follower is not None:
            try:
                self._follower.wait(10)
            except subprocess.TimeoutExpired:
                self._follower.kill()
                self._follower.wait()

    def _command(self, *arguments: str) -> list[str]:
        return [
            *(str(self._platform.kubectl), f"--kubeconfig={self._platform.kubeconfig}", f"--namespace={OPERATOR}"),
            *arguments,
        ]

    def _kubectl(self, *arguments: str) -> str:
        return _run(*self._command(*arguments))


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(  # noqa: S603
        command, input=stdin, capture_output=True, text=True, timeout=2 * _SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
