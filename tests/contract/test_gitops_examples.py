"""A real API server takes the examples for GitOps, and what Argo CD's actions change; the chart takes their values."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import Environment, binaries
from tests.unit.packaging.argocd import ACTIONS, ARGOCD, documents
from tests.unit.packaging.lua import Sandbox

ROOT = ARGOCD.parents[1]
EXAMPLE = ARGOCD / "example"
FLUX = ROOT / "manifests" / "flux"
IN_ORDER = ("organizations", "plans", "tenants")

Object = dict[str, Any]


def kubectl(cluster: Environment, *arguments: str, stdin: str = "") -> str:
    command = [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert result.returncode == 0, result.stderr
    return result.stdout


def apply(cluster: Environment, path: Path) -> str:
    """As Argo CD and Flux do."""
    return kubectl(
        cluster, "apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", f"-f={path}"
    )


@pytest.fixture(scope="module")
def cluster(devcluster: Environment) -> Environment:
    """The cluster once the example has come to it in the order of its sync waves."""
    for folder in IN_ORDER:
        apply(devcluster, EXAMPLE / folder)
    return devcluster


def tenant(cluster: Environment, name: str = "banking") -> Object:
    found: Object = json.loads(kubectl(cluster, "get", "tenant", name, "--namespace=cymmetri", "--output=json"))
    return found


def stored(cluster: Environment, path: Path) -> dict[str, str]:
    """The versions of what a folder is about, as they are in the cluster."""
    (listed,) = yaml.safe_load_all(kubectl(cluster, "get", "--output=json", f"--filename={path}"))
    return {
        f"{each['kind']} {each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in listed["items"]
    }


@pytest.mark.parametrize("folder", IN_ORDER)
def test_what_is_applied_again_stays_as_it_is(cluster: Environment, folder: str) -> None:
    apply(
        cluster, EXAMPLE / folder
    )  # writes down, once, the status that stands in for one until the operator writes it
    before = stored(cluster, EXAMPLE / folder)

    apply(cluster, EXAMPLE / folder)

    assert stored(cluster, EXAMPLE / folder) == before


@pytest.mark.parametrize("action", ACTIONS)
def test_the_api_server_takes_what_an_action_changes(cluster: Environment, action: str) -> None:
    before = tenant(cluster)
    after = Sandbox(ACTIONS[action]).action(before)
    assert after["status"] == before["status"]
    # Argo CD sends the difference; a merge patch of all that is not the status comes to the same.
    patch = {"metadata": {"annotations": after["metadata"].get("annotations", {})}, "spec": after["spec"]}

    said = kubectl(
        cluster,
        *("patch", "tenant", "banking", "--namespace=cymmetri", "--type=merge", "--dry-run=server", "--output=json"),
        f"--patch={json.dumps(patch)}",
    )

    stored = json.loads(said)
    assert stored["spec"] == after["spec"]
    assert stored["metadata"].get("annotations") == after["metadata"].get("annotations")


def test_self_heal_leaves_alone_what_git_does_not_say(cluster: Environment) -> None:
    changes = {"metadata": {"annotations": {"intelliauth.io/action": "cancel"}}, "spec": {"desiredState": "Suspended"}}
    for name in ("banking", "staging"):
        merge = ("--type=merge", f"--patch={json.dumps(changes)}", "--field-manager=argocd-server")
        kubectl(cluster, "patch", "tenant", name, "--namespace=cymmetri", *merge)

    apply(cluster, EXAMPLE / "tenants")

    banking, staging = tenant(cluster), tenant(cluster, "staging")
    assert banking["spec"]["desiredState"] == "Suspended"  # Git leaves it out
    assert staging["spec"]["desiredState"] == "Active"  # Git says so
    for each in (banking, staging):
        assert each["metadata"]["annotations"]["intelliauth.io/action"] == "cancel"


@pytest.mark.parametrize("name", ["argocd-cm", "argocd-rbac-cm"])
def test_the_config_maps_of_argo_cd_keep_what_others_have_put_there(cluster: Environment, name: str) -> None:
    theirs = {"policy.csv": "g, somebody, role:admin"}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": {"app.kubernetes.io/part-of": "argocd"}},
        "data": theirs,
    }
    kubectl(cluster, "apply", "-f", "-", stdin=json.dumps(config_map))
    (ours,) = documents(ARGOCD / f"{name}.yaml")
    ours["metadata"]["namespace"] = "default"

    # As the files say; a server-side apply would take over what a client-side one has put there, and remove it.
    kubectl(cluster, "patch", "configmap", name, "--type=merge", f"--patch={json.dumps(ours)}")

    found = json.loads(kubectl(cluster, "get", "configmap", name, "--output=json"))
    assert found["data"] == {**theirs, **ours["data"]}


def chart_values() -> list[Object]:
    argocd = next(each for each in documents(ARGOCD / "operator.yaml") if each["kind"] == "Application")
    flux = next(each for each in documents(FLUX / "operator.yaml") if each["kind"] == "HelmRelease")
    # Flux talks to the cluster, as `helm install` does; to render alone, these two have to come from elsewhere.
    elsewhere = {"webhook": {"certificate": {"source": "cert-manager"}, "token": "x" * 24}}
    return [argocd["spec"]["source"]["helm"]["valuesObject"], {**flux["spec"]["values"], **elsewhere}]


@pytest.mark.parametrize("values", chart_values(), ids=["argocd", "flux"])
def test_the_chart_takes_the_values(values: Object, tmp_path: Path) -> None:
    helm = binaries.clients(print)["helm"]
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    command = [helm, "template", "tenant-operator", str(ROOT / "charts" / "tenant-operator"), f"--values={path}"]

    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603

    assert rendered.returncode == 0, rendered.stderr
    kinds = {each["kind"] for each in yaml.safe_load_all(rendered.stdout) if each}
    assert {"CustomResourceDefinition", "Deployment", "Certificate"} <= kinds
