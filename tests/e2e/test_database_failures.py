"""PostgreSQL goes away, refuses, or is not as it should be."""

import secrets
from collections.abc import Iterator, Mapping

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from devcluster import Environment
from tests.e2e import catalog
from tests.e2e.feed import Object
from tests.e2e.wire import Wire
from tests.e2e.world import TenantUnderTest, World, condition, status, timeline

ADMINISTRATOR = "e2e_administrator"


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
        yield make_conninfo(platform.database_url, user=ADMINISTRATOR, password=password)
        session.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture(scope="module")
def operator_settings(wire: Wire, administrator: str) -> Mapping[str, str]:
    login = conninfo_to_dict(administrator)
    url = f"postgresql://{ADMINISTRATOR}:{login['password']}@127.0.0.1:{wire.port}/{login['dbname']}"
    return {"DATABASE_URL": url, "STALLED_RETRY": "1s"}


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


def test_outage_that_outlives_the_budget(world: World, wire: Wire) -> None:
    """It fails; what may be held stays in the ledger until the release can be made sure of, and then it is Failed."""
    wire.cut()
    tenant = world.tenant("unlucky", "small")

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
    assert "gave up after 3 tries" in now["run"]["error"]
    assert now.get("allocations", []) == []
    tenant.holds_nothing()


def test_cancel_between_two_tries(world: World, wire: Wire) -> None:
    """A cancel does not wait for the next try, which is minutes away."""
    wire.cut()
    tenant = world.tenant("waiting", "minutes-between-tries")
    tenant.wait(_retries, "waits for its second try")
    wire.mend()
    tenant.act("cancel")
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
