"""The attacker has a tenant's credentials, as every workload of it does: the owner role of its database and the role of
its identity store. It may do in its database whatever PostgreSQL lets an owner do.

Against PostgreSQL 18 and, where Debian's is installed, 15; administered by a superuser, and by a role with CREATEDB and
CREATEROLE.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest

from tenant_operator.adapters.postgres import PostgresStorage
from tenant_operator.ports import Migration
from tenant_operator.provisioning.migration_files import load_migrations
from tenant_operator.saga.errors import ActivityError, Rejected
from tests.attacks.traps import traps
from tests.contract.postgres_fixture import OLDEST, Server, server
from tests.contract.storage_world import PostgresWorld, postgres_world
from tests.contract.waiting import until

ATTACKER, VICTIM = "aaaa0000-aaaa-4bbb-8ccc-1234567890ab", "bbbb0000-aaaa-4bbb-8ccc-1234567890ab"
PASSWORD, IDENTITY = "owner's", "identity's"
LIMIT = 5

Session = psycopg.AsyncConnection[tuple[object, ...]]


@pytest.fixture(scope="module", params=["18", "15"])
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "15" and not (OLDEST / "postgres").exists():
        pytest.skip(f"there is no PostgreSQL 15 in {OLDEST}, and PyPI has none")
    with server(
        OLDEST if request.param == "15" else None, log_connections="on", max_prepared_transactions="10"
    ) as started:
        yield started


@pytest.fixture(params=["superuser", "limited"])
async def world(running: Server, request: pytest.FixtureRequest) -> AsyncIterator[PostgresWorld]:
    async with postgres_world(running.dsn, superuser=request.param == "superuser") as real:
        yield real


class Tenant:
    """A tenant's database on the server, made by the operator, and its credentials."""

    def __init__(self, world: PostgresWorld, name: str, tag: str) -> None:
        self.world, self.tag = world, tag
        self.name = f"{world.prefix}_{name}"
        self.identity = f"{self.name}_id"

    async def make(self) -> None:
        storage = self.world.storage
        await storage.ensure_database(
            self.name, owner=self.name, password=PASSWORD, connection_limit=LIMIT, tag=self.tag
        )
        await storage.ensure_schema(
            self.name,
            schema="identity",
            role=self.identity,
            password=IDENTITY,
            connection_limit=LIMIT,
            tag=self.tag,
        )
        await self.migrate()

    async def migrate(self, *more: Migration) -> None:
        await self.world.storage.migrate(
            self.name,
            [*load_migrations(), *more],
            schema="identity",
            role=self.identity,
            password=IDENTITY,
            tag=self.tag,
        )

    async def release(self) -> None:
        await self.world.storage.release(self.name, role=self.identity, tag=self.tag)
        await self.world.storage.release(self.name, role=self.name, tag=self.tag)

    @asynccontextmanager
    async def session(self, database: str | None = None, *, identity: bool = False) -> AsyncIterator[Session]:
        """Log in with the tenant's credentials."""
        role, password = (self.identity, IDENTITY) if identity else (self.name, PASSWORD)
        dsn = self.world.as_role(database or self.name, role, password)
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        try:
            yield connection
        finally:
            await connection.close()

    async def run(self, *statements: str, database: str | None = None, identity: bool = False) -> None:
        async with self.session(database, identity=identity) as session:
            for statement in statements:
                await session.execute(self.filled(statement))

    def filled(self, statement: str) -> bytes:
        return statement.replace("OWN_DATABASE", f'"{self.name}"').replace("OWN_ID", f'"{self.identity}"').encode()

    async def is_gone(self) -> bool:
        return not {self.name, self.identity} & (set(await self.world.databases()) | await self.world.roles())


@pytest.fixture
async def attacker(world: PostgresWorld) -> Tenant:
    tenant = Tenant(world, "attacker", ATTACKER)
    await tenant.make()
    return tenant


@pytest.fixture
async def victim(world: PostgresWorld) -> Tenant:
    tenant = Tenant(world, "victim", VICTIM)
    await tenant.make()
    return tenant


# Nothing of the tenant's runs with more than the tenant's rights.

