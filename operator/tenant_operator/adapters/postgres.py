"""The platform's PostgreSQL: a database and roles for each tenant, and the migrations in between.

Inside a tenant's database the operator is never more than that tenant's own role; see `postgres_connections`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

import psycopg
from psycopg import sql

from tenant_operator.adapters import postgres_release
from tenant_operator.adapters.postgres_catalog import (
    MARK,
    absent,
    check_identifiers,
    find_database,
    find_role,
    foreign,
    mark,
    refuse_foreign_database,
    refuse_foreign_role,
)
from tenant_operator.adapters.postgres_connections import RIGHTS_MISSING, Connection, Connections, failure, lock, row
from tenant_operator.adapters.postgres_isolation import close_doors
from tenant_operator.ports import Endpoint, Migration, StoredItem
from tenant_operator.saga.errors import Rejected

MAINTENANCE: Final = "tenant_operator"
"""The database that the operator works in, if no setting names another."""

_OLDEST: Final = 150000
_RECORDED: Final = 10_000
"""Records of migrations that are read: what is in a tenant's database may be of any size."""
_MIGRATION_SETTINGS: Final = {"lock_timeout": "10s", "statement_timeout": "240s"}


class PostgresStorage:
    """Storage on a PostgreSQL 15 or later, administered by a superuser or by a role with CREATEDB and CREATEROLE."""

    def __init__(
        self,
        dsn: str,
        *,
        maintenance: str = MAINTENANCE,
        close_others: bool = True,
        advertised_host: str | None = None,
        advertised_port: int | None = None,
        connect_timeout: int = 5,
        connections: int = 10,
        permits: AbstractAsyncContextManager[None] | None = None,
    ) -> None:
        """`dsn`: the administrator's connection string; the database that it names serves to make `maintenance`, the
        one that the operator works in. `close_others`: whether every other database is closed to the public.
        `advertised_*`: where workloads reach the server, if not where the operator does. `connect_timeout` in seconds.
        `connections`: how many operations run at once, and how many sessions there are inside tenants' databases.
        `permits`, in place of that bound of the operations, is entered around each, and may refuse."""
        check_identifiers(maintenance)
        self._connections = Connections(
            dsn,
            maintenance=maintenance,
            connect_timeout=connect_timeout,
            permits=permits or asyncio.Semaphore(connections),
            visits=asyncio.Semaphore(connections),
        )
        self._close_others = close_others
        own = self._connections.endpoint
        self._endpoint = replace(own, host=advertised_host or own.host, port=advertised_port or own.port)

    @property
    def endpoint(self) -> Endpoint:
        """Host and port for the tenants' workloads."""
        return self._endpoint

    async def check(self) -> None:
        """Returns if the server lets the administrator in; takes no permit. Raises Outage."""
        await self._connections.check()

    async def close(self) -> None:
        """Close idle connections."""
        await self._connections.close()

    async def prepare(self) -> Sequence[str]:
        """See `ports.Storage`."""
        async with self._connections.operation("prepare") as admin:
            if admin.info.server_version < _OLDEST:
                raise Rejected(f"PostgreSQL 15 or later is needed; this is {admin.info.server_version // 10000}")
            rights = await row(
                admin,
                "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user",
                [],
            )
            superuser, databases, roles = rights or (False, False, False)
            if not superuser and not (databases and roles):
                raise Rejected(RIGHTS_MISSING)
            return await close_doors(admin, close=self._close_others)

    async def inventory(self, tag: str | None = None) -> Sequence[StoredItem]:
        """See `ports.Storage`. A database is its owner's; a role's tag is its comment, which no tenant can write."""
        async with self._connections.operation(f"inventory of {tag}") as admin:
            # The comments are gone through once: the functions that read one would do it for each role.
            cursor = await admin.execute(
                "WITH tagged AS (SELECT objoid, description FROM pg_catalog.pg_shdescription"
                " WHERE classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass"
                " AND CASE WHEN %(tag)s::pg_catalog.text IS NULL THEN pg_catalog.starts_with(description, %(prefix)s)"
                " ELSE description = %(prefix)s || %(tag)s END)"
                " SELECT 'PostgresRole', rolname::pg_catalog.text, description"
                " FROM pg_catalog.pg_roles JOIN tagged ON objoid = oid UNION ALL"
                " SELECT 'PostgresDatabase', datname::pg_catalog.text, description"
                " FROM pg_catalog.pg_database JOIN tagged ON objoid = datdba",
                {"prefix": MARK, "tag": tag},
            )
            found = await cursor.fetchall()
        return [StoredItem(kind, name, comment.removeprefix(MARK)) for kind, name, comment in found]

    async def ensure_database(self, name: str, *, owner: str, password: str, connection_limit: int, tag: str) -> None:
        """See `ports.Storage`."""
        check_identifiers(name, owner)
        async with self._connections.operation(name) as admin:
            role, database = await find_role(admin, owner), await find_database(admin, name)
            refuse_foreign_role(owner, role, tag)
            refuse_foreign_database(database, tag)
            await _ensure_role(
                admin, owner, password=password, connection_limit=connection_limit, tag=tag, create=role is None
            )
            if database is not None and database.is_invalid:
                await postgres_release.drop_database(self._connections, admin, database)
                database = None
            identifiers = {"name": sql.Identifier(name), "owner": sql.Identifier(owner)}
            if database is None:
                # Template0 is never in use, so databases can be made in parallel; with a limit of 0 nobody gets in
                # before the public is shut out.
                await admin.execute(
                    sql.SQL(
                        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' OWNER {owner} CONNECTION LIMIT 0"
                    ).format(**identifiers)
                )
            async with admin.transaction():
                await admin.execute(sql.SQL("REVOKE ALL ON DATABASE {name} FROM PUBLIC").format(**identifiers))
                # For people: whose it is is told by its owner.
                await admin.execute(
                    sql.SQL("COMMENT ON DATABASE {name} IS {tag}").format(**identifiers, tag=sql.Literal(mark(tag)))
                )
                await admin.execute(
                    sql.SQL("ALTER DATABASE {name} ALLOW_CONNECTIONS true CONNECTION LIMIT {limit}").format(
                        **identifiers, limit=sql.Literal(connection_limit)
                    )
                )

    async def ensure_schema(
        self, database: str, *, schema: str, role: str, password: str, connection_limit: int, tag: str
    ) -> None:
        """See `ports.Storage`. A database that is not there, or another tenant's, is refused."""
        check_identifiers(database, schema, role)
        identifiers = {
            "database": sql.Identifier(database),
            "role": sql.Identifier(role),
            "schema": sql.Identifier(schema),
        }
        async with self._connections.operation(database) as admin:
            refuse_foreign_role(role, existing := await find_role(admin, role), tag)
            home = await find_database(admin, database)
            if home is None:
                raise absent(database)
            refuse_foreign_database(home, tag)
            await _ensure_role(
                admin, role, password=password, connection_limit=connection_limit, tag=tag, create=existing is None
            )
            await admin.execute(sql.SQL("GRANT CONNECT, CREATE ON DATABASE {database} TO {role}").format(**identifiers))
            await admin.execute(
                sql.SQL("ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}").format(**identifiers)
            )
            async with self._connections.inside(database, role=role, password=password) as own:
                found = await row(
                    own,
                    "SELECT pg_catalog.pg_get_userbyid(nspowner)::pg_catalog.text FROM pg_catalog.pg_namespace"
                    " WHERE nspname = %s",
                    [schema],
                )
                if found is None:
                    await own.execute(sql.SQL("CREATE SCHEMA {schema}").format(**identifiers))
                elif found[0] != role:
                    raise foreign(f'schema "{schema}" of database "{database}"')
            await admin.execute(sql.SQL("REVOKE CREATE ON DATABASE {database} FROM {role}").format(**identifiers))

    async def migrate(
        self, database: str, migrations: Sequence[Migration], *, schema: str, role: str, password: str, tag: str
    ) -> list[str]:
        """See `ports.Storage`."""
        check_identifiers(database, schema, role)
        async with self._connections.operation(database) as admin:
            home = await find_database(admin, database)
        if home is None:
            raise absent(database)
        refuse_foreign_database(home, tag)
        path = f"{sql.Identifier(schema).as_string()}, pg_temp"
        async with self._connections.visit(
            database, role=role, password=password, **_MIGRATION_SETTINGS, search_path=path
        ) as own:
            await lock(own, "migrations")
            recorded = await _recorded(own, schema)
            ordered = sorted(migrations, key=lambda migration: migration.version)
            for migration in ordered:
                if recorded.get(migration.version, migration.checksum) != migration.checksum:
                    raise Rejected(
                        f'migration {migration.version} has changed since it was applied to database "{database}"; '
                        "restore the file and put the change into a new one"
                    )
            missing = [migration for migration in ordered if migration.version not in recorded]
            for migration in missing:
                await _apply(own, migration, schema)
            return [migration.version for migration in missing]

    async def release(self, database: str, *, role: str, tag: str) -> Sequence[str]:
        """See `ports.Storage`."""
        check_identifiers(database, role)
        dropped = []
        async with self._connections.operation(database) as admin:
            found, home = await find_role(admin, role), await find_database(admin, database)
            if found is not None and found.tag is None:
                raise Rejected(
                    f"role \"{role}\" has the name of this tenant's, but its mark is gone; if it is the tenant's: "
                    f"COMMENT ON ROLE \"{role}\" IS '{mark(tag)}'; otherwise rename it"
                )
            ours = found is not None and found.tag == tag
            if home is not None and home.owner.tag == tag:
                await postgres_release.drop_database(self._connections, admin, home)
                dropped.append(f"database {database}")
            elif home is not None and (ours or home.comment == tag):
                raise Rejected(
                    f'database "{database}" belongs to role "{home.owner.name}", which is not this tenant\'s; '
                    f'if its content may go: ALTER DATABASE "{database}" OWNER TO "{role}"; otherwise rename it'
                )
            if found is not None and ours:
                await postgres_release.drop_role(self._connections, admin, found)
                dropped.append(f"role {role}")
            refuse_foreign_role(role, None if ours else found, tag)
            refuse_foreign_database(home, tag)
        return dropped


