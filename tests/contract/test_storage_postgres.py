"""What only a real PostgreSQL can show: who may do what, what a failure says, and what a cut leaves behind."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from devcluster import ports
from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.adapters.postgres_connections import failure
from tenant_operator.ports import Endpoint
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tests.contract.postgres_fixture import postgres_dsn  # noqa: F401 (a fixture)
from tests.contract.relay import Relay, relay
from tests.contract.storage_world import PostgresWorld, postgres_world
from tests.contract.test_storage import (
    BROKEN,
    CREATE_A,
    CREATE_B,
    TAG,
    make_database,
    make_schema,
    migrate,
    migration,
    release,
)
from tests.contract.waiting import until


@pytest.fixture(params=["superuser", "limited"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[PostgresWorld]:
    async with postgres_world(request.getfixturevalue("postgres_dsn"), superuser=request.param == "superuser") as real:
        yield real


@pytest.fixture
async def wire(world: PostgresWorld) -> AsyncIterator[Relay]:
    """The operator's wire to the server."""
    server = conninfo_to_dict(world.administrator)
    async with relay(str(server["host"]), int(str(server["port"]))) as opened:
        yield opened


@pytest.fixture
async def remote(world: PostgresWorld, wire: Relay) -> AsyncIterator[PostgresStorage]:
    """A storage at the end of the wire."""
    dsn = make_conninfo(world.administrator, port=wire.port, sslmode="disable", gssencmode="disable")
    storage = PostgresStorage(dsn, maintenance=world.maintenance)
    yield storage
    await storage.close()


async def tables(world: PostgresWorld) -> set[tuple[str, str, str]]:
    """Schema, name and owner of the tables in the test's database."""
    rows = await world.query(
        "SELECT schemaname, tablename, tableowner FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
        database=world.prefix,
    )
    return {(schema, name, owner) for schema, name, owner in rows}


async def test_tenants_roles_have_no_power(world: PostgresWorld) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    rows = await world.query(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin FROM pg_roles"
        " WHERE starts_with(rolname, %s)",
        world.prefix,
    )
    assert rows == [(False, False, False, False, False, True)] * 2
    memberships = await world.query(
        "SELECT 1 FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE starts_with(r.rolname, %s)",
        world.prefix,
    )
    assert memberships == []


async def test_passwords_leave_the_operator_as_verifiers_only(
    world: PostgresWorld, wire: Relay, remote: PostgresStorage
) -> None:
    await remote.ensure_database(world.prefix, owner=world.prefix, password="plain-secret", connection_limit=5, tag=TAG)
    await remote.ensure_database(world.prefix, owner=world.prefix, password="other-secret", connection_limit=5, tag=TAG)
    sent = b"".join(wire.sent)
    assert b"SCRAM-SHA-256$" in sent
    assert b"-secret" not in sent
    assert await world.admits(world.prefix, world.prefix, "other-secret")


async def test_the_connection_limit_holds(world: PostgresWorld) -> None:
    await make_database(world, world.prefix, limit=2)
    dsn = world.as_role(world.prefix, world.prefix, "first")
    async with await psycopg.AsyncConnection.connect(dsn), await psycopg.AsyncConnection.connect(dsn):
        assert not await world.admits(world.prefix, world.prefix, "first")

    async def have_left() -> bool:
        return not await world.query("SELECT 1 FROM pg_stat_activity WHERE datname = %s", world.prefix)

    await until(have_left)  # a server process outlives its client for a moment
    await make_database(world, world.prefix, limit=3)
    async with await psycopg.AsyncConnection.connect(dsn), await psycopg.AsyncConnection.connect(dsn):
        assert await world.admits(world.prefix, world.prefix, "first")


async def test_dropping_closes_live_connections(world: PostgresWorld) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    await migrate(world, world.prefix, CREATE_A)
    owner = world.as_role(world.prefix, world.prefix, "first")
    identity = world.as_role(world.prefix, f"{world.prefix}_id", "identity")
    async with await psycopg.AsyncConnection.connect(owner, autocommit=True) as living:
        reader = await psycopg.AsyncConnection.connect(identity)
        await reader.execute("SELECT * FROM a")  # the open transaction holds a lock on the table
        await release(world, world.prefix)
        with pytest.raises(psycopg.OperationalError):
            await reader.execute("SELECT 1")
        await reader.close()
        with pytest.raises(psycopg.OperationalError):
            await living.execute("SELECT 1")
    assert not await world.databases()
    assert not await world.roles()


