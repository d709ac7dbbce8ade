"""What the benchmark counts and how it tells it."""

import json
import os
import subprocess
import sys

import pytest

from bench import measure
from bench.report import FLOOR, OPERATOR, Burst, Report

ME = "system:serviceaccount:mine:me"


def asked(verb: str, milliseconds: int, *, user: str = ME, **reference: str) -> str:
    """A line of the API server's audit log."""
    times = {
        "requestReceivedTimestamp": "2026-01-01T12:00:00.000000Z",
        "stageTimestamp": f"2026-01-01T12:00:00.{milliseconds:03d}000Z",
    }
    return json.dumps(
        {"user": {"username": user}, "verb": verb, "requestURI": "/healthz?verbose", "objectRef": reference, **times}
    )


def burst(by: str, number: int, *seconds: float) -> Burst:
    return Burst(
        by, len(seconds), number, list(seconds), {"etcd": 20.0, by: 100.5}, {"UPDATE tenants/status": (8.0, 5.0)}
    )


def test_own_requests_are_counted_by_verb_and_place_and_watches_are_not() -> None:
    lines = [
        asked("update", 10, resource="tenants", subresource="status"),
        asked("update", 30, resource="tenants", subresource="status"),
        asked("update", 50, resource="tenants", subresource="status", user="somebody"),
        asked("watch", 900, resource="pods"),
        asked("get", 1),
    ]

    assert measure.requests(lines, ME) == {
        "UPDATE tenants/status": measure.Asked(2, 40.0),
        "GET /healthz": measure.Asked(1, 1.0),
    }


def test_the_pace_is_held_against_the_floor_of_the_same_round() -> None:
    report = Report("a machine")
    report.bursts += [burst(FLOOR, 1, 1.0, 2.0), burst(OPERATOR, 1, 2.0, 4.0)]
    report.bursts += [burst(OPERATOR, 2, 1.0, 2.0), burst(FLOOR, 2, 1.0, 2.0), burst(FLOOR, 3, 1.0, 1.0)]

    assert report.ratios(2) == [0.5, 1.0]
    assert "Bursts of 2: 0.71 of the floor (0.50, 1.00)" in report.table()
    assert "| 2 | operator | 1 | 30 | 3.00 |" in report.table()
    assert "120 | operator 100, etcd 20 |" in report.table()
    assert "| operator, per tenant in a burst of 2 | requests | ms each |" in report.table()
    assert "line [120]" in report.table(), "the plot"
    assert json.loads(report.json())["bursts"][0]["by"] == FLOOR


@pytest.mark.parametrize(("percent", "expected"), [(50, 3.0), (99, 3.0)])
def test_one_tenant_is_its_own_percentile(percent: int, expected: float) -> None:
    assert burst(FLOOR, 1, 3.0).percentile(percent) == expected


def test_cpu_time_includes_child_processes_that_are_gone() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = measure.cpu_seconds({"me": os.getpid()})["me"]
    subprocess.run([sys.executable, "-c", burn], check=True)  # noqa: S603

    assert measure.cpu_seconds({"me": os.getpid()})["me"] - before >= 0.2  # the kernel counts in ticks
    assert measure.memory_mebibytes(os.getpid()) > 1
