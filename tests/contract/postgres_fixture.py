"""A PostgreSQL for the tests: the one that TEST_POSTGRES_DSN names, or one of their own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import ports, postgres
from devcluster.children import Children


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """The connection string of a superuser. The server is shared: every test uses names of its own."""
    given = os.environ.get("TEST_POSTGRES_DSN")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="tenant-operator-postgres-") as folder:
        state = Path(folder)
        (state / "logs").mkdir()
        children = Children(state / "logs")
        try:
            yield postgres.start(children, state, ports.choose(1)[0]).url
        finally:
            children.stop()