RECORDS_REPLACED = [
    "DROP TABLE identity.schema_migrations",
    "CREATE VIEW identity.schema_migrations AS SELECT '0001_identities.sql'::text AS version,"
    " (evil.spring('view'))::text AS checksum, now() AS applied_at",
]
RECORDS_TRAPPED = [
    "CREATE FUNCTION identity.trap() RETURNS trigger LANGUAGE plpgsql AS"
    " $body$ BEGIN PERFORM evil.spring('trigger'); RETURN NEW; END $body$",
    "CREATE TRIGGER trap BEFORE INSERT ON identity.schema_migrations FOR EACH ROW EXECUTE FUNCTION identity.trap()",
    "CREATE FUNCTION identity.trap_default() RETURNS text LANGUAGE plpgsql AS"
    " $body$ BEGIN PERFORM evil.spring('default'); RETURN ''; END $body$",
    "ALTER TABLE identity.schema_migrations ADD COLUMN more text DEFAULT identity.trap_default()",
    "ALTER ROLE CURRENT_USER SET search_path = evil, pg_catalog",
]


@pytest.mark.parametrize("records", [RECORDS_REPLACED, RECORDS_TRAPPED], ids=["replaced", "trapped"])
async def test_whatever_the_owner_has_laid_runs_with_the_tenants_rights(
    world: PostgresWorld, attacker: Tenant, records: Sequence[str]
) -> None:
    await attacker.run(*traps(world.prefix))
    await attacker.run(*records, identity=True)
    late = "CREATE TABLE late (id int);"

    try:
        await attacker.make()
        await attacker.migrate(Migration("0099_late.sql", late, hashlib.sha256(late.encode()).hexdigest()))
    except ActivityError:
        pass  # what a tenant breaks in its own database may fail for it
    sprung = await world.query("SELECT DISTINCT session, role FROM evil.sprung", database=attacker.name)
    await attacker.release()

    assert {name for pair in sprung for name in pair} <= {attacker.name, attacker.identity}
    assert sprung or records is RECORDS_REPLACED, "no trap was sprung: the test proves nothing"
    powerful = await world.query("SELECT rolname FROM pg_roles WHERE rolsuper AND rolname LIKE %s", f"{world.prefix}%")
    assert powerful == []
    assert await attacker.is_gone()


async def test_a_release_makes_no_connection_into_the_database(
    running: Server, world: PostgresWorld, attacker: Tenant
) -> None:
    await attacker.run(*traps(world.prefix))
    assert running.log is not None
    before = running.log.stat().st_size

    await attacker.release()

    with running.log.open("rb") as log:
        log.seek(before)
        told = log.read().decode()
    assert f"database={attacker.name}" not in told
    assert await attacker.is_gone()


# Nothing that the tenant does keeps what it holds from being released.

HINDRANCES = {
    "read-only": ["ALTER DATABASE OWN_DATABASE SET default_transaction_read_only = on"],
    "preset-role": [
        "ALTER DATABASE OWN_DATABASE SET role = OWN_DATABASE",
        "ALTER ROLE CURRENT_USER SET role = OWN_DATABASE",
    ],
    "preset-timeouts": [
        "ALTER DATABASE OWN_DATABASE SET statement_timeout = '1ms'",
        "ALTER DATABASE OWN_DATABASE SET lock_timeout = '1ms'",
        "ALTER ROLE CURRENT_USER SET statement_timeout = '1ms'",
    ],
    "preset-nonsense": [
        "ALTER DATABASE OWN_DATABASE SET default_table_access_method = 'heap'",
        "ALTER DATABASE OWN_DATABASE SET default_transaction_isolation = 'serializable'",
        "ALTER DATABASE OWN_DATABASE SET standard_conforming_strings = off",
    ],
    "no-room": ["ALTER DATABASE OWN_DATABASE CONNECTION LIMIT 0"],
    "no-comment": ["COMMENT ON DATABASE OWN_DATABASE IS NULL"],
    "another-comment": ["COMMENT ON DATABASE OWN_DATABASE IS 'mine'"],
    "default-privileges": [
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO OWN_ID",
        "GRANT ALL ON DATABASE OWN_DATABASE TO OWN_ID, PUBLIC",
        "GRANT ALL ON SCHEMA public TO OWN_ID WITH GRANT OPTION",
    ],
    "objects": [
        "SELECT lo_from_bytea(0, 'large')",
        "CREATE SCHEMA more",
        "CREATE TABLE more.t AS SELECT generate_series(1, 1000)",
        "CREATE PUBLICATION everything",
    ],
    "prepared": ["BEGIN", "CREATE TABLE never (id int)", "PREPARE TRANSACTION 'kept'"],
    "prepared-with-locks": [
        "BEGIN",
        "COMMENT ON DATABASE OWN_DATABASE IS 'locked'",
        "PREPARE TRANSACTION 'kept-locked'",
    ],
}


