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


class TenantWatch:
    """Sees every change of every Tenant from its start on; each arrives once, in order, as its new JSON object."""

    def __init__(self, environment: Environment) -> None:
        command = [str(environment.kubectl), f"--kubeconfig={environment.kubeconfig}", "get", "tenants"]
        options = ["--all-namespaces", "--watch", "--output-watch-events", "--output=json"]
        self._command = tied_to_us([*command, *options])
        self._changes: queue.SimpleQueue[Tenant | None] = queue.SimpleQueue()
        self._kubectl: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._kubectl = subprocess.Popen(  # noqa: S603
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._kubectl,), daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kubectl is not None and self._reader is not None:
            self._kubectl.terminate()
            self._reader.join()
            self._kubectl.wait()

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

    def _read(self, kubectl: subprocess.Popen[str]) -> None:
        assert kubectl.stdout is not None  # noqa: S101 (it is a pipe)
        with kubectl.stdout as lines:
            for line in lines:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._changes.put(event["object"])
        self._changes.put(None)


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
