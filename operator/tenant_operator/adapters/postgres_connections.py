"""Connections to PostgreSQL: the administrator's, which never enter a tenant's database, and a tenant's own.

Whatever a database or a role may preset (`ALTER DATABASE … SET`, `ALTER ROLE … SET`) is overruled in the options of the
connection, before the first statement. The administrator works in a maintenance database that no tenant's role can
connect to; what happens inside a tenant's database is done by a session that has logged in as that tenant's role.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tenant_operator.ports import Endpoint
from tenant_operator.saga.errors import ActivityError, Outage, Rejected, Unavailable

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_AWAY = ("08", "25006", "28", "53", "57P01", "57P02", "57P03")
"""What concerns everybody: connection, read-only after a failover, the administrator's login, resources, shutdown and
start."""

_BUSY = ("40", "55006", "55P03", "57")
"""What concerns this call: rolled back, object in use, lock not available, cancelled by a timeout."""

# A server that vanished without a word must not hold a saga: libpq notices within half a minute.
_LIVENESS: dict[str, str | int] = {
    "application_name": "tenant-operator",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

PINNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "search_path": "pg_catalog, pg_temp",
        "role": "none",
        "default_transaction_read_only": "off",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "default_tablespace": "",
        "default_table_access_method": "heap",
        "standard_conforming_strings": "on",
        "client_min_messages": "warning",
        "lock_timeout": "10s",
        "statement_timeout": "60s",
        "idle_in_transaction_session_timeout": "60s",
    }
)
"""What every session decides for itself, whatever the database or the role has preset."""

# The way to the server; how the administrator logs in is nothing that a tenant's session may use.
_THE_WAY: Final = (
    *("host", "hostaddr", "port", "connect_timeout", "target_session_attrs", "gssencmode"),
    *("sslmode", "sslnegotiation", "sslrootcert", "sslcrl", "sslcrldir", "ssl_min_protocol_version"),
)


def failure(error: psycopg.Error, *, doing: str = "", note: str = "", own: bool = False) -> ActivityError:
    """What a PostgreSQL error means to a saga. Only the primary message is kept: details may quote data. `own`: it was
    raised in a tenant's own session, where the tenant may be what ends it."""
    primary = error.diag.message_primary or (str(error).splitlines() or [type(error).__name__])[0]
    message = f"{doing}PostgreSQL: {primary}{note}"
    state = error.sqlstate
    if state is None:
        # Without a state the server did not answer at all, except for a value that could not even be sent.
        is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return _away(message, own=own) if is_away else Rejected(message)
    if state.startswith(_AWAY):
        return _away(message, own=own)
    # Two sessions changed the same catalog row: PostgreSQL calls it internal, another try succeeds.
    heals = state.startswith(_BUSY) or (state == "XX000" and "concurrently" in primary)
    return Unavailable(message) if heals else Rejected(message)


def _away(message: str, *, own: bool) -> Unavailable:
    return Unavailable(message) if own else Outage(message)


@contextmanager
def translated(*, own: bool = False) -> Iterator[None]:
    """Turns psycopg's errors into the saga's, without the original as context. `own` as for `failure`."""
    try:
        yield
    except psycopg.Error as error:
        raise failure(error, own=own) from None


_OPERATION_SECONDS: Final = 75.0
"""Longer than any statement may take: beyond it the server has stopped answering without closing the connection."""

_VISIT_SECONDS: Final = 280.0
"""The same for a session inside a tenant's database, which may run long migrations."""


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_OPERATION_SECONDS):
            yield
    except TimeoutError:
        raise Outage(f"PostgreSQL gave no answer within {_OPERATION_SECONDS:g} s") from None


RIGHTS_MISSING: Final = "the administrator in DATABASE_URL needs CREATEDB and CREATEROLE, or to be a superuser"
"""What an administrator without the rights is told, whichever of its first statements finds it out."""


