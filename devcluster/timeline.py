"""Shows how tenants get on: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from devcluster.tenants import Tenant, condition, key, state

_STYLES = {
    "Running": "cyan",
    "Provisioning": "cyan",
    "Completed": "green",
    "Active": "green",
    "Suspended": "magenta",
    "Failed": "bold red",
    "Compensating": "yellow",
    "Compensated": "yellow",
    "Pending": "dim",
    "Skipped": "dim",
}


class View(Protocol):
    """Shows the tenants that it is given, by namespace and name, each time that something may have changed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def show(self, tenants: Mapping[str, Tenant]) -> None: ...


def view_of(console: Console, followed: str) -> View:
    """The view that suits the console: all activities of the tenant ``followed``, the states of the others."""
    return _Table(console, followed) if console.is_terminal else _Lines(console, followed)


class _Table:
    def __init__(self, console: Console, followed: str) -> None:
        self._live = Live(console=console, refresh_per_second=10)
        self._followed = followed

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._live.stop()

    def show(self, tenants: Mapping[str, Tenant]) -> None:
        followed = tenants.get(self._followed)
        parts = [_activities(followed)] if followed is not None else []
        self._live.update(Group(*parts, _states(tenants)))


class _Lines:
    def __init__(self, console: Console, followed: str) -> None:
        self._console = console
        self._followed = followed
        self._shown: dict[tuple[str, str], tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return

    def show(self, tenants: Mapping[str, Tenant]) -> None:
        for name, tenant in tenants.items():
            rows = tenant.get("status", {}).get("timeline", []) if name == self._followed else []
            for row in sorted((row for row in rows if row.get("startedAt")), key=_since):
                self._tell(tenant, _since(row), row["activity"], row)
            if state(tenant):
                whole = {"state": state(tenant), "message": _ready_message(tenant)}
                self._tell(tenant, datetime.now(UTC), "state", whole)

    def _tell(self, tenant: Tenant, at: datetime, what: str, row: Mapping[str, Any]) -> None:
        seen = row["state"], row.get("tries", 0)
        if self._shown.get((key(tenant), what)) == seen:
            return
        self._shown[key(tenant), what] = seen
        seconds = (at - datetime.fromisoformat(tenant["status"]["run"]["startedAt"])).total_seconds()
        line = f"{seconds:7.2f} s  {tenant['metadata']['name']:11} {what:26} {row['state']:13} {_message(row)}"
        self._console.print(line.rstrip(), soft_wrap=True, markup=False, highlight=False)


def _activities(tenant: Tenant) -> Table:
    table = Table(title=f"Tenant {key(tenant)}", title_justify="left", expand=True)
    for heading in ("Activity", "Phase", "State"):
        table.add_column(heading, no_wrap=True)
    table.add_column("Duration", justify="right", no_wrap=True)
    table.add_column("Failed tries", justify="right", no_wrap=True)
    table.add_column("Message", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in tenant.get("status", {}).get("timeline", []):
        span = _duration(row)
        duration = f"{span.total_seconds():.2f} s" if span is not None else ""
        tries = str(row["tries"] or "")
        table.add_row(row["activity"], row["phase"], _styled(row["state"]), duration, tries, Text(_message(row)))
    return table


def _states(tenants: Mapping[str, Tenant]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for name, tenant in tenants.items():
        table.add_row(name, _styled(state(tenant)), Text(_ready_message(tenant)))
    return table


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def _message(row: Mapping[str, Any]) -> str:
    return str(row.get("message") or "")


def _ready_message(tenant: Tenant) -> str:
    return str(condition(tenant, "Ready").get("message") or "")


def _duration(row: Mapping[str, Any]) -> timedelta | None:
    if not row.get("startedAt"):
        return None
    end = datetime.fromisoformat(row["completedAt"]) if row.get("completedAt") else datetime.now(UTC)
    return end - datetime.fromisoformat(row["startedAt"])


def _since(row: Mapping[str, Any]) -> datetime:
    """When the row came into its state."""
    return datetime.fromisoformat(row.get("completedAt") or row["startedAt"])
