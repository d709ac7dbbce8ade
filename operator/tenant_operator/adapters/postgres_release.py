"""Taking away what a tenant had on the server, from outside: whatever the tenant has done to it, it goes.

No connection is made into the tenant's database to drop it. Only what PostgreSQL lets nobody end from outside (a
prepared transaction or a subscription in that database, what a role owns or was granted in another database) is ended
by a session that has logged in as the tenant's own role, with a password that nobody else knows.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import psycopg
from psycopg import sql

from tenant_operator.adapters.postgres_catalog import MARK, Database, Role, find_database, find_role, mark
from tenant_operator.adapters.postgres_connections import Connection, Connections, failure, row
from tenant_operator.saga.errors import ActivityError, Rejected, Unavailable

_ROUNDS: Final = 5
"""A tenant that comes back between two statements is turned out so many times in one try."""
_PATIENCE: Final = "2s"
"""How long a round waits for a lock that a tenant's session may hold."""

_IN_THE_WAY: Final = (psycopg.errors.ObjectInUse, psycopg.errors.LockNotAvailable)


async def drop_database(connections: Connections, admin: Connection, database: Database) -> None:
    """Turn everybody out and drop it. Unavailable if it is still held after some rounds; Rejected, naming what is in
    the way, if a person has to end that."""
    name = sql.Identifier(database.name)
    held: psycopg.Error | None = None
    for _ in range(_ROUNDS):
        try:
            async with _impatient(admin):
                await _terminate(admin, database=database.name)
                if not database.is_invalid:
                    await admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
                await _terminate(admin, database=database.name)
                # Not WITH (FORCE): who is no superuser may be refused to force out an autovacuum worker, which a plain
                # DROP sends away by itself.
                await admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
        except _IN_THE_WAY as error:
            held = error
            await _end_what_outlives_sessions(connections, admin, database)
        else:
            return
    raise Unavailable(f'database "{database.name}" cannot be dropped yet: {failure(held).message if held else ""}')


async def drop_role(connections: Connections, admin: Connection, role: Role) -> None:
    """Turn its sessions out and drop it, with whatever it owns or was granted anywhere. Unavailable, Rejected as
    above."""
    name = sql.Identifier(role.name)
    held: psycopg.Error | None = None
    elsewhere: list[str] = []
    for _ in range(_ROUNDS):
        try:
            async with _impatient(admin):
                await _terminate(admin, role=role.name)  # one of them may hold a lock on the role itself
                await admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(name))
                await _terminate(admin, role=role.name)
                # Here: what others have granted it on databases. It owns nothing where the administrator works.
                await admin.execute(sql.SQL("DROP OWNED BY {}").format(name))
                await admin.execute(sql.SQL("DROP ROLE {}").format(name))
        except psycopg.errors.DependentObjectsStillExist as error:
            held = error
            if elsewhere:
                raise _cannot_give_up(role, elsewhere[0], "it is another's to take back") from None
            elsewhere = await _give_up_elsewhere(connections, admin, role)
        except _IN_THE_WAY as error:
            held = error
        else:
            return
    raise Unavailable(f'role "{role.name}" cannot be dropped yet: {failure(held).message if held else ""}')


@asynccontextmanager
async def _impatient(admin: Connection) -> AsyncIterator[None]:
    await admin.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", [_PATIENCE])
    try:
        yield
    except psycopg.Error:
        with suppress(psycopg.Error):
            await admin.execute("RESET lock_timeout")
        raise
    await admin.execute("RESET lock_timeout")


async def _terminate(admin: Connection, *, database: str | None = None, role: str | None = None) -> None:
    """End the sessions in a database, or of a role, as far as the administrator may."""
    await admin.execute(
        "SELECT pg_catalog.pg_terminate_backend(pid, 1000) FROM pg_catalog.pg_stat_activity"
        " WHERE pid <> pg_catalog.pg_backend_pid() AND pg_catalog.pg_has_role(usesysid, 'USAGE')"
        " AND (datname = %s OR usename = %s)",
        [database, role],
    )


async def _end_what_outlives_sessions(connections: Connections, admin: Connection, database: Database) -> None:
    """Prepared transactions and subscriptions: they keep a database although nobody is connected."""
    cursor = await admin.execute(
        "SELECT 'prepared transaction', gid, owner::pg_catalog.text FROM pg_catalog.pg_prepared_xacts"
        " WHERE database = %(name)s UNION ALL"
        " SELECT 'subscription', s.subname::pg_catalog.text, r.rolname::pg_catalog.text"
        " FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_roles r ON r.oid = s.subowner"
        " JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = %(name)s",
        {"name": database.name},
    )
    for kind, what, name in await cursor.fetchall():
        role = await find_role(admin, name)
        if role is None or role.tag != database.owner.tag:
            raise Rejected(
                f'database "{database.name}" cannot be dropped: role "{name}" keeps a {kind} in it, "{what}"; '
                "end it there (ROLLBACK PREPARED, DROP SUBSCRIPTION)"
            )
        await admin.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(
                sql.Identifier(database.name)
            )
        )
        async with _own_session(connections, admin, role, database.name) as session:
            if kind == "subscription":
                subscription = sql.Identifier(what)
                await session.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(subscription))
                await session.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(subscription))
                await session.execute(sql.SQL("DROP SUBSCRIPTION {}").format(subscription))
            else:
                await session.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(what)))


