"""The Tenants of a cluster as they change, from one watch of the API server."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from types import TracebackType
from typing import Any, Self

from devcluster.children import tied_to_us
from devcluster.cluster import Environment
from devcluster.platform import PlatformError

Tenant = dict[str, Any]


def watching(environment: Environment) -> list[str]:
    """The command that tells each version of each Tenant, an event on a line."""
    command = [str(environment.kubectl), f"--kubeconfig={environment.kubeconfig}", "get", "tenants"]
    # Of a list that it reads in chunks, kubectl tells each chunk as if it were an object.
    options = ["--all-namespaces", "--watch", "--output-watch-events", "--output=json", "--chunk-size=0"]
    return tied_to_us([*command, *options])


class TenantWatch:
    """Sees the Tenants from its start on: each version that arrives once, in order, as its JSON object. A watch that
    the server ends (it drops whoever reads too slowly) is taken up again; versions in between may be missed then."""

    def __init__(self, environment: Environment) -> None:
        self._command = watching(environment)
        self._changes: queue.SimpleQueue[Tenant | None] = queue.SimpleQueue()
        self._seen: dict[str, int] = {}
        self._kubectl: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._kubectl = self._start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._reader is not None:
            while self._reader.is_alive():  # it may just have started another one
                if self._kubectl is not None:
                    self._kubectl.terminate()
                self._reader.join(0.1)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def changes(self, timeout: float) -> list[Tenant]:
        """What changed since the last call; waits for ``timeout`` seconds at most. Raises `PlatformError`."""
        seen: list[Tenant] = []
        try:
            seen.append(self._next(timeout))
            while True:
                seen.append(self._next(0))
        except queue.Empty:
            return seen

    def _next(self, timeout: float) -> Tenant:
        tenant = self._changes.get(timeout=timeout) if timeout else self._changes.get_nowait()
        if tenant is None:
            raise PlatformError("the watch of the tenants ended")
        return tenant

    def _read(self) -> None:
        try:
            self._read_until_over()
        finally:  # whatever ends it: nobody waits for a watch that is none
            self._changes.put(None)

    def _read_until_over(self) -> None:
        heard = True
        while heard and not self._over.is_set():  # one that tells nothing at all will not do better next time
            heard = False
            kubectl = self._kubectl = self._start() if self._kubectl is None else self._kubectl
            assert kubectl.stdout is not None  # noqa: S101 (it is a pipe)
            with kubectl.stdout as lines:
                for line in lines:
                    heard = True
                    self._hear(json.loads(line))
            kubectl.wait()
            self._kubectl = None

    def _hear(self, event: dict[str, Any]) -> None:
        if event["type"] not in ("ADDED", "MODIFIED"):
            return
        metadata = event["object"]["metadata"]
        version = int(metadata["resourceVersion"])
        if version > self._seen.get(metadata["uid"], 0):
            self._seen[metadata["uid"]] = version
            self._changes.put(event["object"])


def key(tenant: Tenant) -> str:
    """Namespace and name."""
    return f"{tenant['metadata']['namespace']}/{tenant['metadata']['name']}"


def state(tenant: Tenant) -> str:
    """The state, or an empty string before the operator has seen the tenant."""
    return str(tenant.get("status", {}).get("state") or "")


def has_settled(tenant: Tenant) -> bool:
    """Whether its run is over and the audit feed has all of it."""
    status = tenant.get("status", {})
    return bool(status.get("run", {}).get("finishedAt")) and not status.get("outbox")


def condition(tenant: Tenant, type_: str) -> dict[str, Any]:
    """One condition; empty if the tenant does not have it."""
    conditions = tenant.get("status", {}).get("conditions", [])
    return next((dict(each) for each in conditions if each["type"] == type_), {})
