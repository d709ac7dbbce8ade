"""One real cluster for all contract tests of a session."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devcluster import DevCluster, Environment
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tests.contract.helm_cluster import Cluster

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def devcluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """A running cluster that knows the product's kinds."""
    with DevCluster(tmp_path_factory.mktemp("devcluster")) as environment:
        _kubectl(environment, "apply", "--server-side", f"--filename={CRDS}")
        _kubectl(environment, "wait", "--for=condition=Established", f"--filename={CRDS}", "--timeout=30s")
        yield environment


@pytest.fixture(scope="module")
def running_helm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    devcluster = DevCluster(tmp_path_factory.mktemp("devcluster"))
    with devcluster as environment:
        cluster = Cluster(devcluster, environment)
        cluster.create_namespace()
        yield cluster


@pytest.fixture
def helm_cluster(running_helm_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster of the module's own without the product's kinds, with Helm; what a test installs is gone after it."""
    yield running_helm_cluster
    running_helm_cluster.clear()


@pytest.fixture
async def client(devcluster: Environment) -> AsyncIterator[KubernetesClient]:
    """The administrator's connection to the cluster."""
    async with await KubernetesClient.connect(Connection(devcluster.kubeconfig)) as connected:
        yield connected


def _kubectl(environment: Environment, *arguments: str) -> None:
    command = [str(environment.kubectl), f"--kubeconfig={environment.kubeconfig}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert result.returncode == 0, result.stderr
