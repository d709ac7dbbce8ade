"""Whose an error is: a server's that all share, this saga's own, or nobody's to heal. So long it is tried."""

import json

import psycopg
import pytest
from psycopg import errors

from tenant_operator.adapters.kubernetes import errors as kubernetes
from tenant_operator.adapters.postgres_connections import failure
from tenant_operator.saga.errors import ActivityError, Outage, Rejected, Unavailable

SQLSTATES: dict[str, type[ActivityError]] = {
    "08006": Outage,  # connection failure
    "25006": Outage,  # read-only after a failover
    "28P01": Outage,  # the administrator's password
    "53100": Outage,  # disk full
    "53300": Outage,  # too many connections
    "57P01": Outage,  # shutting down
    "57P02": Outage,  # crashed
    "57P03": Outage,  # starting up
    "40001": Unavailable,  # serialization failure
    "40P01": Unavailable,  # deadlock
    "55006": Unavailable,  # database in use
    "55P03": Unavailable,  # lock timeout
    "57014": Unavailable,  # statement timeout
    "57P04": Unavailable,  # the database was dropped
    "42501": Rejected,  # permission denied
    "42P07": Rejected,  # duplicate table
    "3D000": Rejected,  # no such database
}


@pytest.mark.parametrize("state", SQLSTATES)
def test_what_postgresql_says(state: str) -> None:
    assert type(failure(errors.lookup(state)("says PostgreSQL"))) is SQLSTATES[state]


@pytest.mark.parametrize("error", [psycopg.OperationalError("connection refused"), psycopg.InterfaceError("is closed")])
def test_a_postgresql_that_says_nothing_is_away(error: psycopg.Error) -> None:
    assert type(failure(error)) is Outage


def test_a_value_that_cannot_be_sent_is_not_tried_again() -> None:
    assert type(failure(psycopg.DataError("cannot dump"))) is Rejected


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503, 504])
def test_an_api_server_that_cannot_serve_anybody(status: int) -> None:
    assert type(kubernetes.failure(status, b"", "ConfigMap shop/settings")) is Outage


@pytest.mark.parametrize("status", [409, 410])
def test_an_api_server_that_was_asked_at_a_bad_moment(status: int) -> None:
    assert type(kubernetes.failure(status, b"", "ConfigMap shop/settings")) is Unavailable


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, "forbidden: exceeded quota", Rejected),
        (403, "forbidden: status unknown for quota: tenant", Unavailable),
        (404, "not found", Rejected),
        (422, "invalid", Rejected),
        (500, "failed to create typed patch object: unknown field", Rejected),
        (500, "Internal error occurred: failed calling webhook", Outage),
    ],
)
def test_what_the_api_server_says(status: int, message: str, kind: type[ActivityError]) -> None:
    body = json.dumps({"kind": "Status", "message": message}).encode()
    assert type(kubernetes.failure(status, body, "ConfigMap shop/settings")) is kind
