"""Child processes that never outlive the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")
# A child's death signal fires when the *thread* that forked it ends, so all forks are made by one thread that
# lives as long as this process; a caller may start a cluster from a short-lived thread.
_FORKS = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devcluster-fork")
_POLL_SECONDS = 0.02


class ChildFailedError(RuntimeError):
    """A child process ended, or was not ready in time; the message has the end of its log."""


@dataclass(frozen=True)
class Child:
    """One running child process and where it logs."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals
    grace_seconds: float

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def tied_to_us(
    argv: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL, user: str | None = None
) -> list[str]:
    """The command that runs ``argv``, as ``user`` if given, and gets ``death_signal`` when we die."""
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    return [*launcher, str(os.getpid()), str(int(death_signal)), user or "-", *argv]


def fork(
    argv: Sequence[str], *, env: Mapping[str, str] | None, stdout: int, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C reaches only us; ``stdout`` gets all output."""
    future = _FORKS.submit(
        subprocess.Popen,
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    return future.result()


class Children:
    """The child processes of one cluster, in the order of their start; safe to use from several threads."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Child] = []
        self._lock = threading.Lock()
        self._stopping = False

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        grace_seconds: float = 5.0,
    ) -> Child:
        """Start ``argv`` with its output in ``<logs>/<name>.log``; ``env`` replaces the whole environment."""
        log = self._logs / f"{name}.log"
        command = tied_to_us(argv, death_signal=death_signal, user=user)
        with self._lock:
            if self._stopping:
                raise ChildFailedError(f"{name} not started: the cluster is stopping")
            with log.open("ab") as output:
                popen = fork(command, env=env, stdout=output.fileno())
            child = Child(name, popen, log, stop_signal, grace_seconds)
            self._running.append(child)
        return child

    def pids(self) -> dict[str, int]:
        """The process ids by name."""
        with self._lock:
            return {child.name: child.popen.pid for child in self._running}

    def check(self) -> None:
        """Raise `ChildFailedError` if a child has ended by itself, or if the cluster is being stopped."""
        with self._lock:
            if self._stopping:
                raise ChildFailedError("the cluster is stopping")
            ended = [child for child in self._running if child.popen.poll() is not None]
        if ended:
            first = ended[0]
            raise ChildFailedError(f"{first.name} ended with code {first.popen.returncode}:\n{first.log_tail()}")

    def wait_until(self, ready: Callable[[], bool], what: str, *, timeout: float = 60.0) -> None:
        """Ask ``ready`` until it says yes.

        Raises `ChildFailedError` if a child ends or ``timeout`` seconds pass first.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ChildFailedError(f"{what}: not ready after {timeout:.0f} s; see the logs in {self._logs}")
            time.sleep(_POLL_SECONDS)

    def end(self, name: str) -> None:
        """End the children of that name, as `stop` does."""
        with self._lock:
            ending = [child for child in self._running if child.name == name]
            self._running = [child for child in self._running if child.name != name]
        for child in ending:
            _end(child)

    def stop(self) -> None:
        """End all children, the last started first: its stop signal, and SIGKILL when its grace is over."""
        with self._lock:
            self._stopping = True
            running, self._running = self._running, []
        for child in reversed(running):
            _end(child)


def _end(child: Child) -> None:
    if child.popen.poll() is None:
        child.popen.send_signal(child.stop_signal)
    try:
        child.popen.wait(child.grace_seconds)
    except subprocess.TimeoutExpired:
        child.popen.kill()
        child.popen.wait()