async def test_a_closed_database_is_released(world: PostgresWorld, attacker: Tenant, doors: None) -> None:
    await attacker.run("ALTER DATABASE OWN_DATABASE ALLOW_CONNECTIONS false", database="postgres")

    await attacker.release()

    assert await attacker.is_gone()


@pytest.mark.parametrize("hindrance", HINDRANCES)
async def test_nothing_left_in_the_database_keeps_it(attacker: Tenant, hindrance: str) -> None:
    await attacker.run(*HINDRANCES[hindrance])

    await attacker.release()

    assert await attacker.is_gone()


async def test_a_subscription_does_not_keep_it(world: PostgresWorld, attacker: Tenant) -> None:
    """A tenant may not make one unless the platform lets it."""
    options = "connect = false, enabled = false, slot_name = NONE"
    await world.query(
        f"CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH ({options})", database=attacker.name
    )
    # Only a superuser may own one before PostgreSQL 16.
    await world.command("ALTER ROLE {} SUPERUSER", attacker.name)
    await world.query(f'ALTER SUBSCRIPTION s OWNER TO "{attacker.name}"', database=attacker.name)
    await world.command("ALTER ROLE {} NOSUPERUSER", attacker.name)

    await attacker.release()

    assert await attacker.is_gone()


@pytest.mark.parametrize(
    "held",
    [
        "COMMENT ON DATABASE OWN_DATABASE IS 'held'",
        "ALTER DATABASE OWN_DATABASE SET work_mem = '1MB'",
        "ALTER DATABASE OWN_DATABASE CONNECTION LIMIT 3",
        "ALTER ROLE CURRENT_USER SET work_mem = '1MB'",
        "ALTER ROLE CURRENT_USER PASSWORD 'held'",
        "CREATE TABLE held (id int)",
    ],
)
async def test_no_transaction_that_a_session_holds_keeps_it(attacker: Tenant, held: str) -> None:
    async with attacker.session() as session:
        await session.execute("BEGIN")
        await session.execute(attacker.filled(held))

        await attacker.release()

    assert await attacker.is_gone()


async def test_whoever_comes_back_all_the_time_does_not_keep_it(attacker: Tenant) -> None:
    over = asyncio.Event()

    async def come_back() -> None:
        while not over.is_set():
            try:
                async with attacker.session() as session:
                    await session.execute("BEGIN")
                    await session.execute(attacker.filled("COMMENT ON DATABASE OWN_DATABASE IS 'again'"))
                    await session.execute("SELECT pg_sleep(0.2)")
            except psycopg.Error:
                await asyncio.sleep(0)

    crowd = [asyncio.create_task(come_back()) for _ in range(3)]
    try:
        await attacker.release()
    finally:
        over.set()
        await asyncio.gather(*crowd)

    assert await attacker.is_gone()


async def test_a_mark_that_is_gone_is_said_and_nothing_is_lost(world: PostgresWorld, attacker: Tenant) -> None:
    """Only an administrator can take it away; the role must not stay behind unsaid."""
    await world.command("COMMENT ON ROLE {} IS NULL", attacker.identity)

    with pytest.raises(Rejected, match=f'role "{attacker.identity}" has the name .* COMMENT ON ROLE') as caught:
        await attacker.release()

    way_out = caught.value.message.partition("the tenant's: ")[2].partition(";")[0]
    await world.query(way_out)
    await attacker.release()
    assert await attacker.is_gone()


