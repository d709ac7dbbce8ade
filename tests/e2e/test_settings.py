"""An operator that cannot work says why and ends; it does not print a traceback."""

import socket
import subprocess

import pytest
from psycopg.conninfo import make_conninfo

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
        (
            WORKABLE | {"EGRESS_DATABASE": '[{"to":[{"ipBlock":{"cidr":"x"}}],"ports":[{"port":1}]}]'},
            ["TENANT_OPERATOR_EGRESS_DATABASE", "'x' is no network"],
        ),
        (WORKABLE | {"EGRESS_DNS": '[{"to":[],"ports":[]}]'}, ["TENANT_OPERATOR_EGRESS_DNS", "at least one peer"]),
        (WORKABLE | {"EGRESS_CLOSED": '["10.0.0.0/99"]'}, ["TENANT_OPERATOR_EGRESS_CLOSED", "'10.0.0.0/99'"]),
        ({"CONCURRENCY": "many"}, ["TENANT_OPERATOR_DATABASE_URL", "TENANT_OPERATOR_CONCURRENCY"]),
    ],
    ids=["missing", "choice", "activity", "pair", "egress", "dns", "closed", "several"],
)
def test_bad_settings_are_named(settings: dict[str, str], says: list[str]) -> None:
    ended = _run(settings)
    assert ended.returncode == 2
    for phrase in says:
        assert phrase in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_a_database_that_no_policy_could_let_tenants_out_to(platform: Environment) -> None:
    named = make_conninfo(platform.database_url, host="db.cloud.example")
    environment = operator_environment(platform, health_port=0) | {f"{PREFIX}DATABASE_URL": named}
    ended = _run_in(environment_of(environment))
    assert ended.returncode == 2
    assert "the database is at db.cloud.example, a name whose addresses may change" in ended.stderr
    assert "TENANT_OPERATOR_EGRESS_DATABASE" in ended.stderr
    assert "Traceback" not in ended.stderr


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
