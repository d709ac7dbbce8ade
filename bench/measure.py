"""What programs and the API server have spent: CPU time by program, requests by verb and resource."""

import json
import os
import resource
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Of the kernel's clock for /proc, in a second."""
_UTIME, _CUTIME_END, _PARENT = 11, 15, 1


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """What each program has used since its start, its child processes included, those that are gone, too."""
    stats = dict(_stats())
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[_PARENT]), []).append(pid)

    def spent(pid: int) -> float:
        own = sum(map(int, stats[pid][_UTIME:_CUTIME_END])) if pid in stats else 0
        return own / _TICKS + sum(spent(child) for child in children.get(pid, ()))

    return {name: spent(pid) for name, pid in pids.items()}


def _stats() -> list[tuple[int, list[str]]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            found.append((int(folder.name), text.rpartition(")")[2].split()))
    return found


def cpu_of_ended_children() -> float:
    """Seconds of the child processes of this one that have come to their end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_mebibytes(pid: int) -> float:
    """What a process holds in memory now (RSS)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests of one kind: how many, and the milliseconds that the API server took for all of them."""

    number: float = 0.0
    milliseconds: float = 0.0

    def __add__(self, other: "Asked") -> "Asked":
        return Asked(self.number + other.number, self.milliseconds + other.milliseconds)


def requests(audit_log: Iterable[str], user: str) -> dict[str, Asked]:
    """What a user has asked of the API server, as "VERB resource/subresource", by the lines of its audit log."""
    asked: defaultdict[str, Asked] = defaultdict(Asked)
    for line in audit_log:
        event = json.loads(line)
        if event["user"]["username"] == user and event["verb"] != "watch":
            of = event.get("objectRef", {})
            place = "/".join(part for part in (of.get("resource"), of.get("subresource")) if part)
            begin, end = (
                datetime.fromisoformat(event[time]) for time in ("requestReceivedTimestamp", "stageTimestamp")
            )
            took = Asked(1, (end - begin).total_seconds() * 1000)
            asked[f"{event['verb'].upper()} {place or event['requestURI'].partition('?')[0]}"] += took
    return dict(asked)