async def _give_up_elsewhere(connections: Connections, admin: Connection, role: Role) -> list[str]:
    """Have the role give up what it owns and was granted in other databases: in these."""
    cursor = await admin.execute(
        "SELECT DISTINCT d.datname::pg_catalog.text FROM pg_catalog.pg_shdepend s"
        " JOIN pg_catalog.pg_database d ON d.oid = s.dbid JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid"
        " WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.rolname = %s",
        [role.name],
    )
    names = [name for (name,) in await cursor.fetchall()]
    for name in names:
        try:
            if (database := await find_database(admin, name)) is not None:
                await _give_up_in(connections, admin, role, database)
        except psycopg.Error as error:
            raise _cannot_give_up(role, name, failure(error).message) from None
        except ActivityError as error:
            raise _cannot_give_up(role, name, error.message) from None
    return names


async def _give_up_in(connections: Connections, admin: Connection, role: Role, database: Database) -> None:
    """The way in is opened for the role alone, and only for so long. Where another tenant is at home it may have closed
    its database, or hold what is to be given up: it is turned out. What it has granted only its own roles can take
    back, so the role, which has nothing else left, becomes a member of these until it is dropped."""
    home, name = sql.Identifier(database.name), sql.Identifier(role.name)
    opened = await _may_change(admin, database.name)
    if opened:
        await admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(home, name))
        await admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1").format(home))
    for granter in await _roles_of(admin, database.owner.tag):
        await admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(granter), name))
    try:
        async with _own_session(connections, admin, role, database.name) as session:
            try:
                await session.execute("DROP OWNED BY SESSION_USER")
            except psycopg.errors.LockNotAvailable:
                await _turn_tenants_out(admin, database.name, but=role.name)
                await session.execute("DROP OWNED BY SESSION_USER")
    finally:
        if opened:
            limit = sql.Literal(database.limit)
            await admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(home, limit))


async def _roles_of(admin: Connection, tag: str | None) -> list[str]:
    """The roles that are marked as a tenant's."""
    if tag is None:
        return []
    query = (
        "SELECT rolname::pg_catalog.text FROM pg_catalog.pg_roles"
        " WHERE pg_catalog.shobj_description(oid, 'pg_authid') = %s"
    )
    return [name for (name,) in await (await admin.execute(query, [mark(tag)])).fetchall()]


def _cannot_give_up(role: Role, database: str, why: str) -> Rejected:
    return Rejected(
        f'role "{role.name}" still owns or was granted something in database "{database}" and cannot give it up '
        f'({why}); as a superuser, in that database: DROP OWNED BY "{role.name}"'
    )


async def _may_change(admin: Connection, database: str) -> bool:
    query = "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database WHERE datname = %s"
    return await row(admin, query, [database]) == (True,)


async def _turn_tenants_out(admin: Connection, database: str, *, but: str) -> None:
    await admin.execute(
        "SELECT pg_catalog.pg_terminate_backend(a.pid, 1000) FROM pg_catalog.pg_stat_activity a"
        " WHERE a.datname = %s AND a.usename <> %s AND pg_catalog.pg_has_role(a.usesysid, 'USAGE')"
        " AND pg_catalog.starts_with(pg_catalog.shobj_description(a.usesysid, 'pg_authid'), %s)",
        [database, but, MARK],
    )


@asynccontextmanager
async def _own_session(
    connections: Connections, admin: Connection, role: Role, database: str
) -> AsyncIterator[Connection]:
    """A session as the role, with a new password: whoever had the old one does not get in."""
    password, name = secrets.token_urlsafe(24), sql.Identifier(role.name)
    await admin.execute(
        sql.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT -1 PASSWORD {}").format(
            name, sql.Literal(verifier(admin, role.name, password))
        )
    )
    try:
        async with connections.inside(database, role=role.name, password=password) as session:
            yield session
    finally:
        await admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(name))


def verifier(connection: Connection, role: str, password: str) -> str:
    """What PostgreSQL keeps of a password. A statement with the password itself could end up in the server's log."""
    return connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