# Nothing that the tenant does hurts its neighbour.


async def test_it_reaches_neither_its_neighbour_nor_the_operators_database(
    world: PostgresWorld, attacker: Tenant, victim: Tenant
) -> None:
    await world.storage.prepare()
    for database in (victim.name, world.maintenance, "template0"):
        for identity in (False, True):
            with pytest.raises(psycopg.OperationalError):
                async with attacker.session(database, identity=identity):
                    pass
    with pytest.raises(psycopg.Error):
        await attacker.run(f'ALTER ROLE "{victim.name}" PASSWORD NULL')
    with pytest.raises(psycopg.Error):
        await attacker.run(f"COMMENT ON ROLE CURRENT_USER IS 'intelliauth.io/tenant-uid={VICTIM}'")
    with pytest.raises(psycopg.Error):
        await attacker.run(f'ALTER DATABASE OWN_DATABASE OWNER TO "{victim.name}"')


SPITE = [
    "CREATE TABLE public.spite (id int)",
    "INSERT INTO public.spite VALUES (42)",
    'GRANT ALL ON public.spite TO "VICTIM"',
    "ALTER TABLE public.spite ENABLE ROW LEVEL SECURITY",
    'CREATE POLICY spite ON public.spite TO "VICTIM" USING (true)',
    'ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO "VICTIM", "VICTIM_id"',
    'GRANT ALL ON SCHEMA public TO "VICTIM_id"',
    'GRANT ALL ON DATABASE OWN_DATABASE TO "VICTIM", "VICTIM_id"',
]


@pytest.mark.parametrize("closed", ["", "ALLOW_CONNECTIONS false", "CONNECTION LIMIT 0"])
async def test_what_it_grants_to_its_neighbour_keeps_nobody(
    world: PostgresWorld, attacker: Tenant, victim: Tenant, closed: str, doors: None
) -> None:
    """A role that was granted anything anywhere cannot be dropped: so anybody could keep anybody else's."""
    await attacker.run(*traps(world.prefix))
    await attacker.run(*(each.replace("VICTIM", victim.name) for each in SPITE))
    if closed:
        await attacker.run(f"ALTER DATABASE OWN_DATABASE {closed}", database="postgres")

    await victim.release()

    assert await victim.is_gone()
    assert await world.query("SELECT id FROM public.spite", database=attacker.name) == [(42,)]
    powerful = await world.query("SELECT rolname FROM pg_roles WHERE rolsuper AND rolname LIKE %s", f"{world.prefix}%")
    assert powerful == []
    await attacker.release()
    assert await attacker.is_gone()


async def test_a_lock_on_what_it_granted_keeps_nobody(attacker: Tenant, victim: Tenant) -> None:
    await attacker.run(*(each.replace("VICTIM", victim.name) for each in SPITE))
    async with attacker.session() as session:
        await session.execute("BEGIN")
        await session.execute("LOCK TABLE public.spite")

        await victim.release()

    assert await victim.is_gone()


async def test_the_operators_locks_are_out_of_reach(world: PostgresWorld, attacker: Tenant) -> None:
    """Their names can be guessed; where a tenant can take them they mean nothing."""
    late = Tenant(world, "late", VICTIM)
    async with AsyncExitStack() as stack:
        for database in (attacker.name, "postgres"):
            try:
                session = await stack.enter_async_context(attacker.session(database))
            except psycopg.OperationalError:
                continue  # closed already
            for subject in (late.name, "migrations", "prepare", "inventory"):
                await session.execute(
                    f"SELECT pg_advisory_lock(hashtextextended('tenant-operator:{subject}', 0))".encode()
                )

        await late.make()
        await late.release()

    assert await late.is_gone()


async def test_the_limit_on_connections_is_the_roles(world: PostgresWorld, attacker: Tenant) -> None:
    await attacker.run("ALTER DATABASE OWN_DATABASE CONNECTION LIMIT -1")
    refused = 0
    async with AsyncExitStack() as stack:
        for _ in range(LIMIT + 3):
            try:
                await stack.enter_async_context(attacker.session())
            except psycopg.OperationalError as error:
                assert "too many connections for role" in str(error)
                refused += 1
    assert refused == 3