async def test_a_database_whose_drop_was_interrupted_is_made_anew_or_dropped(world: PostgresWorld) -> None:
    interrupted = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = %s"
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    await world.query(interrupted, world.prefix)
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    assert await world.admits(world.prefix, world.prefix, "first")
    await world.query(interrupted, world.prefix)
    await release(world, world.prefix)
    assert not await world.databases()
    assert not await world.roles()


async def test_migrations_act_as_the_role_in_its_schema(world: PostgresWorld) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    await migrate(world, world.prefix, CREATE_A, CREATE_B)
    role = f"{world.prefix}_id"
    assert await tables(world) == {
        ("identity", "a", role),
        ("identity", "b", role),
        ("identity", "schema_migrations", role),
    }
    async with await psycopg.AsyncConnection.connect(world.as_role(world.prefix, role, "identity")) as workload:
        assert await (await workload.execute("SELECT id FROM b")).fetchone() == (1,)


async def test_a_failing_migration_is_rolled_back_whole(world: PostgresWorld) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    with pytest.raises(Rejected):
        await migrate(world, world.prefix, CREATE_A, BROKEN)
    assert {name for _, name, _ in await tables(world)} == {"a", "schema_migrations"}


@pytest.mark.parametrize(
    "control",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "SAVEPOINT s",
        "COMMIT AND CHAIN",
        "DO $$ BEGIN COMMIT; END $$",
        "/**/ commit work",
    ],
)
async def test_a_migration_cannot_leave_its_transaction(world: PostgresWorld, control: str) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    leaving = migration("0002_leaving.sql", f"CREATE TABLE b (id int);\n{control};\nCREATE TABLE c (id int);")
    with pytest.raises(Rejected, match=r"^migration 0002_leaving\.sql: PostgreSQL: "):
        await migrate(world, world.prefix, CREATE_A, leaving)
    assert {name for _, name, _ in await tables(world)} == {"a", "schema_migrations"}
    assert await world.applied(world.prefix) == ["0001_a.sql"]


async def test_a_syntax_error_is_found_by_its_line(world: PostgresWorld) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    typo = migration("0001_typo.sql", "CREATE TABLE a (id int);\n\nCREATE TABEL b (id int);\n")
    with pytest.raises(Rejected) as caught:
        await migrate(world, world.prefix, typo)
    assert caught.value.message == 'migration 0001_typo.sql: PostgreSQL: syntax error at or near "TABEL" (line 3)'


async def test_any_sql_reaches_the_server_as_it_is(world: PostgresWorld) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    text = "100%s %(a)s {} it''s \\ ü $1 ?"
    file = "\n".join(
        [
            "-- a comment; with a semicolon",
            f"CREATE TABLE t (v text DEFAULT '{text}');",
            "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'a;b'; END $$;",
            "INSERT INTO t DEFAULT VALUES; INSERT INTO t SELECT f(); SELECT * FROM t;",
        ]
    )
    await migrate(world, world.prefix, migration("0001_odd.sql", file), migration("0002_note.sql", "-- nothing yet"))
    rows = await world.query("SELECT v FROM identity.t", database=world.prefix)
    assert rows == [(text.replace("''", "'"),), ("a;b",)]


def test_workloads_are_told_the_advertised_endpoint() -> None:
    dsn = "postgresql://admin:secret@db-a:5433,db-b:5434/postgres"
    assert PostgresStorage(dsn).endpoint == Endpoint("db-a", 5433)
    assert PostgresStorage(dsn, advertised_host="pg.internal", advertised_port=6432).endpoint == Endpoint(
        "pg.internal", 6432
    )


@pytest.mark.parametrize(
    "dsn", ["host secret-word", "postgresql://u:secret-word%@h/x", "postgresql://u:p@h:secret-word/x"]
)
def test_a_malformed_connection_string_is_not_repeated(dsn: str) -> None:
    with pytest.raises(ValueError, match="malformed") as caught:
        PostgresStorage(dsn)
    assert "secret-word" not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_a_server_that_is_down_is_unavailable(world: PostgresWorld) -> None:
    down = PostgresStorage(make_conninfo(world.administrator, port=ports.choose(1)[0], password="secret-word"))
    for call in (
        down.ensure_database(world.prefix, owner=world.prefix, password="pw-word", connection_limit=1, tag=TAG),
        down.ensure_schema(
            world.prefix, schema="identity", role=world.prefix, password="pw-word", connection_limit=1, tag=TAG
        ),
        down.migrate(world.prefix, [CREATE_A], schema="identity", role=world.prefix, password="pw-word", tag=TAG),
        down.release(world.prefix, role=world.prefix, tag=TAG),
        down.inventory(),
        down.prepare(),
    ):
        with pytest.raises(Outage, match=r"^PostgreSQL: .*Connection refused") as caught:
            await call
        assert "word" not in caught.value.message


