"""A sink of the audit feed stores each event once, in order, and says so only when it is stored."""

import asyncio
import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from tenant_operator.adapters.jsonl_audit import JsonLinesAudit
from tenant_operator.api.tenant import OutboxEvent
from tenant_operator.provisioning.ports import AuditLog
from tenant_operator.saga.errors import Unavailable
from tests.fakes.audit import FakeAudit

Feed = Callable[[], list[str]]


def event(**changes: Any) -> OutboxEvent:
    fields = {
        "id": str(ULID()),
        "type": "tenant.suspended",
        "actor_id": "alice",
        "org_id": "bank",
        "tenant_id": "7f0c",
        "created_at": datetime(2026, 11, 21, 6, 0, 0, 250_000, tzinfo=UTC),
        "data": {"note": "line one\nline two – ü"},
    }
    return OutboxEvent.model_validate(fields | changes)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def ids(path: Path) -> list[str]:
    return [stored["id"] for stored in read(path)]


def cut_short(path: Path, missing: int) -> None:
    os.truncate(path, path.stat().st_size - missing)


def size(path: Path) -> int:
    return path.stat().st_size


@contextlib.contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """What this process writes beyond `size` bytes of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rotate(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture(params=["fake", "file", "standard output"])
def sink(request: pytest.FixtureRequest, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[AuditLog, Feed]:
    if request.param == "file":
        return JsonLinesAudit(path), lambda: ids(path)
    if request.param == "standard output":
        return JsonLinesAudit("-"), lambda: [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    fake = FakeAudit()
    return fake, lambda: [stored.id for stored in fake.events]


async def test_events_are_stored_in_order(sink: tuple[AuditLog, Feed]) -> None:
    log, feed = sink
    first, second, third = event(), event(), event()

    await log.append([first, second])
    await log.append([third])

    assert feed() == [first.id, second.id, third.id]


async def test_an_event_is_stored_once(sink: tuple[AuditLog, Feed]) -> None:
    log, feed = sink
    first, second = event(), event()

    await log.append([first, first])
    await log.append([first, second])

    assert feed() == [first.id, second.id]


async def test_nothing_to_store_is_no_failure(sink: tuple[AuditLog, Feed]) -> None:
    log, _ = sink

    await log.append([])


async def test_many_at_once_are_all_stored_once(sink: tuple[AuditLog, Feed]) -> None:
    log, feed = sink
    events = [event() for _ in range(60)]

    await asyncio.gather(*(log.append(events[start : start + 4]) for start in range(0, 58, 2)))

    assert sorted(feed()) == sorted(each.id for each in events)


async def test_a_line_has_the_shape_of_the_feed(path: Path) -> None:
    told = event()

    await JsonLinesAudit(path).append([told])

    [stored] = read(path)
    assert stored == {
        "id": told.id,
        "type": "tenant.suspended",
        "actor_id": "alice",
        "actor_email": None,
        "org_id": "bank",
        "tenant_id": "7f0c",
        "created_at": "2026-11-21T06:00:00.250000Z",
        "data": {"note": "line one\nline two – ü"},
    }


async def test_what_an_earlier_process_stored_is_not_stored_again(path: Path) -> None:
    first, second = event(), event()
    await JsonLinesAudit(path).append([first])

    await JsonLinesAudit(path).append([first, second])

    assert ids(path) == [first.id, second.id]


async def test_a_line_cut_short_by_a_crash_is_written_anew(path: Path) -> None:
    first, second, third = event(), event(), event()
    await JsonLinesAudit(path).append([first, second])
    cut_short(path, 20)

    await JsonLinesAudit(path).append([second, third])

    assert ids(path) == [first.id, second.id, third.id]


async def test_a_line_that_only_lacks_its_end_is_completed(path: Path) -> None:
    first, second = event(), event()
    await JsonLinesAudit(path).append([first])
    cut_short(path, 1)

    await JsonLinesAudit(path).append([first, second])

    assert ids(path) == [first.id, second.id]


async def test_a_long_feed_is_remembered_by_its_end(path: Path) -> None:
    padding = "x" * 3000
    events = [event(data={"padding": padding}) for _ in range(4000)]
    await JsonLinesAudit(path).append(events)
    newest = event()

    await JsonLinesAudit(path).append([*events[-1000:], newest])

    assert ids(path) == [each.id for each in [*events, newest]]


async def test_a_rotated_feed_goes_on_in_a_new_file(path: Path) -> None:
    log = JsonLinesAudit(path)
    first, second = event(), event()
    await log.append([first])
    rotate(path)

    await log.append([first, second])

    assert ids(path) == [second.id]


async def test_a_failing_write_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "later" / "audit.jsonl"
    log = JsonLinesAudit(path)
    told = event()
    with pytest.raises(Unavailable, match="no such file or directory"):
        await log.append([told])

    path.parent.mkdir()
    await log.append([told])

    assert ids(path) == [told.id]


async def test_a_disk_that_is_full_is_named() -> None:
    with pytest.raises(Unavailable, match="audit feed /dev/full: no space left on device"):
        await JsonLinesAudit("/dev/full").append([event()])


async def test_a_write_that_stops_half_way_leaves_no_trace(path: Path) -> None:
    log = JsonLinesAudit(path)
    first, second, third = event(), event(), event()
    await log.append([first])
    with files_no_longer_than(size(path) + size(path) // 2), pytest.raises(Unavailable, match="file too large"):
        await log.append([second])

    await log.append([second, third])

    assert ids(path) == [first.id, second.id, third.id]


async def test_all_who_wait_for_a_failing_write_hear_of_it(tmp_path: Path) -> None:
    log = JsonLinesAudit(tmp_path)

    outcomes = await asyncio.gather(*(log.append([event()]) for _ in range(3)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3


async def test_a_caller_that_gives_up_does_not_cost_the_others_their_event(path: Path) -> None:
    log = JsonLinesAudit(path)
    first, second = event(), event()
    hasty = asyncio.create_task(log.append([first]))
    patient = asyncio.create_task(log.append([second]))
    await asyncio.sleep(0)
    hasty.cancel()

    await patient

    assert ids(path) == [first.id, second.id]
    assert hasty.cancelled()


async def test_the_fake_refuses_when_told_to() -> None:
    fake = FakeAudit(refusing=True)
    with pytest.raises(Unavailable):
        await fake.append([event()])

    assert fake.events == []
