"""The audit feed as JSON lines, in a file or on standard output."""

import asyncio
import errno
import fcntl
import json
import os
import stat
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, Protocol

from tenant_operator.adapters.failure_cause import root_cause
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.saga.errors import Unavailable

_KEYS: Final = ("id", "type", "actor_id", "actor_email", "org_id", "tenant_id", "created_at", "data")
_REMEMBERED_IDS: Final = 10_000
_TAIL_BYTES: Final = 8 * 1024 * 1024
_MARK_BYTES: Final = 512
_LOCK_RETRY_SECONDS: Final = 0.005


class JsonLinesAudit:
    """Appends each event as one line: an object with the keys id, type, actor_id, actor_email, org_id, tenant_id,
    created_at (RFC 3339, UTC) and data.

    `path` is a file, which other processes may append to in the same way, or "-" for standard output. An event whose
    id is among the last 10,000 is not written again; with a file that holds across restarts and for all who write to
    it, while standard output cannot know what others wrote. A file is on the disk (fsync) when `append` returns; what
    a crash cut short is completed or taken away before the next line. The file may be moved away: the next line begins
    a new one. Failing writes raise Unavailable.
    """

    def __init__(self, path: Path | str, *, patience: float = 10.0) -> None:
        """`patience`: seconds that another process may keep the file locked."""
        self._sink: _Sink = _StandardOutput() if str(path) == "-" else _File(Path(path), patience)
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._gathered: list[OutboxEvent] = []
        self._commit: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def append(self, events: Sequence[OutboxEvent]) -> None:
        """Returns once all of `events` are stored. Callers that wait at the same time share one write and one fsync."""
        if not events:
            return
        self._gathered.extend(events)
        if self._commit is None:
            self._commit = asyncio.create_task(self._store_gathered())
        # A caller that gives up must not tear down the write that others wait for.
        await asyncio.shield(self._commit)

    async def check(self) -> None:
        """Returns if events could be appended. Raises Unavailable."""
        try:
            await asyncio.to_thread(self._sink.check)
        except OSError as error:
            raise Unavailable(f"audit feed {self._sink}: {root_cause(error)}") from error

    async def _store_gathered(self) -> None:
        async with self._lock:
            events, self._gathered, self._commit = self._gathered, [], None
            try:
                await asyncio.to_thread(self._store, events)
            except OSError as error:
                raise Unavailable(f"audit feed {self._sink}: {root_cause(error)}") from error

    def _store(self, events: Iterable[OutboxEvent]) -> None:
        with self._sink.turn() as stored:
            self._remember(stored)
            fresh: dict[str, OutboxEvent] = {}
            for event in events:
                if event.id not in self._ids:
                    fresh.setdefault(event.id, event)
            self._sink.write("".join(map(_line, fresh.values())))
            self._remember(fresh)

    def _remember(self, ids: Iterable[str]) -> None:
        for identity in ids:
            self._ids[identity] = None
            self._ids.move_to_end(identity)
        while len(self._ids) > _REMEMBERED_IDS:
            self._ids.popitem(last=False)


def _line(event: OutboxEvent) -> str:
    fields = event.model_dump(mode="json")
    return json.dumps({key: fields[key] for key in _KEYS}, separators=(",", ":")) + "\n"


def _id(line: bytes) -> str | None:
    """The id of a stored event; None if the line is not whole."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    identity = event.get("id") if isinstance(event, dict) else None
    return identity if isinstance(identity, str) else None


class _Sink(Protocol):
    """Where lines go."""

    def turn(self) -> AbstractContextManager[Sequence[str]]:
        """While it lasts nobody else writes. Gives the ids, oldest first, of what was stored since the last turn, or at
        first of the last lines."""

    def write(self, lines: str) -> None:
        """Append whole lines within a turn, and return when they, and all that was there before them, last."""

    def check(self) -> None:
        """Raise OSError if nothing could be appended."""


class _StandardOutput:
    """The log of the container; nothing can be read back from it."""

    def __str__(self) -> str:
        return "on standard output"

    def turn(self) -> AbstractContextManager[Sequence[str]]:
        return nullcontext(())

    def write(self, lines: str) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()

    def check(self) -> None:
        pass


class _File:
    """A file under an advisory lock (flock). Whoever holds it reads what others wrote since its own last turn, never
    more than the end of the file, and writes then.

    The file stays open between turns: should it be moved away meanwhile, what others put into it before is still read.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._opened: int | None = None
        self._read = 0
        """Up to where its lines are known."""
        self._mark = b""
        """What stands right before that; other content of a file that was emptied and has grown again differs."""

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def turn(self) -> Iterator[Sequence[str]]:
        try:
            yield self._others()
        except BaseException:
            self._close()  # and with it goes the lock; how much was written is for the file to tell
            raise
        if self._is_regular():
            fcntl.flock(self._open(), fcntl.LOCK_UN)

    def _others(self) -> list[str]:
        """Lock the file of that name, and return what was stored since the last turn."""
        stored: list[str] = []
        while self._is_regular():  # a device has no end to read back from
            self._lock()
            stored += self._catch_up(self._open())
            if self._is_in_place():
                break
            self._close()
        return stored

    def write(self, lines: str) -> None:
        file = self._open()
        unwritten = lines.encode("ascii")
        while unwritten:
            unwritten = unwritten[os.write(file, unwritten) :]
        if self._is_regular():
            # Also of what others wrote: they may have been killed before they came to it.
            os.fsync(file)
            self._note(file)

    def _open(self) -> int:
        if self._opened is None:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            kind = os.fstat(file).st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISCHR(kind):
                os.close(file)
                raise Unavailable(f"audit feed {self}: it is neither a file nor a device; - is standard output")
            self._opened, self._read, self._mark = file, 0, b""
            if stat.S_ISREG(kind):
                self._fsync_folder()
        return self._opened

    def _is_regular(self) -> bool:
        return stat.S_ISREG(os.fstat(self._open()).st_mode)

    def _close(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def _lock(self) -> None:
        due = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > due:
                    raise Unavailable(
                        f"audit feed {self}: another process has kept it locked for {self._patience:g} s"
                    ) from None
                time.sleep(_LOCK_RETRY_SECONDS)

    def _catch_up(self, file: int) -> list[str]:
        """Mend the end, and return the ids of the lines that are not known yet."""
        size = os.fstat(file).st_size
        is_known = os.pread(file, len(self._mark), self._read - len(self._mark)) == self._mark
        start = max(self._read if is_known else 0, size - _TAIL_BYTES)
        *lines, rest = os.pread(file, size - start, start).split(b"\n")
        # Nobody writes now: an unfinished line is of a process that is gone.
        if rest and _id(rest):
            os.write(file, b"\n")
            lines.append(rest)
        elif rest:
            # Nobody was told that this event is stored: it is delivered again.
            os.ftruncate(file, size - len(rest))
        self._note(file)
        return [identity for line in lines[-_REMEMBERED_IDS:] if (identity := _id(line))]

    def _note(self, file: int) -> None:
        """All there is of the file is known."""
        self._read = os.fstat(file).st_size
        length = min(self._read, _MARK_BYTES)
        self._mark = os.pread(file, length, self._read - length)

    def _is_in_place(self) -> bool:
        """Whether it is still the one of that name."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._open()))
        except FileNotFoundError:
            return False

    def check(self) -> None:
        if self._path.exists():
            with self._path.open("ab"):
                return
        # Not made here: the first line is stored when its file's entry in the folder is on the disk as well.
        if not self._path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path.parent))
        if not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._path.parent))

    def _fsync_folder(self) -> None:
        # A new file outlives a power cut only if its entry in the folder does.
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