async def test_refused_credentials_of_the_operator_are_unavailable(world: PostgresWorld) -> None:
    storage = PostgresStorage(make_conninfo(world.administrator, password="secret-word"))
    with pytest.raises(Outage, match="password authentication failed") as caught:
        await storage.release(world.prefix, role=world.prefix, tag=TAG)
    assert "secret-word" not in caught.value.message


async def test_a_server_that_never_answers_is_unavailable(world: PostgresWorld) -> None:
    over, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    storage = PostgresStorage(make_conninfo(world.administrator, port=port), connect_timeout=2)
    with pytest.raises(Unavailable, match="timeout"):
        await storage.release(world.prefix, role=world.prefix, tag=TAG)
    over.set()
    await left.wait()
    server.close()
    await server.wait_closed()


async def test_connections_that_died_while_idle_cost_no_try(
    world: PostgresWorld, wire: Relay, remote: PostgresStorage
) -> None:
    names = [f"{world.prefix}_{number}" for number in range(4)]
    for name in names:
        await remote.ensure_database(name, owner=name, password="first", connection_limit=5, tag=TAG)
    wire.cut()
    drops = (remote.release(name, role=name, tag=TAG) for name in names)
    await asyncio.gather(*drops)
    assert not await world.databases()


async def _heard_then(wire: Relay, chunks: int, interrupt: "asyncio.Task[None] | None") -> None:
    """After so many chunks interrupt the operation: cancel it, or cut its wire if no task is given."""
    await wire.heard(chunks)
    if interrupt is None:
        wire.cut()
    else:
        interrupt.cancel()


@pytest.mark.parametrize("how", ["cancelled", "cut"])
async def test_an_operation_can_be_interrupted_anywhere(
    world: PostgresWorld, wire: Relay, remote: PostgresStorage, how: str
) -> None:
    name, role = world.prefix, f"{world.prefix}_id"

    async def build() -> None:
        await remote.ensure_database(name, owner=name, password="first", connection_limit=5, tag=TAG)
        await remote.ensure_schema(name, schema="identity", role=role, password="identity", connection_limit=5, tag=TAG)
        await remote.migrate(name, [CREATE_A, CREATE_B], schema="identity", role=role, password="identity", tag=TAG)

    async def destroy() -> None:
        await remote.release(name, role=role, tag=TAG)
        await remote.release(name, role=name, tag=TAG)

    interrupted = {build: 0, destroy: 0}
    for step in range(1, 200, 3):
        finished = True
        for phase in (build, destroy):
            already = len(wire.sent)
            task = asyncio.create_task(phase())
            watcher = asyncio.create_task(_heard_then(wire, already + step, task if how == "cancelled" else None))
            try:
                await task
            except (asyncio.CancelledError, Unavailable):
                interrupted[phase] += 1
                finished = False
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            await phase()  # what the interruption left is healed by the next try
            if phase is build:
                assert await world.admits(name, role, "identity")
                assert await world.applied(name) == ["0001_a.sql", "0002_b.sql"]
            else:
                assert not await world.databases()
                assert not await world.roles()
        if finished:
            break
    assert finished, "the interruptions never reached the end"
    assert min(interrupted.values()) > 3


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (psycopg.errors.ConnectionFailure("lost"), True),
        (psycopg.errors.TooManyConnections("full"), True),
        (psycopg.errors.DiskFull("full"), True),
        (psycopg.errors.AdminShutdown("stopping"), True),
        (psycopg.errors.QueryCanceled("timeout"), True),
        (psycopg.errors.DeadlockDetected("deadlock"), True),
        (psycopg.errors.ObjectInUse("in use"), True),
        (psycopg.errors.LockNotAvailable("locked"), True),
        (psycopg.errors.InvalidPassword("wrong"), True),
        (psycopg.errors.ReadOnlySqlTransaction("a standby"), True),
        (psycopg.errors.InternalError_("tuple concurrently updated"), True),
        (psycopg.OperationalError("the connection is lost"), True),
        (psycopg.InterfaceError("the connection is closed"), True),
        (psycopg.errors.InternalError_("unexpected"), False),
        (psycopg.errors.InsufficientPrivilege("denied"), False),
        (psycopg.errors.SyntaxError("typo"), False),
        (psycopg.errors.UniqueViolation("double"), False),
        (psycopg.DataError("cannot contain NUL"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_says_whether_it_can_heal(error: psycopg.Error, heals: bool) -> None:
    translated = failure(error)
    assert translated.can_heal is heals
    assert translated.message == f"PostgreSQL: {error}"
