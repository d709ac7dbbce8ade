"""An operator that cannot work says why and ends; it does not print a traceback."""

import socket
import subprocess

import pytest

from devcluster import Environment
from devcluster.platform import operator_environment
from tests.e2e.operator_process import PREFIX, RUN, environment_of

WORKABLE = {"DATABASE_URL": "postgresql://admin:hunter2hunter2@127.0.0.1:1/postgres"}


def _run(settings: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    return _run_in(environment_of({PREFIX + name: value for name, value in settings.items()}) | more)


def _run_in(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(RUN, env=environment, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, ["TENANT_OPERATOR_DATABASE_URL", "required"]),
        (WORKABLE | {"ROUTE_KIND": "Pigeon"}, ["TENANT_OPERATOR_ROUTE_KIND", "'Ingress' or 'HTTPRoute'"]),
        (WORKABLE | {"TIMEOUTS": '{"lunch": "1h"}'}, ["TENANT_OPERATOR_TIMEOUTS", "unknown activity lunch"]),
        (WORKABLE | {"MAIL_TRANSPORT": "http"}, ["TENANT_OPERATOR_MAIL_API_URL", "TENANT_OPERATOR_MAIL_API_TOKEN"]),
        ({"CONCURRENCY": "many"}, ["TENANT_OPERATOR_DATABASE_URL", "TENANT_OPERATOR_CONCURRENCY"]),
    ],
    ids=["missing", "choice", "activity", "pair", "several"],
)
def test_bad_settings_are_named(settings: dict[str, str], says: list[str]) -> None:
    ended = _run(settings)
    assert ended.returncode == 2
    for phrase in says:
        assert phrase in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_no_cluster_to_log_in_to() -> None:
    ended = _run(WORKABLE | {"KUBECONFIG": "/nowhere/kubeconfig"}, KUBECONFIG="/nowhere/kubeconfig")
    assert ended.returncode == 2
    assert "cannot log in to a cluster" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_a_port_that_is_taken(platform: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _run_in(environment_of(operator_environment(platform, health_port=port)))
    assert ended.returncode == 2
    assert f"('127.0.0.1', {port}): address already in use" in ended.stderr
    assert "TENANT_OPERATOR_HEALTH_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr
