"""The platform's PostgreSQL: a database and roles for each tenant, and the migrations in between."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from tenant_operator.adapters.postgres_connections import (
    Connection,
    Connections,
    configure,
    failure,
    lock,
    row,
)
from tenant_operator.api.names import LABEL_TENANT_UID
from tenant_operator.provisioning.ports import Endpoint, Migration, StoredItem
from tenant_operator.saga.errors import OwnershipConflict, Rejected

_IDENTIFIER_BYTES = 63
_INVALID = -2
"""The connection limit by which PostgreSQL marks a database whose DROP was interrupted."""

_RECORDS = """
CREATE TABLE IF NOT EXISTS public.schema_migrations (
    version text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the catalogs say about a database (`owner`, `limit`) or a role; `comment` carries the tag."""

    comment: str | None
    owner: str = ""
    limit: int = 0


class PostgresStorage:
    """Storage on a PostgreSQL 15 or later, administered by a superuser or by a role with CREATEDB and CREATEROLE.

    The tag is the comment of a database or role. A role and its comment are made in one transaction; a database cannot
    be, so one without a comment is adopted if its owner is a role with the right tag.
    """

    def __init__(
        self, dsn: str, *, advertised: Endpoint | None = None, connect_timeout: int = 5, connections: int = 10
    ) -> None:
        """`dsn`: the administrator's connection string. `advertised`: where workloads reach the server, if not where
        the operator does. `connect_timeout` in seconds. `connections`: how many operations run at once."""
        self._connections = Connections(dsn, connect_timeout=connect_timeout, limit=connections)
        self._endpoint = advertised or Endpoint(*self._connections.server)

    @property
    def endpoint(self) -> Endpoint:
        """Host and port for the tenants' workloads."""
        return self._endpoint

    async def close(self) -> None:
        """Close idle connections."""
        await self._connections.close()

    async def prepare(self) -> Sequence[str]:
        """See `ports.Storage`."""
        async with self._connections.operation("prepare") as admin:
            rights = await row(
                admin,
                "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user",
                [],
            )
        superuser, databases, roles = rights or (False, False, False)
        if not superuser and not (databases and roles):
            raise Rejected("the administrator in DATABASE_URL needs CREATEDB and CREATEROLE, or to be a superuser")
        return []

    async def inventory(self, tag: str | None = None) -> Sequence[StoredItem]:
        """See `ports.Storage`. A database is its owner's; a role's tag is its comment, which no tenant can write."""
        prefix = f"{LABEL_TENANT_UID}="
        async with self._connections.operation(f"inventory of {tag}") as admin:
            # The comments are gone through once: the functions that read one would do it for each role.
            cursor = await admin.execute(
                "WITH tagged AS (SELECT objoid, description FROM pg_catalog.pg_shdescription"
                " WHERE classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND CASE WHEN %(tag)s::text IS NULL"
                " THEN pg_catalog.starts_with(description, %(prefix)s) ELSE description = %(prefix)s || %(tag)s END)"
                " SELECT 'PostgresRole', rolname::text, description"
                " FROM pg_catalog.pg_roles JOIN tagged ON objoid = oid"
                " UNION ALL SELECT 'PostgresDatabase', datname::text, description"
                " FROM pg_catalog.pg_database JOIN tagged ON objoid = datdba",
                {"prefix": prefix, "tag": tag},
            )
            found = await cursor.fetchall()
        return [StoredItem(kind, name, comment.removeprefix(prefix)) for kind, name, comment in found]

    async def ensure_database(self, name: str, *, owner: str, password: str, connection_limit: int, tag: str) -> None:
        """See `ports.Storage`."""
        _check(name, owner)
        async with self._connections.operation(name) as admin:
            role, database = await _role(admin, owner), await _database(admin, name)
            _refuse_foreign_role(owner, role, tag)
            if database is not None and not _ours(database, owner, role, tag):
                raise _foreign(f'database "{name}"')
            await _ensure_role(admin, owner, password=password, tag=tag, create=role is None)
            if database is not None and database.limit == _INVALID:
                await _drop_database(admin, name)
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
                await admin.execute(
                    sql.SQL("COMMENT ON DATABASE {name} IS {tag}").format(**identifiers, tag=sql.Literal(_comment(tag)))
                )
                await admin.execute(
                    sql.SQL("ALTER DATABASE {name} CONNECTION LIMIT {limit}").format(
                        **identifiers, limit=sql.Literal(connection_limit)
                    )
                )

    async def ensure_schema(self, database: str, *, schema: str, role: str, password: str, tag: str) -> None:
        """See `ports.Storage`. A database that is not there, or another tenant's, is refused."""
        _check(database, schema, role)
        async with self._connections.operation(database) as admin:
            _refuse_foreign_role(role, existing := await _role(admin, role), tag)
            home = await _database(admin, database)
            if home is None:
                raise _absent(database)
            if home.comment != _comment(tag):
                raise _foreign(f'database "{database}"')
            await _ensure_role(admin, role, password=password, tag=tag, create=existing is None)
            identifiers = {
                "database": sql.Identifier(database),
                "role": sql.Identifier(role),
                "schema": sql.Identifier(schema),
            }
            await admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {database} TO {role}").format(**identifiers))
            await admin.execute(
                sql.SQL("ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}").format(**identifiers)
            )
            async with self._connections.inside(database) as connection:
                owner = await _schema_owner(connection, schema)
                if owner is None:
                    await connection.execute(
                        sql.SQL("CREATE SCHEMA {schema} AUTHORIZATION {role}").format(**identifiers)
                    )
                elif owner != role:
                    raise _foreign(f'schema "{schema}" of database "{database}"')

    async def migrate(self, database: str, migrations: Sequence[Migration], *, schema: str, owner: str) -> list[str]:
        """See `ports.Storage`. The records belong to the database's owner, so any later administrator can read them."""
        _check(database, schema, owner)
        async with self._connections.operation(database) as admin:
            home = await _database(admin, database)
        if home is None:
            raise _absent(database)
        async with self._connections.turn(), self._connections.inside(database) as connection:
            await configure(connection, lock_timeout="30s")
            await lock(connection, "migrations")
            recorded = await _recorded(connection, home.owner)
            ordered = sorted(migrations, key=lambda migration: migration.version)
            for migration in ordered:
                if recorded.get(migration.version, migration.checksum) != migration.checksum:
                    raise Rejected(
                        f'migration {migration.version} has changed since it was applied to database "{database}"; '
                        "restore the file and put the change into a new one"
                    )
            missing = [migration for migration in ordered if migration.version not in recorded]
            for migration in missing:
                await _apply(connection, migration, schema=schema, role=owner, recorder=home.owner)
            return [migration.version for migration in missing]

    async def drop_schema(self, database: str, *, schema: str, role: str, tag: str) -> None:
        """See `ports.Storage`. The role's connections are closed first; what is another's raises OwnershipConflict."""
        _check(database, schema, role)
        async with self._connections.operation(database) as admin:
            existing, home = await _role(admin, role), await _database(admin, database)
            if existing is None:
                return
            _refuse_foreign_role(role, existing, tag)
            if home is not None and home.comment != _comment(tag):
                raise _foreign(f'database "{database}"')
            if home is not None and home.limit == _INVALID:
                await _drop_database(admin, database)
                home = None
            identifiers = {"role": sql.Identifier(role), "schema": sql.Identifier(schema)}
            if home is None:
                await admin.execute(sql.SQL("DROP ROLE {role}").format(**identifiers))
                return
            await admin.execute(sql.SQL("ALTER ROLE {role} NOLOGIN").format(**identifiers))
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role])
            async with self._connections.inside(database) as connection, connection.transaction():
                if await _schema_owner(connection, schema) == role:
                    await connection.execute(sql.SQL("DROP SCHEMA {schema} CASCADE").format(**identifiers))
                await connection.execute(sql.SQL("DROP OWNED BY {role} CASCADE").format(**identifiers))
                await connection.execute(sql.SQL("DROP ROLE {role}").format(**identifiers))

    async def drop_database(self, name: str, *, owner: str, tag: str) -> None:
        """See `ports.Storage`. What is another's raises OwnershipConflict once what is ours is gone."""
        _check(name, owner)
        async with self._connections.operation(name) as admin:
            role, database = await _role(admin, owner), await _database(admin, name)
            foreign = database is not None and not _ours(database, owner, role, tag)
            if database is not None and not foreign:
                await _drop_database(admin, name)
            if role is not None and role.comment == _comment(tag):
                await admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(owner)))
            if foreign:
                raise _foreign(f'database "{name}"')
            _refuse_foreign_role(owner, role, tag)


