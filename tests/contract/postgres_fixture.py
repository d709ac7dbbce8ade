"""A PostgreSQL for the tests: the one that TEST_POSTGRES_DSN names, or one of their own."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from devcluster import ports, postgres
from devcluster.children import Children

OLDEST = Path("/usr/lib/postgresql/15/bin")
"""Where Debian has the oldest PostgreSQL that the product works with; PyPI has none that is so old."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL: the connection string of its superuser, and what it has logged (None if out of reach)."""

    dsn: str
    log: Path | None


@contextmanager
def server(programs: Path | None = None, **settings: str) -> Iterator[Server]:
    """A server of our own, with settings beside those of the development cluster."""
    with tempfile.TemporaryDirectory(prefix="tenant-operator-postgres-") as folder:
        state = Path(folder)
        (state / "logs").mkdir()
        children = Children(state / "logs")
        try:
            started = postgres.start(children, state, ports.choose(1)[0], programs, settings)
            yield Server(started.url, state / "logs" / "postgres.log")
        finally:
            children.stop()


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """The connection string of a superuser. The server is shared: every test uses names of its own."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with server() as started:
        yield started.dsn
