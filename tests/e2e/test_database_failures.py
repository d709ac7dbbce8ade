"""PostgreSQL goes away, refuses, or is not as it should be."""

import secrets
import time
from collections.abc import Iterator, Mapping

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from devcluster import Environment
from tenant_operator.adapters.circuit import LONGEST_PAUSE
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.wire import Wire
from tests.e2e.world import TenantUnderTest, World, condition, is_held_up, status, timeline

ADMINISTRATOR = "e2e_administrator"
MAINTENANCE = "e2e_operations"
"""A database of its own to work in: the other one is that of the other modules' administrator."""
OUTAGE_SECONDS = 16


@pytest.fixture(scope="module")
def wire(platform: Environment) -> Iterator[Wire]:
    """What the operator's connections to PostgreSQL go through."""
    server = conninfo_to_dict(platform.database_url)
    with Wire(str(server["host"]), int(str(server["port"]))) as wire:
        yield wire


@pytest.fixture(scope="module")
def administrator(platform: Environment) -> Iterator[str]:
    """The connection string, past the wire, of a role that may make databases and roles and is no superuser."""
    password = secrets.token_urlsafe(16)
    role = sql.Identifier(ADMINISTRATOR)
    with psycopg.connect(platform.database_url, autocommit=True) as session:
        session.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {}").format(role, sql.Literal(password))
        )
        # The operator of another module, a superuser, may have closed it to those who come later.
        session.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
        yield make_conninfo(platform.database_url, user=ADMINISTRATOR, password=password)
        session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(MAINTENANCE)))
        session.execute(sql.SQL("DROP OWNED BY {}").format(role))
        session.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture(scope="module")
def operator_settings(wire: Wire, administrator: str) -> Mapping[str, str]:
    login = conninfo_to_dict(administrator)
    url = f"postgresql://{ADMINISTRATOR}:{login['password']}@127.0.0.1:{wire.port}/{login['dbname']}"
    return {"DATABASE_URL": url, "DATABASE_MAINTENANCE": MAINTENANCE, "STALLED_RETRY": "1m"}


@pytest.fixture(autouse=True)
def mended(wire: Wire) -> Iterator[None]:
    """Whatever a test has done to the wire."""
    yield
    wire.mend()


def _retries(tenant: Object) -> bool:
    return any(row["activity"] == "allocate-storage" and row.get("nextTryAt") for row in timeline(tenant))


def test_outage_heals(world: World, wire: Wire) -> None:
    """The failed tries are told while they last, and are history once the database is back."""
    wire.cut()
    tenant = world.tenant("patient", "patient-with-postgres")
    version = tenant.wait(_retries, "tries again").tenant
    assert condition(version, "Ready")["reason"] == "Retrying"
    assert "connection" in condition(version, "Ready")["message"].lower()
    wire.mend()
    now = tenant.settles("Active")
    assert now["attempt"] == 1
    assert now["errors"][0]["activity"] == "allocate-storage"
    assert [event["data"]["step"] for event in tenant.told("tenant.provisioning.step_failed")]
    assert tenant.event("StepRetrying", says="allocate-storage")["type"] == "Warning"
    assert len(tenant.databases()) == 1


def test_all_of_many_tenants_outlive_an_outage_and_spare_the_server(world: World, wire: Wire) -> None:
    """None fails though each may try only three times; hardly anybody knocks meanwhile; then all go on at once."""
    wire.hang_up()
    tenants = world.tenants([f"patient-{number}" for number in range(8)])
    for tenant in tenants:
        tenant.runs("allocate-storage")
    time.sleep(OUTAGE_SECONDS)  # not a wait for something: so long it lasts
    tried, mended = len(wire.turned_away), time.monotonic()
    wire.mend()
    for tenant in tenants:
        now = tenant.settles("Active")
        assert now["attempt"] == 1
        assert all("nextTryAt" not in row for row in now["timeline"])
    # At most one for each, when it began, and one that asks for all of them, at pauses of up to 2 s.
    assert tried <= len(tenants) + OUTAGE_SECONDS / 2 + 6
    assert min(each for each in wire.calls if each > mended) - mended < 2 * LONGEST_PAUSE
    told = [event for tenant in tenants for event in tenant.told("tenant.provisioning.step_failed")]
    assert len(told) <= len(tenants), "who was not let in has not tried"
    assert any(
        "PostgreSQL has been out of service since" in says(each) for tenant in tenants for each in tenant.versions
    )


def says(tenant: Object) -> str:
    return str(condition(tenant, "Ready").get("message", ""))


def test_a_release_goes_on_as_soon_as_the_server_is_back(world: World, wire: Wire) -> None:
    """Its time is over and it says that it is stalled, but its next try is not a minute away."""
    world.offer(catalog.plan("short", timeouts={"allocate-identity-store": "3s"}))
    tenant = world.tenant("released-late", "short")
    tenant.settles("Active")
    wire.hang_up()
    world.delete([tenant], wait=False)
    version = tenant.wait(lambda each: condition(each, "Ready").get("reason") == "ReleaseFailed", "is stalled").tenant
    (row,) = (row for row in timeline(version) if row["activity"] == "allocate-identity-store")
    assert "PostgreSQL has been out of service since" in row["message"]
    assert "nextTryAt" not in row
    before = len(wire.turned_away)
    wire.mend()
    world.delete([tenant])
    assert len(wire.turned_away) - before <= 1
    tenant.holds_nothing()


