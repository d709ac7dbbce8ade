"""One development cluster: everything it consists of, in one state folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Self

from devcluster import binaries, ports, postgres
from devcluster.children import Children
from devcluster.control_plane import ControlPlane, Ports

_HOST = "127.0.0.1"
_EXTRA_GRACE_SECONDS = 15.0
_LOCK_ATTEMPTS = 10
_LOCK_PAUSE_SECONDS = 0.02


class AlreadyRunningError(RuntimeError):
    """Another process runs a cluster in the same state folder."""


@dataclass(frozen=True)
class Environment:
    """What a program needs to know to use a running cluster."""

    state: Path
    kubeconfig: Path
    database_url: str
    smtp_host: str
    smtp_port: int
    mail_folder: Path
    kubectl: Path

    @classmethod
    def load(cls, state: Path) -> Self | None:
        """The environment of the cluster that runs and is ready in ``state``, or None."""
        file = state.absolute() / "environment.json"
        if supervisor_pid(state) is None or not file.exists():
            return None
        raw = json.loads(file.read_text())
        for name in ("state", "kubeconfig", "mail_folder", "kubectl"):
            raw[name] = Path(raw[name])
        return cls(**raw)


@dataclass(frozen=True)
class _Addresses:
    """The ports of everything; remembered, so that a cluster that is started again is found where it was."""

    control_plane: Ports
    postgres: int
    smtp: int


def supervisor_pid(state: Path) -> int | None:
    """The process that runs a cluster in ``state``, starting or ready, or None."""
    lock = state / "lock"
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = lock.read_text()
            return int(pid) if pid else None
    return None


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"devcluster: {line}\n")
    sys.stderr.flush()


class DevCluster:
    """A cluster that lives as long as this object is started, and never longer than this process.

    What it stores stays in the state folder: starting again in the same folder goes on with the same data
    and, if they are still free, the same ports.
    """

    def __init__(self, state: Path, *, report: binaries.Report = _to_stderr, audited: Sequence[str] = ()) -> None:
        """``audited``: the users whose requests the API server notes in ``<state>/logs/requests.jsonl``."""
        self._state = state.absolute()
        self._report = report
        self._audited = tuple(audited)
        self._lock: TextIOWrapper | None = None
        self._children = Children(self._state / "logs")
        self._control_plane: ControlPlane | None = None

    def __enter__(self) -> Environment:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Environment:
        """Start everything and return when it is ready.

        Raises `AlreadyRunningError`, `devcluster.binaries.BuildError` or
        `devcluster.children.ChildFailedError`; nothing is left running then.
        """
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        programs = binaries.ensure(self._report)
        self._lock = self._take_lock()
        try:
            return self._start(programs)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything; the files stay."""
        if self._lock is None:
            return
        self._ready_file.unlink(missing_ok=True)
        self._children.stop()
        self._pids_file.unlink(missing_ok=True)
        self._lock.truncate(0)
        self._lock.close()
        self._lock = None

    @property
    def pids(self) -> dict[str, int]:
        """The processes of its programs, by name."""
        return self._children.pids()

    def check(self) -> None:
        """Raise `devcluster.children.ChildFailedError` if a part of the cluster has ended by itself."""
        self._children.check()

    def add_user(self, name: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig that the API server takes for user ``name`` in ``groups``; return its path."""
        if self._control_plane is None:
            raise RuntimeError("the cluster is not started")
        return _write_user(self._control_plane, self._state, name, groups)

    def spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Run one more program that belongs to the cluster, logging to ``<state>/logs/<name>.log``.

        ``env`` replaces the whole environment. It is stopped first when the cluster is stopped.
        """
        self._children.spawn(name, argv, env, grace_seconds=_EXTRA_GRACE_SECONDS)
        self._write_pids()

    def end(self, name: str) -> None:
        """Stop the program of that name, which `spawn` has started."""
        self._children.end(name)
        self._write_pids()

    @property
    def _ready_file(self) -> Path:
        return self._state / "environment.json"

    @property
    def _pids_file(self) -> Path:
        return self._state / "pids.json"

    def _take_lock(self) -> TextIOWrapper:
        lock = (self._state / "lock").open("a+")
        # Several times, because whoever asks whether a cluster is running holds the lock for an instant.
        for _ in range(_LOCK_ATTEMPTS):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            lock.close()
            raise AlreadyRunningError(f"a cluster is already running in {self._state}")
        self._ready_file.unlink(missing_ok=True)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _start(self, programs: binaries.Binaries) -> Environment:
        logs, mails = self._state / "logs", self._state / "mails"
        for folder in (logs, mails):
            folder.mkdir(exist_ok=True)
        self._children = Children(logs)
        addresses = self._choose_addresses()
        control_plane = ControlPlane(
            self._state, programs, self._children, addresses.control_plane, audited=self._audited
        )
        with ThreadPoolExecutor(max_workers=2) as pool:
            database = pool.submit(postgres.start, self._children, self._state, addresses.postgres)
            mailbox = pool.submit(self._start_mailbox, mails, addresses.smtp)
            try:
                control_plane.start()
                mailbox.result()
                url = database.result().url
            except BaseException:
                # Ends the waiting of the other parts too.
                self._children.stop()
                raise
        self._control_plane = control_plane
        environment = Environment(
            state=self._state,
            kubeconfig=control_plane.kubeconfig,
            database_url=url,
            smtp_host=_HOST,
            smtp_port=addresses.smtp,
            mail_folder=mails,
            kubectl=programs.paths["kubectl"],
        )
        self._write_pids()
        unfinished = self._ready_file.with_suffix(".partial")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(asdict(environment), default=str, indent=2))
        unfinished.rename(self._ready_file)
        return environment

    def _choose_addresses(self) -> _Addresses:
        file = self._state / "ports.json"
        if file.exists():
            chosen: list[int] = json.loads(file.read_text())
            if all(ports.is_free(port) for port in chosen):
                return _addresses(chosen)
        chosen = ports.choose(9)
        file.write_text(json.dumps(chosen))
        return _addresses(chosen)

    def _start_mailbox(self, folder: Path, port: int) -> None:
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        command = [sys.executable, "-m", "devcluster.mailbox", str(folder), _HOST, str(port)]
        self._children.spawn("mailbox", command, {**os.environ, "PYTHONPATH": path})

        def answers() -> bool:
            try:
                with socket.create_connection((_HOST, port), timeout=2) as connection:
                    return connection.recv(3) == b"220"
            except OSError:
                return False

        self._children.wait_until(answers, "the SMTP receiver")

    def _write_pids(self) -> None:
        self._pids_file.write_text(json.dumps(self._children.pids(), indent=2))


