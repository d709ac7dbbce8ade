"""A cluster with Helm, and a namespace in which the chart can be installed."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devcluster import DevCluster, Environment, binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tenant-operator"
SAMPLES = ROOT / "manifests" / "samples"
NAMESPACE = "operators"
RELEASE = "tenant-operator"
KINDS = tuple(f"{plural}.intelliauth.io" for plural in ("organizations", "plans", "tenants"))
QUIET = ("--set=replicas=0", "--set=webhook.enabled=false")
"""An installation in which nobody has to answer for Tenants to be written."""
LEAVING = (
    "--output=jsonpath={range .items[?(@.metadata.deletionTimestamp)]}"
    "{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.finalizers} {.status}{'\\n'}{end}"
)
"""What is asked to go and is still there, and why."""

_SIGHT_SECONDS = 3.0

Manifest = dict[str, Any]


def until(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Ask again and again until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not after {seconds:g} s: {what}"
        time.sleep(0.05)


class Cluster:
    """A cluster with a namespace for the operator, and Helm."""

    def __init__(self, devcluster: DevCluster, environment: Environment) -> None:
        self.devcluster = devcluster
        self.environment = environment
        self._helm = binaries.clients(print)["helm"]

    def run(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command with the administrator's kubeconfig; the caller judges failures. One that does not come to an
        end fails with what is on its way out, which is what such commands wait for."""
        try:
            return self._run(*command, stdin=stdin)
        except subprocess.TimeoutExpired as error:
            going = self._run(str(self.environment.kubectl), "get", "namespaces,crds,pods", "--all-namespaces", LEAVING)
            raise AssertionError(f"{error}\n{error.stdout!r}\n{error.stderr!r}\n{going.stdout}") from None

    def _run(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            command,
            input=stdin,
            env={**os.environ, "KUBECONFIG": str(self.environment.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        result = self.run(str(self.environment.kubectl), *arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def read(self, *arguments: str) -> Manifest:
        manifest: Manifest = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return manifest

    def names(self, *arguments: str) -> set[str]:
        return {each["metadata"]["name"] for each in self.read(*arguments)["items"]}

    def try_helm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(self._helm, f"--namespace={NAMESPACE}", *arguments)

    def helm(self, *arguments: str) -> str:
        result = self.try_helm(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def create_namespace(self) -> None:
        """With all that an installation finds: the strictest Pod Security, and the Secret with the database's URL."""
        enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforced}}
        self.kubectl("apply", "--filename=-", stdin=json.dumps(namespace))
        url = f"--from-literal=url={self.environment.database_url}"
        self.kubectl("create", "secret", "generic", "tenant-operator-database", url, f"--namespace={NAMESPACE}")

    def write_operator_kubeconfig(self, file: Path) -> None:
        config = json.loads(self.kubectl("config", "view", "--minify", "--flatten", "--output=json"))
        token = self.kubectl("create", "token", "tenant-operator", f"--namespace={NAMESPACE}").strip()
        config["users"][0]["user"] = {"token": token}
        file.write_text(json.dumps(config))

    def clear(self) -> None:
        """Remove what an installation leaves."""
        for release in json.loads(self.helm("list", "--output=json")):
            self.helm("uninstall", release["name"])
        tests = ("sa,role,rolebinding,configmap,pod", "--selector=app.kubernetes.io/component=test")
        self.kubectl("delete", *tests, f"--namespace={NAMESPACE}", "--grace-period=0")
        for plural in KINDS:
            self.run(str(self.environment.kubectl), "delete", "--all", "--all-namespaces", plural)
        self.kubectl("delete", "crd", *KINDS, "--ignore-not-found", "--wait=false")
        begun = time.monotonic()

        def are_gone() -> bool:
            left = set(KINDS) & self.names("crd")
            # The API server can lose sight of a CRD whose storage was still being made when it was to go, and looks
            # again after five minutes; any write of it makes it look at once.
            if left and time.monotonic() - begun > _SIGHT_SECONDS:
                wake = (f"test={time.monotonic()}", "--overwrite")
                self.run(str(self.environment.kubectl), "annotate", "crd", *left, *wake)
            return not left

        until(are_gone, "the kinds are gone", 60.0)


def placed(manifest: Manifest, name: str, namespace: str, **changes: Any) -> Manifest:
    metadata = {"name": name, "namespace": namespace, **changes.pop("metadata", {})}
    return {**manifest, "metadata": metadata, **changes}
