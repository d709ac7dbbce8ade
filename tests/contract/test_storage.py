"""What a tenant may rely on when it asks for a database, a schema and its migrations."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from tenant_operator.ports import Migration, StoredItem
from tenant_operator.provisioning.migration_files import load_migrations
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tests.contract.postgres_fixture import postgres_dsn  # noqa: F401 (a fixture)
from tests.contract.storage_world import FakeWorld, World, postgres_world

TAG, OTHER = "6f2c0000-aaaa-4bbb-8ccc-1234567890ab", "99990000-aaaa-4bbb-8ccc-1234567890ab"
FIRST, IDENTITY = "first", "identity"


@pytest.fixture(params=["fake", "superuser", "limited"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    dsn = request.getfixturevalue("postgres_dsn")
    async with postgres_world(dsn, superuser=request.param == "superuser") as real:
        yield real


def migration(version: str, sql: str) -> Migration:
    return Migration(version, sql, hashlib.sha256(sql.encode()).hexdigest())


CREATE_A = migration("0001_a.sql", "CREATE TABLE a (id int PRIMARY KEY);")
CREATE_B = migration("0002_b.sql", "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);")
BROKEN = migration("0002_b.sql", "CREATE TABLE b (id int);\nDO $$ BEGIN RAISE EXCEPTION 'broken on purpose'; END $$;")
CREATE_C = migration("0003_c.sql", "CREATE TABLE c (id int PRIMARY KEY);")


async def make_database(world: World, name: str, *, password: str = FIRST, limit: int = 7, tag: str = TAG) -> None:
    await world.storage.ensure_database(name, owner=name, password=password, connection_limit=limit, tag=tag)


async def make_schema(world: World, name: str, *, password: str = IDENTITY, tag: str = TAG) -> None:
    await world.storage.ensure_schema(
        name, schema="identity", role=f"{name}_id", password=password, connection_limit=7, tag=tag
    )


async def migrate(
    world: World, name: str, *migrations: Migration, password: str = IDENTITY, tag: str = TAG
) -> list[str]:
    return await world.storage.migrate(
        name, migrations, schema="identity", role=f"{name}_id", password=password, tag=tag
    )


async def release(world: World, name: str, *, tag: str = TAG) -> list[str]:
    """As a rollback does it: the identity store first."""
    return [
        *await world.storage.release(name, role=f"{name}_id", tag=tag),
        *await world.storage.release(name, role=name, tag=tag),
    ]


async def test_a_database_belongs_to_a_role_that_can_log_in(world: World) -> None:
    await make_database(world, world.prefix)
    found = (await world.databases())[world.prefix]
    assert (found.owner, found.comment, found.connection_limit) == (world.prefix, TAG, 7)
    assert await world.admits(world.prefix, world.prefix, "first")
    assert not await world.admits(world.prefix, world.prefix, "wrong")


async def test_run_again_it_sets_password_and_limit_and_keeps_the_data(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    await migrate(world, world.prefix, CREATE_A)
    await make_database(world, world.prefix, password="second", limit=9)
    assert (await world.databases())[world.prefix].connection_limit == 9
    assert await world.admits(world.prefix, world.prefix, "second")
    assert not await world.admits(world.prefix, world.prefix, "first")
    assert await world.applied(world.prefix) == ["0001_a.sql"]


async def test_two_workers_at_once_make_one_database(world: World) -> None:
    await asyncio.gather(*(make_database(world, world.prefix) for _ in range(3)))
    await asyncio.gather(*(make_schema(world, world.prefix) for _ in range(3)))
    assert set(await world.databases()) == {world.prefix}
    assert await world.schemas(world.prefix) == {"identity"}


async def test_many_tenants_at_once(world: World) -> None:
    names = {f"{world.prefix}_{number}" for number in range(12)}
    await asyncio.gather(*(make_database(world, name) for name in names))
    await asyncio.gather(*(make_schema(world, name) for name in names))
    assert set(await world.databases()) == names
    assert await world.roles() == names | {f"{name}_id" for name in names}


async def test_a_database_that_a_crash_left_unfinished_is_adopted(world: World) -> None:
    await make_database(world, world.prefix)
    await world.leave_unfinished(world.prefix)
    await make_database(world, world.prefix)
    found = (await world.databases())[world.prefix]
    assert (found.comment, found.connection_limit) == (TAG, 7)


async def test_a_database_that_a_crash_left_unfinished_is_dropped(world: World) -> None:
    await make_database(world, world.prefix)
    await world.leave_unfinished(world.prefix)
    assert await world.storage.release(world.prefix, role=world.prefix, tag=TAG) == [
        f"database {world.prefix}",
        f"role {world.prefix}",
    ]
    assert not await world.databases()
    assert not await world.roles()


async def test_another_tenants_database_stays_untouched(world: World) -> None:
    await make_database(world, world.prefix, tag=OTHER)
    before = await world.databases()
    with pytest.raises(OwnershipConflict, match=world.prefix):
        await make_database(world, world.prefix, password="stolen", limit=1)
    with pytest.raises(OwnershipConflict, match=world.prefix):
        await make_schema(world, world.prefix)
    with pytest.raises(OwnershipConflict, match=world.prefix):
        await migrate(world, world.prefix, CREATE_A)
    with pytest.raises(OwnershipConflict, match=world.prefix):
        await world.storage.release(world.prefix, role=world.prefix, tag=TAG)
    assert await world.databases() == before
    assert await world.roles() == {world.prefix}
    assert await world.admits(world.prefix, world.prefix, "first")


@pytest.mark.parametrize("comment", [None, OTHER, TAG])
async def test_a_strangers_database_is_neither_adopted_nor_dropped(world: World, comment: str | None) -> None:
    await world.place_database(world.prefix, comment=comment)
    before = await world.databases()
    with pytest.raises(OwnershipConflict, match="database"):
        await make_database(world, world.prefix)
    # What bears the tenant's mark and is not its own any more is for a person to judge.
    with pytest.raises(Rejected, match="belongs to role" if comment == TAG else "does not belong to this tenant"):
        await world.storage.release(world.prefix, role=world.prefix, tag=TAG)
    assert await world.databases() == before
    assert not await world.roles()


@pytest.mark.parametrize("tag", [None, OTHER])
async def test_a_strangers_role_is_neither_adopted_nor_dropped(world: World, tag: str | None) -> None:
    await world.place_role(world.prefix, tag=tag)
    await world.place_role(f"{world.prefix}_x_id", tag=tag)
    with pytest.raises(OwnershipConflict, match="role"):
        await make_database(world, world.prefix)
    await make_database(world, f"{world.prefix}_x")
    with pytest.raises(OwnershipConflict, match="role"):
        await make_schema(world, f"{world.prefix}_x")
    says = "its mark is gone" if tag is None else "does not belong to this tenant"
    with pytest.raises(Rejected, match=says):
        await world.storage.release(world.prefix, role=world.prefix, tag=TAG)
    with pytest.raises(Rejected, match=says):
        await world.storage.release(f"{world.prefix}_x", role=f"{world.prefix}_x_id", tag=TAG)
    assert {world.prefix, f"{world.prefix}_x_id"} <= await world.roles()


async def test_roles_connect_to_their_own_database_only(world: World) -> None:
    mine, neighbour = f"{world.prefix}_1", f"{world.prefix}_2"
    for name in (mine, neighbour):
        await make_database(world, name)
        await make_schema(world, name)
    assert await world.admits(mine, mine, "first")
    assert await world.admits(mine, f"{mine}_id", "identity")
    assert not await world.admits(neighbour, mine, "first")
    assert not await world.admits(neighbour, f"{mine}_id", "identity")


async def test_a_schema_needs_its_database(world: World) -> None:
    with pytest.raises(Rejected, match="does not exist"):
        await make_schema(world, world.prefix)
    assert not await world.roles()


async def test_releasing_leaves_nothing_and_can_be_repeated(world: World) -> None:
    name, identity = world.prefix, f"{world.prefix}_id"
    await make_database(world, name)
    await make_schema(world, name)
    await migrate(world, name, CREATE_A)
    assert await world.storage.release(name, role=identity, tag=TAG) == [f"database {name}", f"role {identity}"]
    assert not await world.databases()
    assert await world.roles() == {name}
    assert await world.storage.release(name, role=identity, tag=TAG) == []
    assert await world.storage.release(name, role=name, tag=TAG) == [f"role {name}"]
    assert await world.storage.release(name, role=name, tag=TAG) == []
    assert not await world.roles()


async def test_releasing_what_never_was_is_success(world: World) -> None:
    assert await release(world, world.prefix) == []


async def test_a_database_that_was_given_away_is_left_to_a_person(world: World) -> None:
    await make_database(world, world.prefix)
    await world.give_away(world.prefix)
    with pytest.raises(Rejected, match=f'database "{world.prefix}" belongs to role'):
        await world.storage.release(world.prefix, role=world.prefix, tag=TAG)
    assert set(await world.databases()) == await world.roles() == {world.prefix}


async def test_the_inventory_is_what_was_made_for_tenants(world: World) -> None:
    mine, other = f"{world.prefix}_1", f"{world.prefix}_2"
    await make_database(world, mine)
    await make_schema(world, mine)
    await make_database(world, other, tag=OTHER)
    await world.place_database(f"{world.prefix}_3", comment=TAG)
    await world.place_role(f"{world.prefix}_4", tag=None)
    found = [item for item in await world.storage.inventory() if item.name.startswith(world.prefix)]
    assert sorted(found, key=lambda item: (item.kind, item.name)) == [
        StoredItem("PostgresDatabase", mine, TAG),
        StoredItem("PostgresDatabase", other, OTHER),
        StoredItem("PostgresRole", mine, TAG),
        StoredItem("PostgresRole", f"{mine}_id", TAG),
        StoredItem("PostgresRole", other, OTHER),
    ]


async def test_a_released_database_can_be_made_again(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    await migrate(world, world.prefix, CREATE_A)
    await release(world, world.prefix)
    await make_database(world, world.prefix, tag=OTHER)
    await make_schema(world, world.prefix, tag=OTHER)
    assert await migrate(world, world.prefix, CREATE_A, tag=OTHER) == ["0001_a.sql"]


@pytest.mark.parametrize("odd", ['"; DROP ROLE x; --', "it's", "%s %(a)s {}", "Ümlaut Ω", "\\", "x" * 200])
async def test_names_are_taken_literally_up_to_63_bytes(world: World, odd: str) -> None:
    fitting = (world.prefix + odd)[:60]
    await make_database(world, fitting, password="p'\"\\%s ü")
    await make_schema(world, fitting, password="p'\"\\%s ü")
    assert await migrate(world, fitting, CREATE_A, password="p'\"\\%s ü") == ["0001_a.sql"]
    assert set(await world.databases()) == {fitting}
    assert await world.roles() == {fitting, f"{fitting}_id"}
    assert await world.admits(fitting, fitting, "p'\"\\%s ü")
    await release(world, fitting)
    assert not await world.roles()


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0b"])
async def test_names_that_postgresql_would_change_are_refused(world: World, name: str) -> None:
    with pytest.raises(Rejected, match="cannot be a PostgreSQL name"):
        await make_database(world, name)
    with pytest.raises(Rejected, match="cannot be a PostgreSQL name"):
        await world.storage.release(world.prefix, role=name, tag=TAG)


async def test_migrations_are_applied_in_the_order_of_their_names_and_once(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    assert await migrate(world, world.prefix, CREATE_C, CREATE_A) == ["0001_a.sql", "0003_c.sql"]
    assert await migrate(world, world.prefix, CREATE_C, CREATE_A) == []
    assert await migrate(world, world.prefix, CREATE_A, CREATE_B, CREATE_C) == ["0002_b.sql"]
    assert await world.applied(world.prefix) == ["0001_a.sql", "0003_c.sql", "0002_b.sql"]


async def test_two_workers_at_once_apply_each_migration_once(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    results = await asyncio.gather(*(migrate(world, world.prefix, CREATE_A, CREATE_B) for _ in range(3)))
    assert sorted(results) == [[], [], ["0001_a.sql", "0002_b.sql"]]


async def test_a_migration_that_changed_after_it_was_applied_stops_everything(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    await migrate(world, world.prefix, CREATE_B)
    with pytest.raises(Rejected, match=r"0002_b\.sql has changed"):
        await migrate(world, world.prefix, CREATE_A, BROKEN, CREATE_C)
    assert await world.applied(world.prefix) == ["0002_b.sql"]


async def test_a_failing_migration_is_named_and_the_run_resumes_after_it(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    with pytest.raises(Rejected, match=r"^migration 0002_b\.sql: PostgreSQL: broken on purpose$"):
        await migrate(world, world.prefix, CREATE_A, BROKEN, CREATE_C)
    assert await world.applied(world.prefix) == ["0001_a.sql"]
    assert await migrate(world, world.prefix, CREATE_A, CREATE_B, CREATE_C) == ["0002_b.sql", "0003_c.sql"]


async def test_migrations_need_their_database_and_their_schema(world: World) -> None:
    with pytest.raises(Rejected, match="does not exist"):
        await migrate(world, world.prefix, CREATE_A)
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    with pytest.raises(Rejected, match="nowhere"):
        await world.storage.migrate(
            world.prefix, [CREATE_A], schema="nowhere", role=f"{world.prefix}_id", password=IDENTITY, tag=TAG
        )


async def test_migrations_need_the_roles_own_password(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    with pytest.raises(Unavailable, match="password authentication failed"):
        await migrate(world, world.prefix, CREATE_A, password="another")


async def test_the_shipped_migrations_make_a_schema(world: World) -> None:
    await make_database(world, world.prefix)
    await make_schema(world, world.prefix)
    shipped = load_migrations()
    assert await migrate(world, world.prefix, *shipped) == [each.version for each in shipped]
    assert await migrate(world, world.prefix, *shipped) == []


async def test_the_inventory_of_one_tag_is_what_carries_it(world: World) -> None:
    mine, others = f"{world.prefix}_mine", f"{world.prefix}_others"
    await make_database(world, mine)
    await make_schema(world, mine)
    await make_database(world, others, tag=OTHER)
    found = {
        (item.kind, item.name) for item in await world.storage.inventory(TAG) if item.name.startswith(world.prefix)
    }
    assert found == {("PostgresDatabase", mine), ("PostgresRole", mine), ("PostgresRole", f"{mine}_id")}
    everything = {item.name: item.tag for item in await world.storage.inventory()}
    assert (everything[mine], everything[others]) == (TAG, OTHER)
    assert await world.storage.inventory("nobody") == []