def add_user(state: Path, name: str, groups: Sequence[str] = ()) -> Path:
    """Like `DevCluster.add_user`, for a cluster that runs in another process."""
    environment = Environment.load(state)
    if environment is None:
        raise RuntimeError(f"no cluster is running in {state}")
    chosen = _addresses(json.loads((environment.state / "ports.json").read_text()))
    programs = binaries.Binaries({}, Path())
    plane = ControlPlane(environment.state, programs, Children(environment.state / "logs"), chosen.control_plane)
    return _write_user(plane, environment.state, name, groups)


def _addresses(chosen: Sequence[int]) -> _Addresses:
    *control_plane, database, smtp = chosen
    return _Addresses(Ports(*control_plane), database, smtp)


def _write_user(plane: ControlPlane, state: Path, name: str, groups: Sequence[str]) -> Path:
    folder = state / "users"
    folder.mkdir(exist_ok=True)
    # Distinct users need distinct files, whatever characters their names have.
    readable = re.sub(r"[^A-Za-z0-9.-]", "_", name)
    distinct = hashlib.sha256(json.dumps([name, *groups]).encode()).hexdigest()[:8]
    return plane.write_user(
        folder / f"{readable}-{distinct}.kubeconfig", name, groups, file_name=f"user-{readable}-{distinct}"
    )
