"""The audit feed as JSON lines, in a file or on standard output."""

import asyncio
import errno
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from tenant_operator.adapters.failure_cause import root_cause
from tenant_operator.api.tenant import OutboxEvent
from tenant_operator.saga.errors import Unavailable

_KEYS: Final = ("id", "type", "actor_id", "actor_email", "org_id", "tenant_id", "created_at", "data")
_REMEMBERED_IDS: Final = 10_000
_TAIL_BYTES: Final = 8 * 1024 * 1024


class JsonLinesAudit:
    """Appends each event as one line: an object with the keys id, type, actor_id, actor_email, org_id, tenant_id,
    created_at (RFC 3339, UTC) and data.

    `path` is a file that this process alone writes, or "-" for standard output. An event whose id is among the
    last 10,000 is not written again; with a file that holds across restarts. A file is on the disk (fsync) when
    `append` returns; what a crash cut short is completed or taken away before the next line. Failing writes raise
    Unavailable.
    """

    def __init__(self, path: Path | str) -> None:
        self._sink: _Sink = _StandardOutput() if str(path) == "-" else _File(Path(path))
        self._ids: OrderedDict[str, None] | None = None
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
                # How much of it was stored is not known: the file has to tell.
                self._ids = None
                raise Unavailable(f"audit feed {self._sink}: {root_cause(error)}") from error

    def _store(self, events: Iterable[OutboxEvent]) -> None:
        if self._ids is None:
            self._ids = OrderedDict.fromkeys(self._sink.recover())
        fresh: dict[str, OutboxEvent] = {}
        for event in events:
            if event.id in self._ids:
                self._ids.move_to_end(event.id)
            else:
                fresh.setdefault(event.id, event)
        if fresh:
            self._sink.write("".join(map(_line, fresh.values())))
            self._ids.update(dict.fromkeys(fresh))
        while len(self._ids) > _REMEMBERED_IDS:
            self._ids.popitem(last=False)


def _line(event: OutboxEvent) -> str:
    fields = event.model_dump(mode="json")
    return json.dumps({key: fields[key] for key in _KEYS}, separators=(",", ":")) + "\n"


def _id(line: bytes) -> str | None:
    """The id of a stored event; None if the line is not whole."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    identity = event.get("id") if isinstance(event, dict) else None
    return identity if isinstance(identity, str) else None


class _Sink(Protocol):
    """Where lines go."""

    def recover(self) -> Iterable[str]:
        """Mend the end of what is there, and return the ids of its last lines, oldest first."""

    def write(self, lines: str) -> None:
        """Append whole lines, and return when they last."""

    def check(self) -> None:
        """Raise OSError if nothing could be appended."""


class _StandardOutput:
    """The log of the container; nothing can be read back from it."""

    def __str__(self) -> str:
        return "on standard output"

    def recover(self) -> Iterable[str]:
        return ()

    def write(self, lines: str) -> None:
        sys.stdout.write(lines)
        sys.stdout.flush()

    def check(self) -> None:
        pass


class _File:
    """A file, opened anew for each write so that it may be rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def recover(self) -> Iterable[str]:
        # Nothing yet, or a device: there is no end to read back from.
        if not self._path.is_file():
            return ()
        with self._path.open("r+b") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
            file.seek(start)
            *lines, rest = file.read().split(b"\n")
            if rest and _id(rest):
                file.write(b"\n")
                lines.append(rest)
            elif rest:
                # Nobody was told that this event is stored: it is delivered again.
                file.seek(-len(rest), os.SEEK_END)
                file.truncate()
            file.flush()
            # The lines found count as stored from now on, and the crash may have come before their fsync.
            os.fsync(file.fileno())
        return [identity for line in lines[-_REMEMBERED_IDS:] if (identity := _id(line))]

    def write(self, lines: str) -> None:
        is_new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(lines.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            self._fsync_folder()

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