class Connections:
    """Connections to the maintenance database are kept and used again, because a new one costs 5 ms, most of it the
    password exchange. Sessions inside tenants' databases have places of their own, so that a tenant that is slow in its
    own holds up no operation."""

    def __init__(
        self,
        dsn: str,
        *,
        maintenance: str,
        connect_timeout: int,
        permits: AbstractAsyncContextManager[None],
        visits: AbstractAsyncContextManager[None],
    ) -> None:
        """`maintenance`: the database to work in, made if it is not there. `connect_timeout` in seconds. `permits` is
        entered around each operation and bounds how many there are at once, `visits` around each `visit`. A malformed
        `dsn` is a ValueError that does not repeat it."""
        try:
            given = conninfo_to_dict(dsn)
            int(str(given.get("port") or "5432").split(",")[0])
        except (psycopg.Error, ValueError):
            raise ValueError("the PostgreSQL connection string is malformed") from None
        self._given = {name: value for name, value in given.items() if value is not None}
        self._maintenance = maintenance
        self._common = {**_LIVENESS, "connect_timeout": connect_timeout}
        pinned = f"{self._given.get('options') or ''} {_options(PINNED)}".strip()
        self._entrance = make_conninfo(dsn, **{**self._common, **self._given, "options": pinned})
        self._workplace = make_conninfo(self._entrance, dbname=maintenance)
        self._is_made = False
        self._making = asyncio.Lock()
        self._permits = permits
        self._visits = visits
        self._idle: list[Connection] = []

    @property
    def maintenance(self) -> str:
        """The database that the administrator works in."""
        return self._maintenance

    @property
    def endpoint(self) -> Endpoint:
        """The (first) server, and how this connection is encrypted."""
        host, port = self._given.get("host") or "localhost", self._given.get("port") or "5432"
        mode, authority = self._given.get("sslmode"), self._given.get("sslrootcert")
        certificate = None
        if authority and authority != "system":
            with suppress(OSError, UnicodeDecodeError):  # connecting says what is wrong with the file
                certificate = Path(str(authority)).read_text()
        return Endpoint(
            str(host).split(",")[0],
            int(str(port).split(",")[0]),
            sslmode=None if mode is None else str(mode),
            authority=certificate,
        )

    @asynccontextmanager
    async def operation(self, subject: str) -> AsyncIterator[Connection]:
        """A connection to the maintenance database that alone works on `subject` (a session-level advisory lock), so
        that a worker that was replaced can still finish its statement but never interleave with its successor."""
        async with self._permits, _answered():
            with translated():
                connection = await self._locked(subject)
                try:
                    yield connection
                    await connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
                except BaseException:
                    # Closing releases the locks whatever state the session is in.
                    await connection.close()
                    raise
                self._idle.append(connection)

    @asynccontextmanager
    async def inside(
        self, database: str, *, role: str, password: str, settings: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[Connection]:
        """A session in a database that has logged in as `role`, with nothing of the administrator's. `settings` are
        pinned like those of every session. The caller bounds how many there are at once: see `visit`. Whatever ends the
        session is the tenant's own affair, and never an Outage: the owner can close its database."""
        pinned = _options({**PINNED, **settings})
        way: dict[str, Any] = {name: self._given[name] for name in _THE_WAY if name in self._given}
        login = {"dbname": database, "user": role, "password": password, "sslcertmode": "disable"}
        conninfo = make_conninfo("", **{**self._common, **way, **login, "options": pinned})
        with translated(own=True):
            connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
            try:
                yield connection
            finally:
                await connection.close()

    @asynccontextmanager
    async def visit(self, database: str, *, role: str, password: str, **settings: str) -> AsyncIterator[Connection]:
        """`inside`, in one of the places for that, and for a bounded time."""
        async with self._visits:
            try:
                async with asyncio.timeout(_VISIT_SECONDS):
                    async with self.inside(database, role=role, password=password, settings=settings) as connection:
                        yield connection
            except TimeoutError:
                raise Unavailable(f'database "{database}" gave no answer within {_VISIT_SECONDS:g} s') from None

    async def check(self) -> None:
        """Returns if the server lets the administrator in; takes no permit. Raises Outage."""
        with translated():
            await (await self._connect()).close()

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().close()

    async def _locked(self, subject: str) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            try:
                await lock(connection, subject)
            except BaseException as error:
                await connection.close()
                if isinstance(error, psycopg.OperationalError) and error.sqlstate != "55P03":
                    continue  # it died while idle: the next one, or a new one, tells whether the server is there
                raise
            return connection
        connection = await self._connect()
        try:
            await lock(connection, subject)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _connect(self) -> Connection:
        """A connection to the maintenance database, which is made the first time, and when it may have gone."""
        async with self._making:
            if not self._is_made:
                await self._make_workplace()
                self._is_made = True
        try:
            return await _administrator(self._workplace)
        except psycopg.OperationalError:
            self._is_made = False
            raise

    async def _make_workplace(self) -> None:
        name, quoted = self._maintenance, sql.Identifier(self._maintenance)
        connection = await _administrator(self._entrance)
        try:
            found = await row(
                connection,
                "SELECT pg_catalog.has_database_privilege(oid, 'CONNECT') FROM pg_catalog.pg_database"
                " WHERE datname = %s",
                [name],
            )
            if found == (False,):
                raise Rejected(
                    f'the administrator in DATABASE_URL may not connect to the maintenance database "{name}": as its '
                    f'owner, GRANT CONNECT ON DATABASE "{name}" to it, or name another in DATABASE_MAINTENANCE'
                )
            if found is None:
                with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):  # another replica
                    create = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'"
                    await connection.execute(sql.SQL(create).format(quoted))
                    await connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(quoted))
        except psycopg.errors.InsufficientPrivilege as error:
            raise Rejected(RIGHTS_MISSING) from error
        finally:
            await connection.close()


async def _administrator(conninfo: str) -> Connection:
    return await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)


async def lock(connection: Connection, subject: str) -> None:
    """Take the advisory lock of `subject` in the connection's database until the session ends."""
    await connection.execute(
        "SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('tenant-operator:' || %s::pg_catalog.text, 0))",
        [subject],
    )


async def row(connection: Connection, query: str, parameters: Sequence[object]) -> tuple[Any, ...] | None:
    """The first row of a query, or None."""
    return await (await connection.execute(query.encode(), parameters)).fetchone()


def _options(settings: Mapping[str, str]) -> str:
    """Settings as the command-line options that a connection may carry."""
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
