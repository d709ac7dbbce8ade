"""Where pods run, the operator under test is the image under the chart."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster, Environment
from devcluster import platform as installed
from devcluster.platform import OPERATOR
from tests.e2e import catalog, cluster_source, operator_pod
from tests.e2e.gated_operator import GATE
from tests.e2e.operator_pod import OperatorPod, chart_values
from tests.e2e.operator_process import RUN, OperatorProcess
from tests.e2e.waiting import until
from tests.e2e.webhook import refusal

IMAGE = "registry.example:5000/tenant-operator:test"
_POD = ("pods", f"--namespace={OPERATOR}", "--selector=app.kubernetes.io/component=operator")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """A control plane of its own, whose pods are played: the chart takes over what others have installed."""
    if cluster_source.is_kind() or os.environ.get(cluster_source.KUBECONFIG):
        pytest.skip("the tests were given another cluster")
    with DevCluster(tmp_path_factory.mktemp("played")) as environment:
        installed.install(environment)
        volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"}}
        manifest = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "audit"}, "spec": volume}
        installed.kubectl(environment, "apply", "--filename=-", stdin=json.dumps(manifest))
        yield environment


def _pods(here: Environment) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(installed.kubectl(here, "get", *_POD, "--output=json"))["items"]
    return items


def _play_the_end(here: Environment, code: int) -> None:
    """Say of the pod's process what a kubelet says when it has ended."""
    (pod,) = _pods(here)
    (container,) = pod["status"]["containerStatuses"]
    container |= {"ready": False, "state": {"terminated": {"exitCode": code, "reason": "Completed"}}}
    patch = json.dumps({"status": {"containerStatuses": [container]}})
    where = (f"--namespace={OPERATOR}", "--subresource=status", "--type=merge", f"--patch={patch}")
    installed.kubectl(here, "patch", "pod", pod["metadata"]["name"], *where)


def test_the_chart_gets_the_settings_as_what_they_are(here: Environment) -> None:
    settings = {"STALLED_RETRY": "1s", "CONCURRENCY": "4", "TIMEOUTS": '{"wait-ready": "5m"}'}
    values = chart_values(here, settings, IMAGE, "/audit/feed.jsonl", webhooks=False)

    assert values["image"] | {"pullPolicy": ""} == {
        "repository": "registry.example:5000/tenant-operator",
        "tag": "test",
        "pullPolicy": "",
    }
    assert values["settings"] == {
        "baseDomain": "tenants.example",
        "smtpHost": here.smtp_host,
        "smtpPort": here.smtp_port,
        "smtpTls": "none",
        "auditLog": "/audit/feed.jsonl",
        "stalledRetry": "1s",
        "concurrency": 4,
        "timeouts": {"wait-ready": "5m"},
    }
    assert here.database_url not in json.dumps(values)


def test_the_pod_is_started_stopped_killed_and_started_again(here: Environment, tmp_path: Path) -> None:
    pod = OperatorPod(here, tmp_path, {"STALLED_RETRY": "1s"}, IMAGE)
    pod.start()
    (first,) = _pods(here)
    environment = {each["name"]: each.get("value") for each in first["spec"]["containers"][0]["env"]}
    assert environment["TENANT_OPERATOR_STALLED_RETRY"] == "1s"
    assert environment["TENANT_OPERATOR_SMTP_PORT"] == str(here.smtp_port)
    assert first["spec"]["serviceAccountName"] == OPERATOR
    assert pod.is_running

    _play_the_end(here, code=3)
    assert pod.stop() == 3
    assert not pod.is_running
    assert _pods(here) == []

    pod.start()
    pod.kill()
    assert not pod.is_running
    assert _pods(here) == []

    changed = OperatorPod(here, tmp_path, {"STALLED_RETRY": "2s"}, IMAGE)
    changed.start()
    (last,) = _pods(here)
    assert {"name": "TENANT_OPERATOR_STALLED_RETRY", "value": "2s"} in last["spec"]["containers"][0]["env"]
    changed.kill()


def test_the_audit_feed_is_read_from_the_node(
    here: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = OperatorPod(here, tmp_path, {}, IMAGE)
    pod.start()
    pod.kill()
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    node = json.loads(installed.kubectl(here, "get", "nodes", "--output=json"))["items"][0]["metadata"]["name"]
    assert pod.audit.read_text().startswith(f"exec {node} sh -c ! test -e /nowhere/{tmp_path.name}-")


def test_a_pod_that_told_nothing_is_no_clean_end(here: Environment, tmp_path: Path) -> None:
    pod = OperatorPod(here, tmp_path, {}, IMAGE)
    pod.start()
    with pytest.raises(AssertionError, match="without telling"):
        pod.stop()


@pytest.mark.parametrize(
    ("settings", "command", "is_pod"),
    [
        ({"STALLED_RETRY": "1s"}, RUN, True),
        ({"SMTP_PORT": "1"}, RUN, False),
        ({}, ("env", f"{GATE}=gate", "operator"), False),
    ],
    ids=["default", "a wire of the tests", "another command"],
)
def test_only_an_operator_that_is_as_shipped_runs_in_a_pod(
    here: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    command: tuple[str, ...],
    is_pod: bool,
) -> None:
    assert isinstance(operator_pod.operator(here, tmp_path, settings, command), OperatorProcess)
    monkeypatch.delenv(cluster_source.KUBECONFIG, raising=False)
    monkeypatch.setenv(cluster_source.KIND, "1")
    monkeypatch.setenv(cluster_source.IMAGE, IMAGE)

    found = operator_pod.operator(here, tmp_path, settings, command)
    assert isinstance(found, OperatorPod if is_pod else OperatorProcess)


@pytest.mark.skipif(not cluster_source.is_kind(), reason="the API server reaches the Services of pods that run only")
def test_the_api_server_asks_the_pod(platform: Environment, tmp_path: Path) -> None:
    """With the chart's own certificate, at the chart's own Service."""
    pod = OperatorPod(platform, tmp_path, {}, cluster_source.image(), webhooks=True)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": catalog.NAMESPACE}}
    installed.kubectl(platform, "apply", "--filename=-", stdin=json.dumps(namespace))
    pod.start()
    try:
        until(lambda: "denied the request" in refusal(platform), "the webhook refuses", tell=lambda: refusal(platform))
        assert pod.stop() == 0
        assert pod.stumbles() == []
    finally:
        installed.remove_webhook(platform)
        if pod.is_running:
            pod.kill()
