"""The attacker is a tenant's workload: it has the Secrets of its namespace. Then the tenant is decommissioned."""

import pytest

from tests.attacks.traps import traps
from tests.e2e.world import World, connect


def test_what_a_workload_lays_in_its_database_harms_nobody(world: World) -> None:
    tenant = world.tenant("hostile", "standard")
    tenant.settles("Active")
    uri = tenant.secret("database-credentials")["uri"]
    with connect(uri) as session:
        spite = ("COMMENT ON DATABASE OWN_DATABASE IS 'mine'", "ALTER DATABASE OWN_DATABASE CONNECTION LIMIT 0")
        for statement in (*traps(tenant.database), *spite):
            session.execute(statement.replace("OWN_DATABASE", f'"{tenant.database}"').encode())
    log = world.platform.state / "logs" / "postgres.log"
    before = log.stat().st_size

    world.kubectl(
        "patch", "tenant", "hostile", tenant.where, "--type=merge", '--patch={"spec":{"desiredState":"Decommissioned"}}'
    )
    released = tenant.settles("Decommissioned")

    assert not released.get("allocations")
    tenant.holds_nothing()
    assert world.query("SELECT rolname FROM pg_roles WHERE rolsuper AND rolname <> 'postgres'") == []
    with log.open("rb") as lines:
        lines.seek(before)
        assert f"database={tenant.database}".encode() not in lines.read()


def test_the_names_on_the_server_tell_nothing_of_other_tenants(world: World) -> None:
    other, tenant = world.tenants(["confidential", "curious"])
    for each in (other, tenant):
        each.settles("Active")
    with connect(tenant.secret("database-credentials")["uri"]) as session:
        seen = session.execute(
            b"SELECT string_agg(datname, ' ') FROM pg_database UNION ALL SELECT string_agg(rolname, ' ') FROM pg_roles"
        ).fetchall()
    assert other.database in str(seen), "PostgreSQL shows every role the names of all"
    assert "confidential" not in str(seen)


@pytest.mark.parametrize("database", ["postgres", "template1", "tenant_operator"])
def test_a_workload_gets_into_no_other_database(world: World, database: str) -> None:
    tenant = world.tenant(f"wanderer-{database.replace('_', '-')}")
    tenant.settles("Active")
    for name in ("database-credentials", "identity-credentials"):
        with (
            pytest.raises(Exception, match="permission denied for database"),
            connect(tenant.secret(name)["uri"], dbname=database),
        ):
            pass
