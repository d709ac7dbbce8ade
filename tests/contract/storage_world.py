"""Storage and the means to look behind it, for the fake and for a real server under two kinds of administrator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.ports import Storage
from tests.fakes.storage import FakeStorage

COMMENT = "intelliauth.io/tenant-uid="


@dataclass(frozen=True)
class Description:
    """A database as seen from outside; `comment` is None if it has none."""

    owner: str
    comment: str | None
    connection_limit: int


class World(Protocol):
    """Storage under test. `prefix` starts the names of a test's databases and roles."""

    prefix: str

    @property
    def storage(self) -> Storage: ...

    async def databases(self) -> dict[str, Description]: ...
    async def roles(self) -> set[str]: ...
    async def schemas(self, database: str) -> set[str]: ...
    async def applied(self, database: str) -> list[str]: ...
    async def admits(self, database: str, role: str, password: str) -> bool: ...
    async def leave_unfinished(self, database: str) -> None:
        """Leave the database as a crash right after its creation would."""

    async def place_database(self, name: str, *, comment: str | None) -> None:
        """A database that somebody else has made."""

    async def place_role(self, name: str, *, tag: str | None) -> None:
        """A role that somebody else has made."""

    async def give_away(self, database: str) -> None:
        """Make the database somebody else's."""


def _prefix() -> str:
    return f"t{uuid4().hex[:10]}"


@dataclass
class FakeWorld:
    """The fake."""

    prefix: str = field(default_factory=_prefix)
    storage: FakeStorage = field(default_factory=FakeStorage)

    async def databases(self) -> dict[str, Description]:
        return {
            name: Description(found.owner, found.comment, found.connection_limit)
            for name, found in self.storage.databases.items()
        }

    async def roles(self) -> set[str]:
        return set(self.storage.roles)

    async def schemas(self, database: str) -> set[str]:
        return set(self.storage.databases[database].schemas)

    async def applied(self, database: str) -> list[str]:
        return list(self.storage.databases[database].applied)

    async def admits(self, database: str, role: str, password: str) -> bool:
        return self.storage.admits(database, role, password)

    async def leave_unfinished(self, database: str) -> None:
        self.storage.place_database(database, owner=self.storage.databases[database].owner)

    async def place_database(self, name: str, *, comment: str | None) -> None:
        self.storage.place_database(name, owner="somebody", comment=comment)

    async def place_role(self, name: str, *, tag: str | None) -> None:
        self.storage.place_role(name, tag=tag)

    async def give_away(self, database: str) -> None:
        self.storage.place_database(database, owner="somebody")


@dataclass
class PostgresWorld:
    """A real server; `dsn` is its superuser's, `administrator` the operator's, who works in `maintenance`."""

    dsn: str
    administrator: str
    maintenance: str
    prefix: str
    storage: PostgresStorage

    def as_role(self, database: str, role: str, password: str) -> str:
        """The connection string of another role."""
        return make_conninfo(self.dsn, dbname=database, user=role, password=password)

    async def query(self, statement: str, *parameters: object, database: str | None = None) -> list[tuple[Any, ...]]:
        """The rows of a statement that the superuser runs; none for a command."""
        dsn = self.dsn if database is None else make_conninfo(self.dsn, dbname=database)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode(), parameters or None)
            return await cursor.fetchall() if cursor.description else []

    async def command(self, template: str, *names: str, **literals: object) -> None:
        """Run a command of the superuser with identifiers and literals filled in."""
        values = {key: sql.Literal(value) for key, value in literals.items()}
        filled = sql.SQL(template).format(*map(sql.Identifier, names), **values)
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(filled)

    async def databases(self) -> dict[str, Description]:
        rows = await self.query(
            "SELECT datname, pg_get_userbyid(datdba)::text, shobj_description(oid, 'pg_database'), datconnlimit"
            " FROM pg_database WHERE starts_with(datname, %s)",
            self.prefix,
        )
        return {
            name: Description(owner, comment and comment.removeprefix(COMMENT), limit)
            for name, owner, comment, limit in rows
        }

    async def roles(self) -> set[str]:
        rows = await self.query("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", self.prefix)
        return {name for (name,) in rows}

    async def schemas(self, database: str) -> set[str]:
        rows = await self.query(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"
            " AND nspname NOT IN ('public', 'information_schema')",
            database=database,
        )
        return {name for (name,) in rows}

    async def applied(self, database: str) -> list[str]:
        rows = await self.query(
            "SELECT version FROM identity.schema_migrations ORDER BY applied_at, version", database=database
        )
        return [version for (version,) in rows]

    async def admits(self, database: str, role: str, password: str) -> bool:
        try:
            await (await psycopg.AsyncConnection.connect(self.as_role(database, role, password))).close()
        except psycopg.OperationalError:
            return False
        return True

    async def leave_unfinished(self, database: str) -> None:
        await self.command("COMMENT ON DATABASE {} IS NULL", database)
        await self.command("ALTER DATABASE {} CONNECTION LIMIT 0", database)

    async def place_database(self, name: str, *, comment: str | None) -> None:
        await self.command("CREATE DATABASE {} TEMPLATE template0", name)
        text = None if comment is None else COMMENT + comment
        await self.command("COMMENT ON DATABASE {} IS {text}", name, text=text)

    async def place_role(self, name: str, *, tag: str | None) -> None:
        await self.command("CREATE ROLE {} LOGIN", name)
        await self.command("COMMENT ON ROLE {} IS {tag}", name, tag=None if tag is None else COMMENT + tag)

    async def give_away(self, database: str) -> None:
        await self.command("ALTER DATABASE {} OWNER TO CURRENT_USER", database)


@asynccontextmanager
async def postgres_world(dsn: str, *, superuser: bool) -> AsyncIterator[PostgresWorld]:
    """A world on a real server, whose databases and roles are gone at the end. Without `superuser` the operator logs in
    as a role with CREATEDB and CREATEROLE only, as managed servers offer it."""
    prefix = _prefix()
    admin, password = f"admin_{prefix}", uuid4().hex
    administrator = dsn if superuser else make_conninfo(dsn, user=admin, password=password)
    maintenance = f"ops_{prefix}"
    storage = PostgresStorage(administrator, maintenance=maintenance)
    world = PostgresWorld(dsn, administrator, maintenance, prefix, storage)
    if not superuser:
        await world.command("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {password}", admin, password=password)
        # An operator that is a superuser may have closed it to those who came later.
        await world.command("GRANT CONNECT ON DATABASE postgres TO {}", admin)
    try:
        yield world
    finally:
        await world.storage.close()
        await world.command("DROP DATABASE IF EXISTS {} WITH (FORCE)", maintenance)
        for database in await world.databases():
            await world.command("DROP DATABASE {} WITH (FORCE)", database)
        for role in [*await world.roles(), *([] if superuser else [admin])]:
            await world.command("DROP OWNED BY {}", role)
            await world.command("DROP ROLE {}", role)
