"""Where the cluster of the end-to-end tests comes from: the user, kind, or this machine's own control plane."""

import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devcluster import DevCluster, Environment, ports, postgres
from devcluster.children import Children
from devcluster.platform import ROOT

KUBECONFIG = "TENANT_OPERATOR_TEST_KUBECONFIG"
ANY_CLUSTER = "TENANT_OPERATOR_TEST_ANY_CLUSTER"
KIND = "TENANT_OPERATOR_TEST_KIND"
IMAGE = "TENANT_OPERATOR_TEST_IMAGE"

_DISPOSABLE = re.compile(r"kind-.+|k3d-.+|minikube|devcluster")
_HOST = "127.0.0.1"


class NotDisposable(Exception):
    """The tests create and delete namespaces: a cluster that may be somebody's is refused."""


def is_kind() -> bool:
    """Whether the tests run in a kind cluster of their own."""
    return not os.environ.get(KUBECONFIG) and os.environ.get(KIND) == "1"


def image() -> str:
    """The operator's image, with its tag, that Docker has and kind gets."""
    return os.environ.get(IMAGE, "")


@contextmanager
def cluster(folder: Path, request: pytest.FixtureRequest) -> Iterator[Environment]:
    """The cluster of this test run, with a PostgreSQL and a mail receiver: the user's, or kind's, or our own."""
    if given := os.environ.get(KUBECONFIG):
        kubectl = _kubectl()
        refuse_precious(current_context(kubectl, Path(given)), os.environ)
        with beside(folder, Path(given), kubectl) as environment:
            yield environment
    elif is_kind():
        if problem := what_kind_lacks():
            pytest.exit(problem, returncode=1)
        kind: Any = request.getfixturevalue("kind_cluster")
        kind.load_docker_image(image())
        with beside(folder, Path(kind.kubeconfig_path), _kubectl(), _docker_host()) as environment:
            yield environment
    else:
        with DevCluster(folder) as environment:
            yield environment


def refuse_precious(context: str, environ: Mapping[str, str]) -> None:
    """Raises NotDisposable unless the context is one of a throw-away cluster, or the user takes any."""
    if not _DISPOSABLE.fullmatch(context) and environ.get(ANY_CLUSTER) != "1":
        raise NotDisposable(
            f"the context {context!r} of {KUBECONFIG} is not one of kind, k3d, minikube or devcluster; "
            f"set {ANY_CLUSTER}=1 if the tests may create and delete namespaces there"
        )


def current_context(kubectl: Path, kubeconfig: Path) -> str:
    """The context that kubectl would use."""
    command = [str(kubectl), f"--kubeconfig={kubeconfig}", "config", "current-context"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()  # noqa: S603


def _kubectl() -> Path:
    found = shutil.which("kubectl")
    if found is None:
        raise pytest.UsageError("kubectl is not on the PATH; a cluster of your own needs it")
    return Path(found)


def what_kind_lacks() -> str | None:
    """What keeps the tests from running in kind, in one line; None if nothing does."""
    if missing := [program for program in ("docker", "kind", "kubectl") if shutil.which(program) is None]:
        return f"tests in kind need {', '.join(missing)} on the PATH"
    if not image():
        return f"tests in kind need the operator's image: {IMAGE}=<repository>:<tag>"
    engine = subprocess.run(["docker", "image", "inspect", image()], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return f"docker image inspect {image()}: {engine.stderr.strip()}" if engine.returncode else None


def _docker_host() -> str:
    """This machine, as the pods of a kind cluster reach it."""
    form = "--format={{range .IPAM.Config}}{{.Gateway}} {{end}}"
    command = ["docker", "network", "inspect", "kind", form]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
    return next(each for each in told.split() if ipaddress.ip_address(each).version == 4)


@contextmanager
def beside(folder: Path, kubeconfig: Path, kubectl: Path, host: str = _HOST) -> Iterator[Environment]:
    """A foreign cluster, and beside it, on this machine, the database and the mail receiver that the operator uses;
    `host` is the address of this machine at which they listen."""
    logs, mails = folder / "logs", folder / "mails"
    for each in (logs, mails):
        each.mkdir(parents=True)
    children = Children(logs)
    database_port, smtp_port = ports.choose(2)
    ours = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "operator"), str(ROOT)))}
    try:
        database = postgres.start(children, folder, database_port)
        if host != _HOST:
            forward = [sys.executable, "-m", "tests.e2e.forward", host, str(database_port)]
            children.spawn("forward", forward, ours)
            children.wait_until(lambda: _listens(host, database_port), "PostgreSQL for pods")
        mailbox = [sys.executable, "-m", "devcluster.mailbox", str(mails), host, str(smtp_port)]
        children.spawn("mailbox", mailbox, ours)
        children.wait_until(lambda: _greets(host, smtp_port), "the SMTP receiver")
        yield Environment(
            state=folder,
            kubeconfig=kubeconfig.absolute(),
            database_url=database.url.replace(_HOST, host),
            smtp_host=host,
            smtp_port=smtp_port,
            mail_folder=mails,
            kubectl=kubectl,
        )
    finally:
        children.stop()


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _greets(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            return connection.recv(3) == b"220"
    except OSError:
        return False
