"""Connections to PostgreSQL: few, locked while they change something, and with errors the domain understands."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

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


def failure(error: psycopg.Error, *, doing: str = "", note: str = "") -> ActivityError:
    """What a PostgreSQL error means to a saga. Only the primary message is kept: details may quote data."""
    primary = error.diag.message_primary or (str(error).splitlines() or [type(error).__name__])[0]
    message = f"{doing}PostgreSQL: {primary}{note}"
    state = error.sqlstate
    if state is None:
        # Without a state the server did not answer at all, except for a value that could not even be sent.
        is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Outage(message) if is_away else Rejected(message)
    if state.startswith(_AWAY):
        return Outage(message)
    # Two sessions changed the same catalog row: PostgreSQL calls it internal, another try succeeds.
    heals = state.startswith(_BUSY) or (state == "XX000" and "concurrently" in primary)
    return Unavailable(message) if heals else Rejected(message)


@contextmanager
def translated() -> Iterator[None]:
    """Turns psycopg's errors into the saga's, without the original as context."""
    try:
        yield
    except psycopg.Error as error:
        raise failure(error) from None


_OPERATION_SECONDS: Final = 75.0
"""Longer than any statement may take: beyond it the server has stopped answering without closing the connection."""


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_OPERATION_SECONDS):
            yield
    except TimeoutError:
        raise Outage(f"PostgreSQL gave no answer within {_OPERATION_SECONDS:g} s") from None


class Connections:
    """Connections to the maintenance database are kept and used again, because a new one costs 5 ms, most of it the
    password exchange."""

    def __init__(self, dsn: str, *, connect_timeout: int, permits: AbstractAsyncContextManager[None]) -> None:
        """`connect_timeout` in seconds. `permits` is entered around each operation and bounds how many there are at
        once. A malformed `dsn` is a ValueError that does not repeat it."""
        try:
            self._given = conninfo_to_dict(dsn)
            int(str(self._given.get("port") or "5432").split(",")[0])
        except (psycopg.Error, ValueError):
            raise ValueError("the PostgreSQL connection string is malformed") from None
        self._dsn = make_conninfo(dsn, **{**_LIVENESS, "connect_timeout": connect_timeout, **_set(self._given)})
        self._permits = permits
        self._idle: list[Connection] = []

    @property
    def server(self) -> tuple[str, int]:
        """Host and port of the (first) server."""
        host, port = self._given.get("host") or "localhost", self._given.get("port") or "5432"
        return str(host).split(",")[0], int(str(port).split(",")[0])

    @asynccontextmanager
    async def operation(self, subject: str) -> AsyncIterator[Connection]:
        """A connection to the maintenance database that alone works on `subject` (a session-level advisory lock), so
        that a worker that was replaced can still finish its statement but never interleave with its successor."""
        async with self._permits, _answered():
            with translated():
                connection = await self._locked(subject)
                try:
                    yield connection
                    await connection.execute("SELECT pg_advisory_unlock_all()")
                except BaseException:
                    # Closing releases the locks whatever state the session is in.
                    await connection.close()
                    raise
                self._idle.append(connection)

    @asynccontextmanager
    async def inside(self, database: str) -> AsyncIterator[Connection]:
        """A connection of its own to one database; the caller is within `operation` or `turn`."""
        connection = await self._connect(make_conninfo(self._dsn, dbname=database))
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of the permits, without a connection to the maintenance database."""
        async with self._permits:
            with translated():
                yield

    async def probe(self) -> None:
        """Find out, past the permits, whether the server lets the administrator in. Raises Outage."""
        with translated():
            connection = await self._connect(self._dsn)
            await connection.close()

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
        connection = await self._connect(self._dsn)
        try:
            await lock(connection, subject)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _connect(self, conninfo: str) -> Connection:
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
        try:
            # The empty search path: nothing a tenant has put into its database is found by accident.
            await configure(connection, lock_timeout="10s", statement_timeout="60s", search_path="pg_catalog")
        except BaseException:
            await connection.close()
            raise
        return connection


async def configure(connection: Connection, *, local: bool = False, **settings: str) -> None:
    """Set parameters for the session, or with `local` for the current transaction."""
    calls = [
        sql.SQL("set_config({}, {}, {})").format(name, value, sql.Literal(local))
        for name, value in ((sql.Literal(name), sql.Literal(value)) for name, value in settings.items())
    ]
    await connection.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls)))


async def lock(connection: Connection, subject: str) -> None:
    """Take the advisory lock of `subject` in the connection's database until the session ends."""
    await connection.execute("SELECT pg_advisory_lock(hashtextextended('tenant-operator:' || %s::text, 0))", [subject])


async def row(connection: Connection, query: str, parameters: Sequence[object]) -> tuple[Any, ...] | None:
    """The first row of a query, or None."""
    return await (await connection.execute(query.encode(), parameters)).fetchone()


def _set(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