def _check(*identifiers: str) -> None:
    """PostgreSQL would cut a long name silently, and then two tenants could meet."""
    for identifier in identifiers:
        if not identifier or "\0" in identifier or len(identifier.encode()) > _IDENTIFIER_BYTES:
            raise Rejected(f"{identifier!r} cannot be a PostgreSQL name: 1 to {_IDENTIFIER_BYTES} bytes, no NUL")


def _comment(tag: str) -> str:
    return f"{LABEL_TENANT_UID}={tag}"


def _foreign(what: str) -> OwnershipConflict:
    return OwnershipConflict(f"{what} exists and does not belong to this tenant")


def _absent(database: str) -> Rejected:
    return Rejected(f'database "{database}" does not exist')


def _refuse_foreign_role(name: str, role: _Found | None, tag: str) -> None:
    if role is not None and role.comment != _comment(tag):
        raise _foreign(f'role "{name}"')


def _ours(database: _Found, owner: str, role: _Found | None, tag: str) -> bool:
    if database.comment is not None:
        return database.comment == _comment(tag)
    return role is not None and role.comment == _comment(tag) and database.owner == owner


async def _role(connection: Connection, name: str) -> _Found | None:
    found = await row(connection, "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", [name])
    return None if found is None else _Found(comment=found[0])


