"""The development cluster behaves like a real one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import select
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devcluster import AlreadyRunningError, DevCluster, Environment, binaries
from devcluster.mailbox import read_mails
from tests.contract.helm_cluster import until

NAMESPACE = "behaviours"
BEHAVIOURS = ("good", "never-ready", "crash-loop", "image-pull", "slow", "unschedulable")


class Cluster:
    """A running cluster and kubectl for it."""

    def __init__(self, devcluster: DevCluster, environment: Environment) -> None:
        self.devcluster = devcluster
        self.environment = environment

    def kubectl(
        self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator or with another kubeconfig; the caller judges failures."""
        config = kubeconfig or self.environment.kubeconfig
        return subprocess.run(  # noqa: S603
            [str(self.environment.kubectl), f"--kubeconfig={config}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def wait(self, *arguments: str) -> None:
        """Wait for a condition in the namespace of these tests, and fail if it does not come true."""
        result = self.kubectl("-n", NAMESPACE, "wait", "--timeout=60s", *arguments)
        assert result.returncode == 0, result.stderr

    def pod(self, behaviour: str) -> dict[str, Any]:
        """The only pod of the Deployment that plays ``behaviour``."""
        result = self.kubectl("-n", NAMESPACE, "get", "pods", f"--selector=app={behaviour}", "-o", "json")
        pods = json.loads(result.stdout)["items"]
        assert len(pods) == 1
        pod: dict[str, Any] = pods[0]
        return pod


def deployment(behaviour: str) -> dict[str, Any]:
    """A Deployment of one pod that plays ``behaviour``."""
    container: dict[str, Any] = {"name": "main", "image": f"registry.example/{behaviour}:1"}
    if behaviour == "unschedulable":
        container["resources"] = {"requests": {"cpu": "1000000"}}
    labels = {"app": behaviour}
    template = {
        "metadata": {"labels": labels, "annotations": {"devcluster/behaviour": behaviour}},
        "spec": {"containers": [container]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": behaviour, "namespace": NAMESPACE},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    devcluster = DevCluster(tmp_path_factory.mktemp("devcluster"))
    with devcluster as environment:
        running = Cluster(devcluster, environment)
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            *map(deployment, BEHAVIOURS),
        ]
        created = running.kubectl("create", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))
        assert created.returncode == 0, created.stderr
        yield running


def waiting(pod: dict[str, Any]) -> dict[str, Any]:
    """Why the container of ``pod`` waits."""
    reason: dict[str, Any] = pod["status"]["containerStatuses"][0]["state"]["waiting"]
    return reason


def test_a_good_deployment_becomes_available_at_once_and_a_slow_one_later(cluster: Cluster) -> None:
    for behaviour in ("good", "slow"):
        cluster.wait("--for=condition=Available", f"deployment/{behaviour}")
    assert cluster.pod("good")["status"]["phase"] == "Running"
    slow = cluster.pod("slow")
    began, made = (
        datetime.fromisoformat(each) for each in (slow["status"]["startTime"], slow["metadata"]["creationTimestamp"])
    )
    assert began - made >= timedelta(seconds=4)  # five, told in whole seconds


def test_a_pod_that_is_never_ready_runs(cluster: Cluster) -> None:
    cluster.wait("--for=jsonpath={.status.phase}=Running", "pod", "--selector=app=never-ready")
    conditions = {item["type"]: item["status"] for item in cluster.pod("never-ready")["status"]["conditions"]}
    assert conditions["Ready"] == "False"


def test_a_crash_loop_shows_its_reason_and_its_restarts(cluster: Cluster) -> None:
    cluster.wait("--for=jsonpath={.status.phase}=Running", "pod", "--selector=app=crash-loop")
    pod = cluster.pod("crash-loop")
    assert waiting(pod)["reason"] == "CrashLoopBackOff"
    assert pod["status"]["containerStatuses"][0]["restartCount"] > 0


def test_an_image_that_cannot_be_pulled_is_named(cluster: Cluster) -> None:
    reason = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff"
    cluster.wait(reason, "pod", "--selector=app=image-pull")
    assert "registry.example/image-pull:1" in waiting(cluster.pod("image-pull"))["message"]


def test_an_impossible_request_is_unschedulable(cluster: Cluster) -> None:
    cluster.wait("--for=condition=PodScheduled=False", "pod", "--selector=app=unschedulable")
    conditions = {item["type"]: item for item in cluster.pod("unschedulable")["status"]["conditions"]}
    assert conditions["PodScheduled"]["reason"] == "Unschedulable"


def test_a_job_completes(cluster: Cluster) -> None:
    cluster.kubectl("-n", NAMESPACE, "create", "job", "work", "--image=registry.example/job:1")
    cluster.wait("--for=condition=Complete", "job/work")


def test_users_are_authenticated_and_have_no_rights_but_those_given(cluster: Cluster) -> None:
    alice = cluster.devcluster.add_user("alice", ["developers"])
    whoami = json.loads(cluster.kubectl("auth", "whoami", "-o", "json", kubeconfig=alice).stdout)
    assert whoami["status"]["userInfo"]["username"] == "alice"
    assert "developers" in whoami["status"]["userInfo"]["groups"]
    assert "Forbidden" in cluster.kubectl("get", "pods", kubeconfig=alice).stderr
    cluster.kubectl("create", "clusterrolebinding", "alice", "--clusterrole=view", "--group=developers")
    # The authorizer hears of it by a watch.
    until(lambda: cluster.kubectl("get", "pods", kubeconfig=alice).returncode == 0, "alice may look at pods")


def test_service_account_tokens_are_accepted(cluster: Cluster, tmp_path: Path) -> None:
    token = cluster.kubectl("-n", NAMESPACE, "create", "token", "default").stdout.strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json").stdout)
    config["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    whoami = json.loads(cluster.kubectl("auth", "whoami", "-o", "json", kubeconfig=kubeconfig).stdout)
    assert whoami["status"]["userInfo"]["username"] == f"system:serviceaccount:{NAMESPACE}:default"


def test_pod_security_is_enforced(cluster: Cluster) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(namespace))
    cluster.kubectl("-n", "strict", "wait", "--for=create", "serviceaccount/default", "--timeout=10s")
    refused = cluster.kubectl("-n", "strict", "run", "root", "--image=registry.example/root:1")
    assert "violates PodSecurity" in refused.stderr


def test_the_gateway_api_is_installed(cluster: Cluster) -> None:
    crd = "crd/httproutes.gateway.networking.k8s.io"
    assert cluster.kubectl("wait", "--for=condition=Established", "--timeout=10s", crd).returncode == 0


def test_postgresql_wants_the_password(cluster: Cluster) -> None:
    url = cluster.environment.database_url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE probe")
    parameters = psycopg.conninfo.conninfo_to_dict(url)
    parameters["password"] = "wrong"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**parameters)  # type: ignore[arg-type]


def test_mail_can_be_read_back_in_order(cluster: Cluster) -> None:
    environment = cluster.environment
    with smtplib.SMTP(environment.smtp_host, environment.smtp_port) as client:
        for subject in ("first", "Zweite – mit Umlaut: ä"):
            mail = EmailMessage()
            mail["From"], mail["To"], mail["Subject"] = "a@example.com", "b@example.com", subject
            mail.set_content("hello")
            client.send_message(mail)
    received = read_mails(environment.mail_folder)
    assert [mail["Subject"] for mail in received] == ["first", "Zweite – mit Umlaut: ä"]
    assert received[0]["X-Envelope-To"] == "b@example.com"


def test_a_state_folder_has_one_cluster(cluster: Cluster) -> None:
    state = cluster.environment.state
    with pytest.raises(AlreadyRunningError):
        DevCluster(state).start()
    assert Environment.load(state) == cluster.environment


def open_files(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            yield str(link.readlink())


def test_everything_listens_on_loopback_only(cluster: Cluster) -> None:
    pids = json.loads((cluster.environment.state / "pids.json").read_text())
    files = [file for pid in pids.values() for file in open_files(pid)]
    sockets = {file[len("socket:[") : -1] for file in files if file.startswith("socket:[")}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in sockets:
                listening.append(local.split(":")[0])
    assert len(listening) >= 9
    assert set(listening) == {"0100007F"}


def output_of(*command: str, stdin: str = "") -> str:
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    return result.stdout


def test_helm_is_the_release_that_the_go_module_requires() -> None:
    required = (Path(binaries.__file__).parent / "clients" / "go.mod").read_text()
    version = output_of(binaries.clients(print)["helm"], "version", "--template={{.Version}}")
    assert version in required.split()


def test_kstatus_judges_an_object() -> None:
    objects = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}]
    (verdict,) = json.loads(output_of(binaries.clients(print)["kstatus"], stdin=json.dumps(objects)))
    assert verdict["status"] == "Current"


def test_helm_and_kstatus_come_without_the_control_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "tenant-operator" / "devcluster"
    there = Path(binaries.clients(print)["helm"]).parent
    cache.mkdir(parents=True)
    (cache / there.name).symlink_to(there)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert binaries.clients(print)["helm"] == str(cache / there.name / "helm")
    assert [each.name for each in cache.iterdir()] == [there.name]


PARENT = """
import sys, threading
from pathlib import Path
from devcluster.children import Children

children = Children(Path(sys.argv[1]))
thread = threading.Thread(target=children.spawn, args=("sleeper", ["sleep", "600"]))
thread.start()
thread.join()
print(children.pids()["sleeper"], flush=True)
sys.stdin.read()
children.check()
children.stop()
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_child_does_not_outlive_its_parent(tmp_path: Path, end: str) -> None:
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        if end == "kill":
            parent.kill()
        else:
            parent.communicate("")
            # Ended by itself: the child had survived the thread that started it.
            assert parent.returncode == 0
    try:
        ready, _, _ = select.select([child], [], [], 10)
        assert ready, "the child is still running"
    finally:
        os.close(child)
