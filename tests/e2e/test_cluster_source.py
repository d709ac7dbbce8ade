"""These tests create and delete namespaces: they must not do it in a cluster that matters."""

import smtplib
from pathlib import Path

import psycopg
import pytest

from devcluster import Environment
from tests.e2e import cluster_source
from tests.e2e.cluster_source import ANY_CLUSTER, NotDisposable, current_context, refuse_precious


@pytest.mark.parametrize("context", ["kind-e2e", "k3d-tests", "minikube", "devcluster"])
def test_throw_away_clusters_are_taken(context: str) -> None:
    refuse_precious(context, {})


@pytest.mark.parametrize("context", ["production", "arn:aws:eks:eu-1:1:cluster/kind-of-important", "my-minikube", ""])
def test_clusters_that_may_matter_are_refused(context: str) -> None:
    with pytest.raises(NotDisposable, match=ANY_CLUSTER):
        refuse_precious(context, {})
    refuse_precious(context, {ANY_CLUSTER: "1"})


def test_context_of_a_kubeconfig(platform: Environment, tmp_path: Path) -> None:
    """What decides is the context that kubectl would use."""
    theirs = tmp_path / "kubeconfig"
    theirs.write_text('{"apiVersion": "v1", "kind": "Config", "current-context": "production"}')
    assert current_context(platform.kubectl, theirs) == "production"


def test_pods_reach_what_is_beside_their_cluster(tmp_path: Path) -> None:
    """At an address of this machine that is not its loopback to them, with the same login."""
    address = "127.0.0.2"
    with cluster_source.beside(tmp_path / "beside", tmp_path, tmp_path, address) as environment:
        assert f"@{address}:" in environment.database_url
        with psycopg.connect(environment.database_url) as connection:
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
                True,
            )
        with smtplib.SMTP(address, environment.smtp_port, timeout=5) as mail:
            assert mail.noop()[0] == 250


@pytest.mark.parametrize(
    ("variables", "is_kind"),
    [
        ({}, False),
        ({cluster_source.KIND: "1"}, True),
        ({cluster_source.KIND: "0"}, False),
        ({cluster_source.KIND: "1", cluster_source.KUBECONFIG: "theirs"}, False),
    ],
    ids=["nothing", "kind", "no kind", "a cluster of the user's comes first"],
)
def test_kind_is_taken_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_kind: bool
) -> None:
    for name in (cluster_source.KIND, cluster_source.KUBECONFIG):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cluster_source.is_kind() is is_kind


def test_what_kind_lacks_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offer(name: str, script: str = "") -> None:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(cluster_source.IMAGE, raising=False)
    assert cluster_source.what_kind_lacks() == "tests in kind need docker, kind, kubectl on the PATH"

    for name in ("kind", "kubectl"):
        offer(name)
    offer("docker", 'echo "Cannot connect to the Docker daemon" >&2; exit 1')
    assert cluster_source.IMAGE in (cluster_source.what_kind_lacks() or "")

    monkeypatch.setenv(cluster_source.IMAGE, "tenant-operator:test")
    told = "docker image inspect tenant-operator:test: Cannot connect to the Docker daemon"
    assert cluster_source.what_kind_lacks() == told

    offer("docker")
    assert cluster_source.what_kind_lacks() is None
