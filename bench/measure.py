"""What programs and the API server have spent: CPU time by program, requests by verb and resource."""

import os
import re
import resource
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Of the kernel's clock for /proc, in a second."""
_UTIME, _CUTIME_END, _PARENT = 11, 15, 1
_REQUESTS: Final = re.compile(r"^apiserver_request_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


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


def requests(metrics: str) -> Counter[str]:
    """The requests that the API server has counted, from the text of its metrics, as "VERB resource/subresource"."""
    counted: Counter[str] = Counter()
    for labels, number in _REQUESTS.findall(metrics):
        of = dict(_LABEL.findall(labels))
        if of.get("verb") != "WATCH":
            place = "/".join(part for part in (of.get("resource"), of.get("subresource")) if part)
            counted[f"{of.get('verb')} {place}"] += int(float(number))
    return counted
