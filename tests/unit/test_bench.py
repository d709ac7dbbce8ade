"""What the benchmark counts and how it tells it."""

import json
import os
import subprocess
import sys

import pytest

from bench import measure
from bench.report import FLOOR, OPERATOR, Burst, Report

METRICS = """\
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="tenants",subresource="status",verb="PUT"} 12
apiserver_request_total{code="409",resource="tenants",subresource="status",verb="PUT"} 3
apiserver_request_total{code="200",resource="pods",subresource="",verb="WATCH"} 99
apiserver_request_total{code="200",resource="",subresource="/healthz",verb="GET"} 7
apiserver_request_duration_seconds{verb="PUT"} 1
"""


def burst(by: str, number: int, *seconds: float) -> Burst:
    return Burst(by, len(seconds), number, list(seconds), {"etcd": 20.0, by: 100.5}, {"PUT tenants/status": 8.0})


def test_requests_are_counted_by_verb_and_place_and_watches_are_not() -> None:
    assert measure.requests(METRICS) == {"PUT tenants/status": 15, "GET /healthz": 7}


def test_the_pace_is_held_against_the_floor_of_the_same_round() -> None:
    report = Report("a machine")
    report.bursts += [burst(FLOOR, 1, 1.0, 2.0), burst(OPERATOR, 1, 2.0, 4.0)]
    report.bursts += [burst(OPERATOR, 2, 1.0, 2.0), burst(FLOOR, 2, 1.0, 2.0), burst(FLOOR, 3, 1.0, 1.0)]

    assert report.ratios(2) == [0.5, 1.0]
    assert "Bursts of 2: 0.71 of the floor (0.50, 1.00)" in report.table()
    assert "| 2 | operator | 1 | 30 | 3.00 |" in report.table()
    assert "120 | operator 100, etcd 20 |" in report.table()
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
