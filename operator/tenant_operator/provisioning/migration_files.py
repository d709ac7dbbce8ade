"""The migrations that ship with the operator, read and checked once at start."""

import hashlib
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from tenant_operator.ports import Migration

_FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9]+(_[a-z0-9]+)*\.sql")
_NOT_MIGRATIONS = {"__init__.py", "__pycache__"}


class MigrationFileError(ValueError):
    """A folder of migrations cannot be used; the message names the file and what is wrong with it."""


def load_migrations(folder: Traversable | Path | None = None) -> tuple[Migration, ...]:
    """The migrations of a folder (by default those shipped), in order. Hidden files are ignored; anything else that is
    not `NNNN_some_words.sql` with its own number and content is a MigrationFileError, because a file that is silently
    left out would be missed in production."""
    source = folder if folder is not None else resources.files("tenant_operator.provisioning.migrations")
    if not source.is_dir():
        raise MigrationFileError(f"{source}: no such folder of migrations")
    migrations: list[Migration] = []
    numbers: dict[str, str] = {}
    for file in sorted(source.iterdir(), key=lambda each: each.name):
        if file.name.startswith(".") or file.name in _NOT_MIGRATIONS:
            continue
        match = _FILE_NAME.fullmatch(file.name)
        if match is None:
            raise MigrationFileError(f"{file.name}: a migration is named like 0001_some_words.sql")
        other = numbers.setdefault(match["number"], file.name)
        if other != file.name:
            raise MigrationFileError(f"{file.name}: the number {match['number']} is taken by {other}")
        migrations.append(_read(file))
    if not migrations:
        raise MigrationFileError(f"{source}: no migrations in this folder")
    return tuple(migrations)


def _read(file: Traversable | Path) -> Migration:
    content = file.read_bytes()
    try:
        sql = content.decode()
    except UnicodeDecodeError as error:
        raise MigrationFileError(f"{file.name}: not UTF-8 at byte {error.start}") from None
    if not sql.strip():
        raise MigrationFileError(f"{file.name}: the file is empty")
    if "\0" in sql:
        raise MigrationFileError(f"{file.name}: contains a NUL character")
    return Migration(version=file.name, sql=sql, checksum=hashlib.sha256(content).hexdigest())
