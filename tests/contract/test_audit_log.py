"""A sink of the audit feed stores each event once, in order, and says so only when it is stored."""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from tenant_operator.adapters.jsonl_audit import JsonLinesAudit
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.ports import AuditLog
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
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def ids(path: Path) -> list[str]:
    return [stored["id"] for stored in read(path)]


def cut_short(path: Path, missing: int) -> None:
    os.truncate(path, path.stat().st_size - missing)


def exists(path: Path) -> bool:
    return path.exists()


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


def rotate(path: Path) -> Path:
    """Move the feed away, as logrotate does; where it is now."""
    return path.rename(path.with_suffix(".1"))


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


async def test_nothing_to_store_leaves_no_trace(sink: tuple[AuditLog, Feed], path: Path) -> None:
    log, feed = sink

    await log.append([])

    assert feed() == []
    assert not exists(path)


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


async def test_what_another_process_stored_meanwhile_is_not_stored_again(path: Path) -> None:
    one, other = JsonLinesAudit(path), JsonLinesAudit(path)
    first, second, third, fourth = (event() for _ in range(4))
    await one.append([first])
    await other.append([second])

    await one.append([first, second, third])
    await other.append([first, second, third, fourth])

    assert ids(path) == [each.id for each in (first, second, third, fourth)]


async def test_what_another_process_stored_before_the_feed_was_rotated_is_not_stored_again(path: Path) -> None:
    one, other = JsonLinesAudit(path), JsonLinesAudit(path)
    first, second, third = event(), event(), event()
    await one.append([first])
    await other.append([second])
    former = rotate(path)

    await one.append([first, second, third])

    assert (ids(former), ids(path)) == ([first.id, second.id], [third.id])


async def test_a_line_that_a_killed_process_left_unfinished_is_taken_away_by_the_others(path: Path) -> None:
    log = JsonLinesAudit(path)
    first, second = event(), event()
    await log.append([first])
    with path.open("ab") as killed:
        killed.write(b'{"id":"01J')

    await log.append([second])

    assert ids(path) == [first.id, second.id]


async def test_a_feed_that_was_emptied_in_place_goes_on_at_its_beginning(path: Path) -> None:
    """As logrotate does with copytruncate; it has grown again, by another process, beyond where it was."""
    log, other = JsonLinesAudit(path), JsonLinesAudit(path)
    first, second = event(), event()
    await log.append([first])
    os.truncate(path, 0)
    others = [event() for _ in range(3)]
    await other.append(others)

    await log.append([first, *others, second])

    assert ids(path) == [each.id for each in (*others, second)]


async def test_only_what_is_new_in_the_feed_is_read(path: Path) -> None:
    """With the whole of a feed of a gigabyte read each time, nothing else would get done."""
    one, other = JsonLinesAudit(path), JsonLinesAudit(path)
    await other.append([event(data={"padding": "x" * 5_000_000})])
    await one.append([event()])
    before = bytes_read()

    for _ in range(20):
        await one.append([event()])
        await other.append([event()])

    assert bytes_read() - before < 1_000_000


def bytes_read() -> int:
    """By this process, from anywhere."""
    (line,) = [each for each in Path("/proc/self/io").read_text().splitlines() if each.startswith("rchar:")]
    return int(line.split()[1])


WRITER = """
import asyncio, json, random, sys
from pathlib import Path
from tenant_operator.adapters.jsonl_audit import JsonLinesAudit
from tenant_operator.api.tenant_status import OutboxEvent

async def main(path, outboxes, seed):
    log, chance = JsonLinesAudit(path), random.Random(seed)
    delivered = {tenant: 0 for tenant in outboxes}
    while any(delivered[tenant] < len(outbox) for tenant, outbox in outboxes.items()):
        tenant = chance.choice(sorted(outboxes))
        until = delivered[tenant] + chance.randint(1, 5)
        await log.append([OutboxEvent.model_validate(each) for each in outboxes[tenant][:until]])
        delivered[tenant] = until

asyncio.run(main(Path(sys.argv[1]), json.loads(sys.stdin.read()), int(sys.argv[2])))
"""


def writer(path: Path, outboxes: str, seed: int) -> subprocess.Popen[str]:
    """A process that delivers all the outboxes, each in order, again and again what it has delivered already."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, path, str(seed)], stdin=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdin is not None
    process.stdin.write(outboxes)
    process.stdin.close()
    return process


def grown(path: Path, process: subprocess.Popen[str], size: int) -> None:
    """Returns once the file is that long, or the process is over."""
    while process.poll() is None and (not path.exists() or path.stat().st_size < size):
        os.sched_yield()


@pytest.mark.parametrize("kills", [0, 3], ids=["all live", "some are killed"])
def test_several_processes_store_the_same_outboxes_once_and_in_order(path: Path, kills: int) -> None:
    chance = random.Random(kills)
    outboxes = {f"tenant-{number}": [event(tenant_id=f"tenant-{number}") for _ in range(40)] for number in range(5)}
    text = json.dumps({tenant: [each.model_dump(mode="json") for each in outboxes[tenant]] for tenant in outboxes})
    length = len(text) // 2

    for _ in range(kills):
        doomed, other = writer(path, text, 1), writer(path, text, 2)
        grown(path, doomed, chance.randint(1, length))
        for process in (doomed, other):
            process.send_signal(signal.SIGKILL)
            process.wait()
    finishing = [writer(path, text, seed) for seed in range(3)]
    assert [process.wait(60) for process in finishing] == [0, 0, 0]

    stored = read(path)
    for tenant, outbox in outboxes.items():
        assert [each["id"] for each in stored if each["tenant_id"] == tenant] == [each.id for each in outbox]
    assert len(stored) == sum(map(len, outboxes.values()))


async def test_a_feed_that_another_process_keeps_locked_is_unavailable(path: Path) -> None:
    """Stopped in the middle of a write, say. Once it goes on, so does everybody."""
    log, told = JsonLinesAudit(path, patience=0.05), event()
    with path.open("ab") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process has kept it locked"):
            await log.append([told])
        fcntl.flock(stopped, fcntl.LOCK_UN)

        await log.append([told])

    assert ids(path) == [told.id]


async def test_after_a_failing_write_the_feed_is_free_for_others(path: Path) -> None:
    one, other = JsonLinesAudit(path), JsonLinesAudit(path)
    first, second = event(), event()
    with files_no_longer_than(10), pytest.raises(Unavailable):
        await one.append([first])

    await other.append([second, first])

    assert ids(path) == [second.id, first.id]


async def test_a_pipe_is_refused_before_it_can_hold_everything_up(path: Path) -> None:
    os.mkfifo(path)

    with pytest.raises(Unavailable, match="neither a file nor a device; - is standard output"):
        await asyncio.wait_for(JsonLinesAudit(path).append([event()]), 5)


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
