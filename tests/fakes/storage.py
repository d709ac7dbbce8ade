"""A PostgreSQL in memory: the same promises as the real one, and a place to break every single effect."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from tenant_operator.ports import Endpoint, Migration, StoredItem
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tests.fakes.hooks import Hook, nothing_happens

_RAISE = re.compile(r"^DO\b.*?\bRAISE\s+EXCEPTION\s+'([^']*)'", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class FakeRole:
    """A login role, and the databases other than its own that it may connect to."""

    tag: str | None
    password: str
    connects_to: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FakeDatabase:
    """A database; it is its owner's, the comment is for people. `schemas`: owner by name. `applied`: checksum by
    version, in the order of application."""

    owner: str
    comment: str | None = None
    connection_limit: int = 0
    schemas: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    applied: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def raise_statement(migration: Migration) -> str | None:
    """PostgreSQL's message for a migration with a DO block that raises; None lets it pass."""
    match = _RAISE.search(migration.sql)
    return None if match is None else match[1]


class FakeStorage:
    """Storage in memory.

    `before` and `after` are awaited around every effect with its name (`connect`, `create_role`, `set_password`,
    `create_database`, `configure_database`, `grant_connect`, `create_schema`, `apply_migration`, `drop_role`,
    `drop_database`) and the name of what it concerns. What they raise goes through, so that an effect can
    be prevented, or happen and still be reported as lost. `permits` is entered around each operation, as with the real
    one. `migration_fails` gives the message of a migration that cannot be applied, or None.
    """

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        self._endpoint = endpoint or Endpoint("postgres.storage.svc", 5432)
        self._databases: dict[str, FakeDatabase] = {}
        self._roles: dict[str, FakeRole] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.permits: AbstractAsyncContextManager[None] = nullcontext()
        self.before: Hook = nothing_happens
        self.after: Hook = nothing_happens
        self.migration_fails: Callable[[Migration], str | None] = raise_statement

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    @property
    def databases(self) -> Mapping[str, FakeDatabase]:
        """What exists, read-only."""
        return MappingProxyType(self._databases)

    @property
    def roles(self) -> Mapping[str, FakeRole]:
        """What exists, read-only."""
        return MappingProxyType(self._roles)

    def admits(self, database: str, role: str, password: str) -> bool:
        """Whether a client could log in to `database` as `role`."""
        found = self._roles.get(role)
        return (
            database in self._databases
            and found is not None
            and found.password == password
            and (self._databases[database].owner == role or database in found.connects_to)
        )

    def place_database(self, name: str, *, owner: str, comment: str | None = None) -> None:
        """A database as somebody else, or a crash, left it."""
        self._databases[name] = FakeDatabase(owner, comment)

    def place_role(self, name: str, *, tag: str | None) -> None:
        """A role as somebody else left it."""
        self._roles[name] = FakeRole(tag, "somebody else's")

    async def prepare(self) -> Sequence[str]:
        return []

    async def inventory(self, tag: str | None = None) -> Sequence[StoredItem]:
        roles = [StoredItem("PostgresRole", name, role.tag) for name, role in self._roles.items() if role.tag]
        owners = {item.name: item.tag for item in roles}
        databases = [
            StoredItem("PostgresDatabase", name, owners[found.owner])
            for name, found in self._databases.items()
            if found.owner in owners
        ]
        return [item for item in (*roles, *databases) if tag in (None, item.tag)]

    async def ensure_database(self, name: str, *, owner: str, password: str, connection_limit: int, tag: str) -> None:
        _check(name, owner)
        async with self._operation(name):
            self._refuse_foreign_role(owner, tag)
            self._refuse_foreign_database(name, tag)
            await self._ensure_role(owner, password, tag)
            if name not in self._databases:
                await self._effect(
                    "create_database", name, lambda: self._databases.setdefault(name, FakeDatabase(owner))
                )
            await self._effect(
                "configure_database", name, lambda: self._change(name, comment=tag, connection_limit=connection_limit)
            )

    async def ensure_schema(
        self, database: str, *, schema: str, role: str, password: str, connection_limit: int, tag: str
    ) -> None:
        _check(database, schema, role)
        async with self._operation(database):
            self._refuse_foreign_role(role, tag)
            self._require(database, tag)
            await self._ensure_role(role, password, tag)
            await self._effect("grant_connect", role, lambda: self._grant(role, database))
            owner = self._databases[database].schemas.get(schema)
            if owner is not None and owner != role:
                raise _foreign(f'schema "{schema}" of database "{database}"')
            if owner is None:
                await self._effect("create_schema", schema, lambda: self._add_schema(database, schema, role))

    async def migrate(
        self, database: str, migrations: Sequence[Migration], *, schema: str, role: str, password: str, tag: str
    ) -> list[str]:
        _check(database, schema, role)
        async with self._operation(database):
            self._require(database, tag)
            if not self.admits(database, role, password):
                raise Unavailable(f'PostgreSQL: password authentication failed for user "{role}"')
            if self._databases[database].schemas.get(schema) != role:
                raise Rejected(f"PostgreSQL: permission denied for schema {schema}")
            ordered = sorted(migrations, key=lambda migration: migration.version)
            for migration in ordered:
                recorded = self._databases[database].applied.get(migration.version, migration.checksum)
                if recorded != migration.checksum:
                    raise Rejected(f"migration {migration.version} has changed since it was applied")
            done: list[str] = []
            for migration in ordered:
                if migration.version in self._databases[database].applied:
                    continue
                cause = self.migration_fails(migration)
                if cause is not None:
                    raise Rejected(f"migration {migration.version}: PostgreSQL: {cause}")
                await self._effect("apply_migration", migration.version, partial(self._record, database, migration))
                done.append(migration.version)
            return done

    async def release(self, database: str, *, role: str, tag: str) -> Sequence[str]:
        _check(database, role)
        dropped = []
        async with self._operation(database):
            found, home = self._roles.get(role), self._databases.get(database)
            if found is not None and found.tag is None:
                raise Rejected(f'role "{role}" has the name of this tenant\'s, but its mark is gone')
            ours = found is not None and found.tag == tag
            is_home = home is not None and self._tag_of(home.owner) == tag
            if is_home:
                await self._effect("drop_database", database, lambda: self._databases.pop(database, None))
                dropped.append(f"database {database}")
            elif home is not None and (ours or home.comment == tag):
                raise Rejected(f'database "{database}" belongs to role "{home.owner}", which is not this tenant\'s')
            if ours:
                await self._effect("drop_role", role, lambda: self._roles.pop(role, None))
                dropped.append(f"role {role}")
            else:
                self._refuse_foreign_role(role, tag)
            if home is not None and not is_home:
                raise _foreign(f'database "{database}"')
        return dropped

    @asynccontextmanager
    async def _operation(self, database: str) -> AsyncIterator[None]:
        """Alone with the database, as the real one is by its advisory lock."""
        async with self.permits, self._locks[database]:
            await self._effect("connect", database, lambda: None)
            yield

    async def _effect(self, op: str, name: str, change: Callable[[], object]) -> None:
        await self.before(op, name)
        change()
        await self.after(op, name)

    async def _ensure_role(self, name: str, password: str, tag: str) -> None:
        if name not in self._roles:
            await self._effect("create_role", name, lambda: self._roles.setdefault(name, FakeRole(tag, password)))
        else:
            await self._effect("set_password", name, lambda: self._set_password(name, password))

    def _tag_of(self, role: str) -> str | None:
        return self._roles[role].tag if role in self._roles else None

    def _refuse_foreign_database(self, name: str, tag: str) -> None:
        if name in self._databases and self._tag_of(self._databases[name].owner) != tag:
            raise _foreign(f'database "{name}"')

    def _refuse_foreign_role(self, name: str, tag: str) -> None:
        if name in self._roles and self._roles[name].tag != tag:
            raise _foreign(f'role "{name}"')

    def _require(self, database: str, tag: str) -> None:
        if database not in self._databases:
            raise Rejected(f'database "{database}" does not exist')
        self._refuse_foreign_database(database, tag)

    def _change(self, name: str, *, comment: str, connection_limit: int) -> None:
        self._databases[name] = replace(self._databases[name], comment=comment, connection_limit=connection_limit)

    def _set_password(self, name: str, password: str) -> None:
        self._roles[name] = replace(self._roles[name], password=password)

    def _grant(self, name: str, database: str) -> None:
        role = self._roles[name]
        self._roles[name] = replace(role, connects_to=role.connects_to | {database})

    def _add_schema(self, database: str, schema: str, role: str) -> None:
        found = self._databases[database]
        self._databases[database] = replace(found, schemas=MappingProxyType({**found.schemas, schema: role}))

    def _record(self, database: str, migration: Migration) -> None:
        found = self._databases[database]
        applied = {**found.applied, migration.version: migration.checksum}
        self._databases[database] = replace(found, applied=MappingProxyType(applied))


def _check(*identifiers: str) -> None:
    for identifier in identifiers:
        if not identifier or "\0" in identifier or len(identifier.encode()) > 63:
            raise Rejected(f"{identifier!r} cannot be a PostgreSQL name: 1 to 63 bytes, no NUL")


def _foreign(what: str) -> OwnershipConflict:
    return OwnershipConflict(f"{what} exists and does not belong to this tenant")
