"""What the operator needs: nothing begins without the database, and every change is said once."""

import asyncio
import logging

import pytest

from tenant_operator.needs import Needs
from tenant_operator.saga.errors import ActivityError, NotAsked, Rejected, Unavailable
from tenant_operator.start import ToldToEnd, patiently, unless
from tests.fakes.storage import FakeStorage

WRONG = Rejected('PostgreSQL: password authentication failed for user "tenant_admin"')


class Database(FakeStorage):
    """A storage that cannot be used as long as there is an error left."""

    def __init__(self, *errors: ActivityError, doors: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.errors = list(errors)
        self.doors = doors

    async def prepare(self) -> list[str]:
        if self.errors:
            raise self.errors.pop(0)
        return list(self.doors)


class Other:
    """Mail, say."""

    def __init__(self, error: ActivityError | None = None) -> None:
        self.error = error

    async def check(self) -> None:
        if self.error is not None:
            raise self.error


class Pauses:
    """Sleeps that take no time; after `most` of them it is enough."""

    def __init__(self, most: int = 1000) -> None:
        self.slept: list[float] = []
        self._most = most

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) >= self._most:
            raise asyncio.CancelledError


def lines(needs: Needs) -> list[str]:
    return [str(need) for need in needs.report()]


async def test_it_waits_for_the_database_with_growing_pauses() -> None:
    pauses = Pauses()
    needs = Needs(Database(*[Unavailable("PostgreSQL: connection refused")] * 7), {}, sleep=pauses)
    assert [(need.name, need.fault, need.vital) for need in needs.report()] == [("database", "not looked at yet", True)]

    await needs.wait_for_database()

    assert pauses.slept == [1, 2, 4, 8, 15, 15, 15]
    assert lines(needs) == ["database: ok"]


async def test_every_change_is_said_once_and_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    away = Unavailable("PostgreSQL: connection\n refused")
    needs = Needs(Database(away, away, WRONG, WRONG, WRONG), {}, sleep=Pauses())

    with caplog.at_level(logging.INFO):
        await needs.wait_for_database()

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "database: PostgreSQL: connection refused"),
        ("WARNING", f"database: {WRONG.message}"),
        ("INFO", "database: ok"),
    ]
    assert not [record for record in caplog.records if record.exc_info]


async def test_only_the_first_time_the_database_is_vital() -> None:
    storage = Database()
    needs = Needs(storage, {"mail": Other()}, sleep=Pauses(2))
    await needs.wait_for_database()
    storage.errors = [WRONG]

    with pytest.raises(asyncio.CancelledError):
        await needs.keep_looking(600)

    assert [(need.name, bool(need.fault), need.vital) for need in needs.report()] == [
        ("database", True, False),
        ("mail", False, False),
    ]


async def test_the_others_are_looked_at_at_once_and_never_vital() -> None:
    storage, mail = Database(), Other(Unavailable("mail server mail:587: connection refused"))
    pauses = Pauses(1)
    needs = Needs(storage, {"mail": mail, "audit feed": Other()}, sleep=pauses)

    with pytest.raises(asyncio.CancelledError):
        await needs.keep_looking(600)

    assert pauses.slept == [600]
    assert lines(needs) == [
        "database: not looked at yet",
        "mail: mail server mail:587: connection refused",
        "audit feed: ok",
    ]
    assert [need.vital for need in needs.report()] == [True, False, False]


async def test_a_look_that_goes_wrong_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    class Defect:
        async def check(self) -> None:
            raise RuntimeError("a defect")

    needs = Needs(Database(), {"mail": Defect()}, sleep=Pauses(2))

    with pytest.raises(asyncio.CancelledError):
        await needs.keep_looking(600)

    assert lines(needs) == ["database: ok", "mail: the look at it went wrong; the log says why"]
    assert "a defect" in caplog.text


async def test_an_open_door_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    storage = Database(doors=("role a may connect to database b: REVOKE …",))
    needs = Needs(storage, {}, sleep=Pauses(4))

    with pytest.raises(asyncio.CancelledError):
        await needs.keep_looking(600)

    assert [record.getMessage() for record in caplog.records] == [f"database: {storage.doors[0]}"]


# The start.


async def test_patience_ends_with_the_cause() -> None:
    async def ask() -> int:
        raise Unavailable("the SelfSubjectReview: the API server did not answer")

    with pytest.raises(Unavailable, match="did not answer"):
        await patiently(ask, seconds=0)


async def test_patience_is_rewarded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    answers = [Unavailable("away"), Unavailable("away"), None]
    monkeypatch.setattr("tenant_operator.start._PAUSE_SECONDS", 0.001)

    async def ask() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "here"

    assert await patiently(ask) == "here"
    assert len(caplog.records) == 1


async def test_whoever_is_told_to_end_gives_up() -> None:
    told, given_up = asyncio.Event(), False

    async def work() -> None:
        nonlocal given_up
        told.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up = True

    with pytest.raises(ToldToEnd):
        await unless(told, work())
    assert given_up


async def test_work_that_is_done_is_done() -> None:
    async def work() -> int:
        return 7

    assert await unless(asyncio.Event(), work()) == 7


async def test_a_look_that_was_spared_the_server_changes_nothing_that_was_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spared = NotAsked("PostgreSQL has been out of service since 05:00:00 UTC; it is asked every 2 s")
    needs = Needs(Database(WRONG, spared, spared), {}, sleep=Pauses(2))
    with pytest.raises(asyncio.CancelledError):
        await needs.wait_for_database()
    assert lines(needs) == [f"database: {WRONG.message}"]
    assert len(caplog.records) == 1


async def test_the_first_look_that_was_spared_the_server_says_so() -> None:
    spared = NotAsked("PostgreSQL has been out of service since 05:00:00 UTC; it is asked every 2 s")
    needs = Needs(Database(spared), {}, sleep=Pauses(1))
    with pytest.raises(asyncio.CancelledError):
        await needs.wait_for_database()
    assert lines(needs) == [f"database: {spared.message}"]
