"""`tenant-operator orphans`, beside an operator and with its rights: what belongs to nobody is found, and released."""

import json
import subprocess
import sys
from collections.abc import Mapping

import psycopg
import pytest

from devcluster.platform import operator_environment
from tests.attacks.test_wiped_status import lose, restore
from tests.e2e.feed import Object
from tests.e2e.operator_process import environment_of
from tests.e2e.waiting import until
from tests.e2e.world import Answer, TenantUnderTest, World, status

ALIEN = "0c1d2e3f-0000-4000-8000-000000000001"


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    return {"STALLED_RETRY": "1s"}


def orphans(world: World, *options: str, **settings: str) -> Answer:
    """What the command answers."""
    own = {f"TENANT_OPERATOR_{name}": value for name, value in settings.items()}
    environment = environment_of(operator_environment(world.platform, health_port=0) | own)
    command = [sys.executable, "-m", "tenant_operator", "orphans", *options]
    done = subprocess.run(  # noqa: S603
        command, env=environment, capture_output=True, text=True, timeout=120, check=False, input=""
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def found(world: World) -> list[Object]:
    answer = orphans(world, "-o", "json")
    assert answer.code in (0, 1), answer.err
    findings: list[Object] = json.loads(answer.out)
    assert bool(findings) is bool(answer.code)
    return findings


def test_where_all_fits_there_is_nothing_to_find(world: World) -> None:
    world.tenant("orderly").settles("Active")
    answer = orphans(world)
    assert (answer.code, answer.out) == (0, "everything belongs to a tenant, and is there\n")
    assert found(world) == []


def test_orphans_are_found_and_released_by_name(world: World) -> None:
    kept, gone = world.tenants(["kept", "gone"])
    kept.settles("Active")
    gone.settles("Active")
    lose(world, gone)
    world.operator.start()

    findings = found(world)
    assert {(each["verdict"], each["uid"], each["tenant"]) for each in findings} == {
        ("Orphan", gone.uid, f"{gone.key[0]}/{gone.name}")
    }
    assert sorted(each["kind"] for each in findings) == [
        "Namespace",
        "PostgresDatabase",
        "PostgresRole",
        "PostgresRole",
    ]
    assert gone.uid in orphans(world).out

    # Nobody's but those that are named, and not without a yes.
    refused = orphans(world, "--release", kept.uid, "--yes")
    assert (refused.code, "no orphan carries the UID" in refused.err) == (2, True)
    assert orphans(world, "--release", gone.uid).code != 0
    assert len(gone.databases()) == 1

    answer = orphans(world, "--release", gone.uid, "--yes")
    assert answer.code == 0, answer.out + answer.err
    assert "another cluster" in answer.err
    gone.holds_nothing()
    assert (len(kept.databases()), kept.namespaces()) == (1, [kept.namespace])
    assert found(world) == []


def test_what_a_ledger_has_and_is_not_there_is_missing(world: World) -> None:
    tenant = world.tenant("missing")
    tenant.settles("Active")
    (database,) = tenant.databases()
    world.query(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
    world.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)
    world.query(f'ALTER DATABASE "{database}" RENAME TO "set_aside"')
    findings = {(each["verdict"], each["kind"], each["name"]) for each in found(world)}
    # It carries the tag under whatever name.
    assert findings == {("Missing", "PostgresDatabase", database), ("Unlisted", "PostgresDatabase", "set_aside")}
    world.query(f'ALTER DATABASE "set_aside" RENAME TO "{database}"')
    world.query(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    assert found(world) == []


def test_a_tenant_that_came_back_is_released_by_nobody_but_its_operator(world: World) -> None:
    former = world.tenant("returned")
    former.settles("Active")
    backup = lose(world, former)
    assert {each["uid"] for each in found(world)} == {former.uid}
    tenant = restore(world, backup)  # no operator has seen it yet, and its status tells nothing
    assert {each["verdict"] for each in found(world)} == {"Unlisted"}
    assert orphans(world, "--release", former.uid, "--yes").code == 2
    world.operator.start()
    tenant.wait(lambda each: status(each).get("state") == "Active", "is taken over")
    until(lambda: found(world) == [], "all fits", 30)
    assert len(former.databases()) == 1


def test_the_databases_of_another_cluster_are_left_alone_unless_they_are_named(world: World) -> None:
    role = sqlrole = "tenant_alien"
    world.query(f"CREATE ROLE {role} LOGIN")
    world.query(f"COMMENT ON ROLE {sqlrole} IS 'intelliauth.io/tenant-uid={ALIEN}'")
    world.query(f"CREATE DATABASE {role} OWNER {role}")
    world.query(f"COMMENT ON DATABASE {role} IS 'intelliauth.io/tenant-uid={ALIEN}'")
    orphan = _tenant_of_nobody(world)
    assert {each["uid"] for each in found(world)} == {ALIEN, orphan.uid}
    assert orphans(world, "--release", orphan.uid, "--yes").code == 0
    assert {each["uid"] for each in found(world)} == {ALIEN}
    assert orphans(world, "--release", ALIEN, "--yes").code == 0
    assert found(world) == []


def _tenant_of_nobody(world: World) -> TenantUnderTest:
    tenant = world.tenant("nobodys")
    tenant.settles("Active")
    lose(world, tenant)
    world.operator.start()
    return tenant


def test_what_cannot_be_found_out_is_told(world: World) -> None:
    dsn = psycopg.conninfo.make_conninfo(world.platform.database_url, port="1")
    answer = orphans(world, DATABASE_URL=dsn)
    assert (answer.code, answer.out) == (2, "")
    assert "cannot find out: PostgreSQL" in answer.err