async def _ensure_role(
    connection: Connection, name: str, *, password: str, connection_limit: int, tag: str, create: bool
) -> None:
    """Create or update a login role; the administrator becomes a member, to act for it. The limit is the role's,
    because the owner of a database may change that of the database."""
    role = sql.Identifier(name)
    secret = sql.Literal(postgres_release.verifier(connection, name, password))
    limit = sql.Literal(connection_limit)
    async with connection.transaction():
        if create:
            await connection.execute(
                sql.SQL(
                    "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT {} PASSWORD {}"
                ).format(role, limit, secret)
            )
            await connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(mark(tag))))
        else:
            await connection.execute(
                sql.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}").format(role, limit, secret)
            )
        member = await row(connection, "SELECT pg_catalog.pg_has_role(%s::pg_catalog.name, 'USAGE')", [name])
        if member != (True,):
            # Since PostgreSQL 16 the creator of a role administers it but is not a member that may act as it.
            options = " WITH INHERIT TRUE, SET TRUE" if connection.info.server_version >= 160000 else ""
            await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER" + options).format(role))


async def _recorded(connection: Connection, schema: str) -> dict[str, str]:
    """The checksums of the applied migrations by version. What the table has become is the tenant's: no more is read
    than was ever written."""
    records = sql.Identifier(schema, "schema_migrations")
    await connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (version pg_catalog.text PRIMARY KEY, checksum pg_catalog.text NOT NULL,"
            " applied_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now())"
        ).format(records)
    )
    cursor = await connection.execute(
        sql.SQL(
            'SELECT pg_catalog."left"(version::pg_catalog.text, 250), pg_catalog."left"(checksum::pg_catalog.text, 64)'
            " FROM {} LIMIT {}"
        ).format(records, sql.Literal(_RECORDED))
    )
    return dict(await cursor.fetchall())


