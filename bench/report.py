"""What was measured, as a table for people and as JSON for machines."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean, mean, quantiles

FLOOR, OPERATOR = "floor", "operator"


@dataclass(frozen=True, slots=True)
class Burst:
    """So many tenants made at once by one of the two. `seconds` until each served, from the common start; `cpu` in
    milliseconds per tenant by program; `requests`: its own, per tenant, and the milliseconds that the API server took
    for one; `bytes` of one Tenant; `memory` of the operator afterwards, in MiB."""

    by: str
    size: int
    round: int
    seconds: list[float]
    cpu: dict[str, float]
    requests: dict[str, tuple[float, float]]
    bytes: int = 0
    memory: float = 0.0

    @property
    def per_minute(self) -> float:
        """Tenants a minute."""
        return 60 * self.size / max(self.seconds)

    def percentile(self, percent: int) -> float:
        """So many percent of the tenants served within these seconds."""
        return self.seconds[0] if self.size == 1 else quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True, slots=True)
class Crowd:
    """An operator that is started among so many `tenants` that serve. `ready_seconds`: from its start until it said so;
    `settled_seconds`: until it had looked at all of them. `memory` then, in MiB. `writes` of a status, and `cpu` in
    milliseconds, in a minute at rest. `one_more_seconds`: until another tenant served, without the time for pods."""

    tenants: int
    ready_seconds: float
    settled_seconds: float
    memory: float
    writes: int
    cpu: float
    one_more_seconds: float


@dataclass(slots=True)
class Report:
    """All bursts of a run, and the machine that it was on."""

    machine: str
    bursts: list[Burst] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)

    def ratios(self, size: int) -> list[float]:
        """Tenants a minute of the operator over those of the floor, round by round."""
        pace = {(each.by, each.round): each.per_minute for each in self.bursts if each.size == size}
        rounds = sorted({number for _, number in pace})
        return [
            pace[OPERATOR, number] / pace[FLOOR, number]
            for number in rounds
            if (FLOOR, number) in pace and (OPERATOR, number) in pace
        ]

    def table(self) -> str:
        """Markdown."""
        columns = ("burst", "by", "round", "a minute", "p50 s", "p90 s", "p99 s", "CPU ms per tenant", "by program")
        head = f"| {' | '.join((*columns, 'bytes of a Tenant', 'MiB'))} |"
        lines = [f"Machine: {self.machine}", "", head, "|---" * 11 + "|"]
        for each in self.bursts:
            programs = ", ".join(f"{name} {value:.0f}" for name, value in sorted(each.cpu.items(), key=_most))
            times = " | ".join(f"{each.percentile(percent):.2f}" for percent in (50, 90, 99))
            lines.append(
                f"| {each.size} | {each.by} | {each.round} | {each.per_minute:.0f} | {times} "
                f"| {sum(each.cpu.values()):.0f} | {programs} | {each.bytes or ''} | {each.memory or ''} |"
            )
        for size in sorted({each.size for each in self.bursts}):
            if ratios := self.ratios(size):
                told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
                lines += ["", f"Bursts of {size}: {geometric_mean(ratios):.2f} of the floor ({told})"]
        if self.bursts:
            lines += ["", *self._requests(), "", *self._plot()]
        for crowd in self.crowds:
            lines += [
                "",
                f"Among {crowd.tenants} tenants that serve: ready {crowd.ready_seconds:.1f} s after the start, all "
                f"looked at after {crowd.settled_seconds:.1f} s, {crowd.memory:.0f} MiB; a minute at rest: "
                f"{crowd.writes} writes, {crowd.cpu:.0f} ms CPU; one more served after {crowd.one_more_seconds:.2f} s",
            ]
        return "\n".join(lines)

    def _requests(self) -> list[str]:
        """What each asks of the API server per tenant, in its last and largest burst."""
        lines = []
        for by in (FLOOR, OPERATOR):
            last = max((each for each in self.bursts if each.by == by), key=lambda each: (each.size, each.round))
            told = sorted(last.requests.items(), key=lambda item: -item[1][0])
            lines += ["", f"| {by}, per tenant in a burst of {last.size} | requests | ms each |", "|---|---|---|"]
            lines += [f"| {what} | {number:.1f} | {took:.0f} |" for what, (number, took) in told]
        return lines

    def _plot(self) -> list[str]:
        """CPU time per tenant against the size of the burst, as Mermaid draws it."""
        sizes = sorted({each.size for each in self.bursts})
        lines = [
            "```mermaid",
            "xychart-beta",
            f'    title "CPU ms per tenant: {OPERATOR} above, {FLOOR} below"',
            f'    x-axis "tenants at once" [{", ".join(map(str, sizes))}]',
            '    y-axis "ms"',
        ]
        for by in (OPERATOR, FLOOR):
            costs = [mean(sum(e.cpu.values()) for e in self.bursts if (e.by, e.size) == (by, size)) for size in sizes]
            lines.append(f"    line [{', '.join(f'{cost:.0f}' for cost in costs)}]")
        return [*lines, "```"]

    def json(self) -> str:
        """Everything."""
        return json.dumps(asdict(self), indent=2)


def _most(item: tuple[str, float]) -> float:
    return -item[1]


def machine() -> str:
    """What the figures depend on, in words."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    processors = f"{os.cpu_count()} × {model or platform.machine()}"
    return f"{processors}, {pages * size / 2**30:.0f} GiB, Python {platform.python_version()}"
