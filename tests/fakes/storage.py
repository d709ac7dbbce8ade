"""A PostgreSQL in memory: the same promises as the real one, and a place to break every single effect."""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from tenant_operator.provisioning.ports import Endpoint, Migration, StoredItem
from tenant_operator.saga.errors import OwnershipConflict, Rejected
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
    """A database. `tag` is None between its creation and its tagging. `schemas`: owner by name. `applied`: checksum by
    version, in the order of application."""

    owner: str
    tag: str | None = None
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
    `create_database`, `configure_database`, `grant_connect`, `create_schema`, `apply_migration`, `drop_schema`,
    `drop_role`, `drop_database`) and the name of what it concerns. What they raise goes through, so that an effect can
    be prevented, or happen and still be reported as lost. `migration_fails` gives the message of a migration that
    cannot be applied, or None.
    """

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        self._endpoint = endpoint or Endpoint("postgres.storage.svc", 5432)
        self._databases: dict[str, FakeDatabase] = {}
        self._roles: dict[str, FakeRole] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
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

    def place_database(self, name: str, *, owner: str, tag: str | None) -> None:
        """A database as somebody else, or a crash, left it."""
        self._databases[name] = FakeDatabase(owner, tag)

    def place_role(self, name: str, *, tag: str | None) -> None:
        """A role as somebody else left it."""
        self._roles[name] = FakeRole(tag, "somebody else's")

    async def prepare(self) -> Sequence[str]:
        return []

    async def inventory(self) -> Sequence[StoredItem]:
        roles = [StoredItem("PostgresRole", name, role.tag) for name, role in self._roles.items() if role.tag]
        owners = {item.name: item.tag for item in roles}
        databases = [
            StoredItem("PostgresDatabase", name, owners[found.owner])
            for name, found in self._databases.items()
            if found.owner in owners
        ]
        return [*roles, *databases]

    async def ensure_database(self, name: str, *, owner: str, password: str, connection_limit: int, tag: str) -> None:
        _check(name, owner)
        async with self._operation(name):
            self._refuse_foreign_role(owner, tag)
            if name in self._databases and not self._owns(name, owner, tag):
                raise _foreign(f'database "{name}"')
            await self._ensure_role(owner, password, tag)
            if name not in self._databases:
                await self._effect(
                    "create_database", name, lambda: self._databases.setdefault(name, FakeDatabase(owner))
                )
            await self._effect(
                "configure_database", name, lambda: self._change(name, tag=tag, connection_limit=connection_limit)
            )

    async def ensure_schema(self, database: str, *, schema: str, role: str, password: str, tag: str) -> None:
        _check(database, schema, role)
        async with self._operation(database):
            self._refuse_foreign_role(role, tag)
            self._require(database)
            if self._databases[database].tag != tag:
                raise _foreign(f'database "{database}"')
            await self._ensure_role(role, password, tag)
            await self._effect("grant_connect", role, lambda: self._grant(role, database))
            owner = self._databases[database].schemas.get(schema)
            if owner is not None and owner != role:
                raise _foreign(f'schema "{schema}" of database "{database}"')
            if owner is None:
                await self._effect("create_schema", schema, lambda: self._add_schema(database, schema, role))

    async def migrate(self, database: str, migrations: Sequence[Migration], *, schema: str, owner: str) -> list[str]:
        _check(database, schema, owner)
        async with self._operation(database):
            self._require(database)
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
                if self._databases[database].schemas.get(schema) != owner:
                    raise Rejected(f"migration {migration.version}: PostgreSQL: permission denied for schema {schema}")
                await self._effect("apply_migration", migration.version, partial(self._record, database, migration))
                done.append(migration.version)
            return done

    async def drop_schema(self, database: str, *, schema: str, role: str, tag: str) -> None:
        _check(database, schema, role)
        async with self._operation(database):
            if role not in self._roles:
                return
            self._refuse_foreign_role(role, tag)
            found = self._databases.get(database)
            if found is not None and found.tag != tag:
                raise _foreign(f'database "{database}"')
            if found is not None and found.schemas.get(schema) == role:
                await self._effect("drop_schema", schema, lambda: self._remove_schema(database, schema))
            await self._effect("drop_role", role, lambda: self._roles.pop(role, None))

    async def drop_database(self, name: str, *, owner: str, tag: str) -> None:
        _check(name, owner)
        async with self._operation(name):
            foreign = name in self._databases and not self._owns(name, owner, tag)
            if name in self._databases and not foreign:
                await self._effect("drop_database", name, lambda: self._databases.pop(name, None))
            if owner in self._roles and self._roles[owner].tag == tag:
                await self._effect("drop_role", owner, lambda: self._roles.pop(owner, None))
            if foreign:
                raise _foreign(f'database "{name}"')
            self._refuse_foreign_role(owner, tag)

    @asynccontextmanager
    async def _operation(self, database: str) -> AsyncIterator[None]:
        """Alone with the database, as the real one is by its advisory lock."""
        async with self._locks[database]:
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

    def _owns(self, database: str, owner: str, tag: str) -> bool:
        found, role = self._databases[database], self._roles.get(owner)
        if found.tag is not None:
            return found.tag == tag
        return role is not None and role.tag == tag and found.owner == owner

    def _refuse_foreign_role(self, name: str, tag: str) -> None:
        if name in self._roles and self._roles[name].tag != tag:
            raise _foreign(f'role "{name}"')

    def _require(self, database: str) -> None:
        if database not in self._databases:
            raise Rejected(f'database "{database}" does not exist')

    def _change(self, name: str, *, tag: str, connection_limit: int) -> None:
        self._databases[name] = replace(self._databases[name], tag=tag, connection_limit=connection_limit)

    def _set_password(self, name: str, password: str) -> None:
        self._roles[name] = replace(self._roles[name], password=password)

    def _grant(self, name: str, database: str) -> None:
        role = self._roles[name]
        self._roles[name] = replace(role, connects_to=role.connects_to | {database})

    def _add_schema(self, database: str, schema: str, role: str) -> None:
        found = self._databases[database]
        self._databases[database] = replace(found, schemas=MappingProxyType({**found.schemas, schema: role}))

    def _remove_schema(self, database: str, schema: str) -> None:
        found = self._databases[database]
        kept = {name: owner for name, owner in found.schemas.items() if name != schema}
        self._databases[database] = replace(found, schemas=MappingProxyType(kept))

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