async def _apply(connection: Connection, migration: Migration, schema: str) -> None:
    """Run one file and record it, in one transaction."""
    # EXECUTE takes many statements but no COMMIT, ROLLBACK or BEGIN: a file cannot leave its transaction.
    body = sql.SQL("BEGIN EXECUTE {}; END").format(sql.Literal(migration.sql)).as_string(connection)
    async with connection.transaction():
        try:
            await connection.execute(sql.SQL("DO {}").format(sql.Literal(body)))
        except psycopg.Error as error:
            raise failure(
                error, doing=f"migration {migration.version}: ", note=_note(error, migration), own=True
            ) from None
        await connection.execute(
            sql.SQL("INSERT INTO {} (version, checksum) VALUES ({}, {})").format(
                sql.Identifier(schema, "schema_migrations"),
                sql.Literal(migration.version),
                sql.Literal(migration.checksum),
            )
        )


def _note(error: psycopg.Error, migration: Migration) -> str:
    """Where in the file the error is, as far as PostgreSQL tells; why a COMMIT is refused."""
    if isinstance(error, psycopg.errors.FeatureNotSupported):
        return " (a file is one transaction and may neither begin nor end one)"
    position = error.diag.internal_position
    if position is None or error.diag.internal_query != migration.sql:
        return ""
    return f" (line {migration.sql[: int(position) - 1].count(chr(10)) + 1})"