def test_outage_that_outlives_the_timeout(world: World, wire: Wire) -> None:
    """It fails; what may be held stays in the ledger until the release can be made sure of, and then it is Failed."""
    wire.cut()
    world.offer(catalog.plan("impatient", timeouts={"allocate-storage": "5s"}))
    tenant = world.tenant("unlucky", "impatient")

    def is_stalled(version: Object) -> bool:
        return condition(version, "Ready").get("reason") == "ReleaseFailed"

    version = tenant.wait(is_stalled, "says that the release does not get on").tenant
    assert condition(version, "Stalled")["status"] == "True"
    assert condition(version, "Reconciling") == {}
    assert condition(version, "ResourcesHeld")["status"] == "True"
    assert "PostgresDatabase" in {row["kind"] for row in status(version)["allocations"]}
    assert tenant.event("ReleaseStalled")["type"] == "Warning"
    wire.mend()
    now = tenant.settles("Failed")
    assert now["run"]["failedActivity"] == "allocate-storage"
    assert "timed out after 5 s: PostgreSQL" in now["run"]["error"]
    assert now.get("allocations", []) == []
    tenant.holds_nothing()


def test_cancel_between_two_tries(world: World, wire: Wire) -> None:
    """A cancel does not wait for the next try, which is minutes away, nor for the server."""
    wire.cut()
    tenant = world.tenant("waiting", "minutes-between-tries")
    tenant.wait(lambda each: is_held_up(each, "allocate-storage"), "waits for its second try")
    tenant.act("cancel")
    tenant.wait(lambda each: status(each)["run"].get("cancelledActivity") is not None, "is being cancelled")
    wire.mend()
    now = tenant.settles("Pending")
    assert now["run"]["cancelledActivity"] == "allocate-storage"
    assert {row["tries"] for row in now["timeline"] if row["activity"] == "allocate-storage"} == {0}
    tenant.holds_nothing()


def test_refusal_is_not_tried_again(world: World) -> None:
    """An administrator who may not make databases will not be allowed to a second later."""
    role = sql.Identifier(ADMINISTRATOR)
    with psycopg.connect(world.platform.database_url, autocommit=True) as session:
        session.execute(sql.SQL("ALTER ROLE {} NOCREATEDB").format(role))
        try:
            tenant = world.tenant("refused", "patient-with-postgres")
            now = tenant.settles("Failed")
        finally:
            session.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(role))
    assert now["run"]["failedActivity"] == "allocate-storage"
    assert "permission denied to create database" in now["run"]["error"]
    tries = tenant.told("tenant.provisioning.step_failed")
    assert not [each for each in tries if "permission denied" in each["data"]["error"]]
    tenant.holds_nothing()


def test_broken_migration_names_the_file(world: World, administrator: str) -> None:
    """A table that is in the way of a migration: file and PostgreSQL's own words are told, and all is rolled back."""
    assert world.operator.stop() == 0
    tenant = world.tenant("halfmade")
    _make_half_a_database(tenant, administrator)
    world.operator.start()
    now = tenant.settles("Failed")
    assert now["run"]["failedActivity"] == "apply-schema"
    for message in (now["run"]["error"], condition(tenant.newest(), "Ready")["message"]):
        assert "0001_identities" in message
        assert 'relation "users" already exists' in message
    assert not [each for each in tenant.told("tenant.provisioning.step_failed") if "0001" in each["data"]["error"]]
    tenant.holds_nothing()


def _make_half_a_database(tenant: TenantUnderTest, administrator: str) -> None:
    """What an interrupted restore could have left: the tenant's database and roles, and one table too many."""
    database, owner = sql.Identifier(tenant.database), sql.Identifier(tenant.database)
    identity = sql.Identifier(tenant.database + "_id")
    tag = sql.Literal(f"intelliauth.io/tenant-uid={tenant.uid}")
    with psycopg.connect(administrator, autocommit=True) as session:
        for role in (owner, identity):
            session.execute(sql.SQL("CREATE ROLE {}").format(role))
            session.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, tag))
            session.execute(sql.SQL("GRANT {} TO CURRENT_USER WITH INHERIT TRUE, SET TRUE").format(role))
        session.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
        session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, tag))
    with psycopg.connect(administrator, dbname=tenant.database, autocommit=True) as session:
        session.execute(sql.SQL("CREATE SCHEMA identity AUTHORIZATION {}").format(identity))
        session.execute("CREATE TABLE identity.users (surprise text)")


def test_it_provisions_without_being_superuser(world: World) -> None:
    tenant = world.tenant("modest", "standard")
    tenant.settles("Active")
    assert len(tenant.databases()) == 1
    assert catalog.PLANS["standard"]["spec"]["storage"]["connectionLimit"] == 7
    ((limit, owner),) = world.query(
        "SELECT datconnlimit, pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = %s", tenant.database
    )
    assert (limit, owner) == (7, tenant.database)