async def _database(connection: Connection, name: str) -> _Found | None:
    found = await row(
        connection,
        "SELECT shobj_description(oid, 'pg_database'), pg_get_userbyid(datdba)::text, datconnlimit"
        " FROM pg_database WHERE datname = %s",
        [name],
    )
    return None if found is None else _Found(*found)


async def _schema_owner(connection: Connection, schema: str) -> str | None:
    found = await row(
        connection, "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = %s", [schema]
    )
    return None if found is None else str(found[0])


async def _ensure_role(connection: Connection, name: str, *, password: str, tag: str, create: bool) -> None:
    """Create or update a login role; the administrator becomes a member, to act for it."""
    # Hashed here: a statement with the password itself could end up in the server's log.
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    role = sql.Identifier(name)
    async with connection.transaction():
        if create:
            await connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                    role, sql.Literal(verifier)
                )
            )
            await connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(_comment(tag))))
        else:
            await connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(verifier)))
        member = await row(connection, "SELECT pg_has_role(%s::name, 'USAGE')", [name])
        if member != (True,):
            # Since PostgreSQL 16 the creator of a role administers it but is not a member that may act as it.
            options = " WITH INHERIT TRUE, SET TRUE" if connection.info.server_version >= 160000 else ""
            await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER" + options).format(role))


async def _drop_database(connection: Connection, name: str) -> None:
    await connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def _recorded(connection: Connection, recorder: str) -> dict[str, str]:
    """The checksums of the applied migrations by version."""
    async with connection.transaction():
        await configure(connection, local=True, role=recorder, client_min_messages="warning")
        await connection.execute(_RECORDS)
        cursor = await connection.execute("SELECT version, checksum FROM public.schema_migrations")
        return dict(await cursor.fetchall())


async def _apply(connection: Connection, migration: Migration, *, schema: str, role: str, recorder: str) -> None:
    """Run one file and record it, in one transaction."""
    path = sql.SQL("{}, public").format(sql.Identifier(schema)).as_string(connection)
    # EXECUTE takes many statements but no COMMIT, ROLLBACK or BEGIN: a file cannot leave its transaction.
    body = sql.SQL("BEGIN EXECUTE {}; END").format(sql.Literal(migration.sql)).as_string(connection)
    async with connection.transaction():
        await configure(
            connection, local=True, role=role, search_path=path, lock_timeout="10s", statement_timeout="240s"
        )
        try:
            await connection.execute(sql.SQL("DO {}").format(sql.Literal(body)))
        except psycopg.Error as error:
            raise failure(error, doing=f"migration {migration.version}: ", note=_note(error, migration)) from None
        await configure(connection, local=True, role=recorder)
        await connection.execute(
            "INSERT INTO public.schema_migrations (version, checksum) VALUES (%s, %s)",
            [migration.version, migration.checksum],
        )


def _note(error: psycopg.Error, migration: Migration) -> str:
    """Where in the file the error is, as far as PostgreSQL tells; why a COMMIT is refused."""
    if isinstance(error, psycopg.errors.FeatureNotSupported):
        return " (a file is one transaction and may neither begin nor end one)"
    position = error.diag.internal_position
    if position is None or error.diag.internal_query != migration.sql:
        return ""
    return f" (line {migration.sql[: int(position) - 1].count(chr(10)) + 1})"