async def test_its_name_tells_nothing(attacker: Tenant) -> None:
    async with attacker.session() as session:
        names = await (await session.execute("SELECT datname FROM pg_database")).fetchall()
    assert (attacker.name,) in names, "every role can read the names of all databases: so they must not tell"


# The other databases of the server.


@pytest.fixture
async def shop(world: PostgresWorld) -> AsyncIterator[str]:
    """A database of somebody else's on the same server, and a role that works in it."""
    name = f"shop_{world.prefix}"
    await world.command("CREATE DATABASE {} TEMPLATE template0", name)
    await world.command("CREATE ROLE {} LOGIN PASSWORD {password}", name, password=PASSWORD)
    yield name
    await world.command("DROP DATABASE {} WITH (FORCE)", name)
    for database in ("postgres", "template1"):
        await world.query(f'DROP OWNED BY "{name}"', database=database)
    await world.command("DROP ROLE {}", name)


@pytest.fixture
async def doors(world: PostgresWorld) -> AsyncIterator[None]:
    """The doors of the server's own databases are as PostgreSQL makes them, before the test and after it."""
    for _ in range(2):
        for database in ("postgres", "template1"):
            await world.command("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC", database)
        if _ == 0:
            yield


async def _can_enter(world: PostgresWorld, database: str, role: str) -> bool:
    return await world.admits(database, role, PASSWORD)


async def test_every_other_database_is_closed_or_told_with_the_command(
    world: PostgresWorld, attacker: Tenant, shop: str, doors: None
) -> None:
    assert await _can_enter(world, "postgres", attacker.name), "the test begins with open doors"

    told = [each for each in await world.storage.prepare() if '"ops_' not in each]

    if told:  # this administrator may not close them: whoever may is told how
        assert all(each.startswith("tenants' roles can connect to database ") for each in told)
        for each in told:
            await world.query(each.partition("superuser: ")[2])
        assert [each for each in await world.storage.prepare() if '"ops_' not in each] == []
    for database in ("postgres", "template1", shop):
        assert not await _can_enter(world, database, attacker.name)
    if not told:  # closed by the operator: nobody else is shut out
        assert await _can_enter(world, shop, shop)
        assert await _can_enter(world, "postgres", shop)


async def test_doors_are_left_as_they_are_where_the_platform_says_so(
    world: PostgresWorld, attacker: Tenant, shop: str, doors: None
) -> None:
    storage = PostgresStorage(world.administrator, maintenance=world.maintenance, close_others=False)
    try:
        told = await storage.prepare()
    finally:
        await storage.close()

    assert {f'database "{name}"' in " ".join(told) for name in ("postgres", "template1", shop)} == {True}
    assert await _can_enter(world, "postgres", attacker.name)


async def test_what_it_left_in_an_open_database_is_taken_away(
    world: PostgresWorld, attacker: Tenant, doors: None
) -> None:
    await attacker.run(
        "SELECT lo_from_bytea(0, 'large')",
        "CREATE TEMPORARY TABLE here (id int)",
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
        database="postgres",
    )

    await attacker.release()

    assert await attacker.is_gone()

    async def nothing_is_left() -> bool:
        return (await world.query("SELECT count(*) FROM pg_largeobject_metadata")) == [(0,)]

    await until(nothing_is_left)


async def test_what_cannot_be_taken_away_is_said_with_the_command(
    world: PostgresWorld, attacker: Tenant, shop: str
) -> None:
    await world.query("CREATE TABLE of_the_shop (id int)", database=shop)
    await world.query(f'GRANT SELECT ON of_the_shop TO "{attacker.name}"', database=shop)
    await world.command("ALTER DATABASE {} CONNECTION LIMIT 0", shop)
    await world.command("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", shop)

    try:
        await attacker.release()
    except Rejected as error:
        assert f'in database "{shop}"' in error.message
        assert await world.roles() & {attacker.name}
        assert not await _can_enter(world, "postgres", attacker.name)
        await world.query(error.message.rpartition("in that database: ")[2], database=shop)
        await attacker.release()

    assert await attacker.is_gone()
