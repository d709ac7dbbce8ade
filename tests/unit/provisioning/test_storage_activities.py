"""The activities that give a tenant its database, its identity store and its tables, and take them back."""

import hashlib
import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Endpoint, Migration, ObjectRef
from tenant_operator.provisioning.activities.allocate_identity_store import AllocateIdentityStore
from tenant_operator.provisioning.activities.allocate_storage import AllocateStorage
from tenant_operator.provisioning.activities.apply_schema import ApplySchema
from tenant_operator.provisioning.activity import Activity, Context, Ports
from tenant_operator.provisioning.migration_files import load_migrations
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tenant_operator.saga.step import Done
from tests.fakes.cluster import FakeCluster
from tests.fakes.storage import FakeStorage

UID = "6f2c0000-aaaa-4bbb-8ccc-1234567890ab"
NAMES = Names("banking", "cymmetri", "cymmetri", UID, "tenants.example")
PLAN = Plan.model_validate(
    {
        "metadata": {"name": "starter"},
        "spec": {
            "storage": {"connectionLimit": 12},
            "workloads": [{"name": "auth", "image": "auth:1", "ports": [{"name": "http", "containerPort": 80}]}],
        },
    }
)
TENANT = Tenant.model_validate(
    {
        "metadata": {"name": "banking", "namespace": "cymmetri", "uid": UID},
        "spec": {
            "organization": "cymmetri",
            "displayName": "banking",
            "plan": "starter",
            "admin": {"email": "admin@cymmetri.example"},
        },
    }
)


class StoppedClock:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def elapsed(self) -> float:
        return 0.0


@dataclass
class World:
    """One tenant's surroundings."""

    cluster: FakeCluster = field(default_factory=lambda: FakeCluster(StoppedClock()))
    storage: FakeStorage = field(default_factory=FakeStorage)

    def context(self, plan: Plan | None = PLAN) -> Context:
        unused = cast(Any, None)
        ports = Ports(self.cluster, self.storage, unused, unused, unused, unused, StoppedClock())

        async def checkpoint(name: str) -> None:
            raise AssertionError(f"unexpected checkpoint {name}")

        return Context(
            TENANT,
            plan,
            None,
            NAMES,
            ports,
            Options(),
            frozenset(),
            lambda detail, progress: None,
            lambda: True,
            checkpoint,
        )

    def secret(self, name: str) -> dict[str, str]:
        [found] = [each for each in self.cluster.objects("Secret") if each["metadata"]["name"] == name]
        return {key: b64decode(value).decode() for key, value in found["data"].items()}

    def jwks(self) -> dict[str, Any]:
        [found] = self.cluster.objects("ConfigMap")
        keys: dict[str, Any] = json.loads(found["data"]["jwks.json"])
        return keys

    def held(self) -> set[str]:
        """Everything that a ledger would have to know about, the namespace apart."""
        objects = [each for each in self.cluster.objects() if each["kind"] != "Namespace"]
        return (
            {f"{each['kind']} {each['metadata']['name']}" for each in objects}
            | {f"PostgresDatabase {name}" for name in self.storage.databases}
            | {f"PostgresRole {name}" for name in self.storage.roles}
            | {
                f"PostgresSchema {name}.{schema}"
                for name, found in self.storage.databases.items()
                for schema in found.schemas
            }
        )


@pytest.fixture
async def world() -> World:
    made = World()
    await made.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMES.namespace}})
    return made


PLAN_OF_STORAGE: tuple[Activity, ...] = (AllocateStorage(), AllocateIdentityStore(), ApplySchema(load_migrations()))


async def run(world: World, activities: Iterable[Activity] = PLAN_OF_STORAGE) -> list[str]:
    return [cast(Done, await activity.run(world.context())).detail for activity in activities]


async def roll_back(world: World) -> list[str]:
    """Last first, and without the plan, which may be gone by then."""
    return [
        cast(Done, await activity.compensate(world.context(plan=None))).detail for activity in reversed(PLAN_OF_STORAGE)
    ]


def reserved() -> set[str]:
    return {f"{each.kind} {each.name}" for activity in PLAN_OF_STORAGE for each in activity.reserves(NAMES)}


async def test_everything_held_was_reserved_and_nothing_else(world: World) -> None:
    await run(world)
    assert world.held() == reserved()


async def test_the_outcome_is_a_phrase_for_people(world: World) -> None:
    assert await run(world) == [
        f"database {NAMES.database} reserved",
        f"identity store identity reserved in database {NAMES.database}",
        "4 migrations applied",
    ]
    assert (await run(world))[2] == "schema up to date"


async def test_the_secret_logs_in(world: World) -> None:
    await run(world)
    content = world.secret(NAMES.database_secret)
    assert world.storage.admits(content["database"], content["username"], content["password"])
    assert (content["host"], content["port"]) == ("postgres.storage.svc", "5432")
    assert content["uri"] == (
        f"postgresql://{content['username']}:{content['password']}@postgres.storage.svc:5432/{NAMES.database}"
    )
    identity = world.secret(NAMES.identity_secret)
    assert world.storage.admits(identity["database"], identity["username"], identity["password"])
    assert identity["username"] != content["username"]
    assert identity["schema"] == "identity"
    assert world.storage.databases[NAMES.database].connection_limit == 12


async def test_run_again_nothing_changes(world: World) -> None:
    await run(world)
    objects, databases, roles = world.cluster.objects(), dict(world.storage.databases), dict(world.storage.roles)
    await run(world)
    assert (world.cluster.objects(), world.storage.databases, world.storage.roles) == (objects, databases, roles)


async def test_a_new_endpoint_reaches_the_secret_and_the_password_stays(world: World) -> None:
    await run(world)
    before = world.secret(NAMES.database_secret)
    moved = World(world.cluster, FakeStorage(Endpoint("fd00::1", 6432)))
    await run(moved)
    after = moved.secret(NAMES.database_secret)
    assert after["password"] == before["password"]
    assert after["uri"].endswith(f"@[fd00::1]:6432/{NAMES.database}")


async def test_workloads_connect_as_encrypted_as_the_platform(world: World) -> None:
    await run(world)
    assert not {"sslmode", "ca.crt"} & world.secret(NAMES.database_secret).keys()
    encrypted = World(world.cluster, FakeStorage(Endpoint("pg.example", 5432, "verify-full", "a certificate")))
    await run(encrypted)
    for name in (NAMES.database_secret, NAMES.identity_secret):
        content = encrypted.secret(name)
        assert content["uri"].endswith(f"/{NAMES.database}?sslmode=verify-full")
        assert (content["sslmode"], content["ca.crt"]) == ("verify-full", "a certificate")


async def test_the_published_key_is_the_public_half_of_the_kept_one(world: World) -> None:
    await run(world)
    kept = world.secret(NAMES.signing_secret)
    private = load_pem_private_key(kept["private-key.pem"].encode(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    [jwk] = world.jwks()["keys"]
    assert set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    numbers = private.public_key().public_numbers()
    for coordinate in ("x", "y"):
        expected = urlsafe_b64encode(getattr(numbers, coordinate).to_bytes(32)).rstrip(b"=").decode()
        assert jwk[coordinate] == expected
    thumbprint = hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{jwk["x"]}","y":"{jwk["y"]}"}}'.encode()).digest()
    assert jwk["kid"] == kept["kid"] == urlsafe_b64encode(thumbprint).rstrip(b"=").decode()


async def test_a_lost_key_set_is_derived_again_from_the_same_key(world: World) -> None:
    await run(world)
    published = world.jwks()
    await world.cluster.delete(ObjectRef("v1", "ConfigMap", NAMES.jwks, NAMES.namespace))
    await run(world)
    assert world.jwks() == published


@pytest.mark.parametrize("name", [NAMES.database_secret, NAMES.identity_secret, NAMES.signing_secret])
async def test_a_strangers_secret_is_neither_read_nor_deleted(world: World, name: str) -> None:
    await world.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMES.namespace, "labels": {}},
            "data": {"password": b64encode(b"stolen").decode()},
        }
    )
    with pytest.raises(OwnershipConflict, match=name):
        await run(world)
    await roll_back(world)
    assert world.held() == {f"Secret {name}"}


async def test_a_strangers_database_stops_the_run_but_not_the_rollback(world: World) -> None:
    world.storage.place_database(NAMES.database, owner="somebody", comment="somebody")
    with pytest.raises(OwnershipConflict, match=NAMES.database):
        await run(world)
    details = await roll_back(world)
    assert details[-1].startswith("nothing of this tenant to drop")
    assert world.held() == {f"PostgresDatabase {NAMES.database}"}


@pytest.mark.parametrize(
    ("secret", "key"),
    [(NAMES.database_secret, "password"), (NAMES.signing_secret, "private-key.pem")],
)
@pytest.mark.parametrize("damage", [None, "not base64!", b64encode(b"\xff").decode(), ""])
async def test_a_damaged_secret_says_how_to_go_on(world: World, secret: str, key: str, damage: str | None) -> None:
    await run(world)
    [stored] = [each for each in world.cluster.objects("Secret") if each["metadata"]["name"] == secret]
    await world.cluster.delete(ObjectRef("v1", "Secret", secret, NAMES.namespace))
    data = {name: value for name, value in stored["data"].items() if name != key}
    labels = stored["metadata"]["labels"]
    metadata = {"name": secret, "namespace": NAMES.namespace, "labels": labels}
    data |= {} if damage is None else {key: damage}
    storing = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
    await world.cluster.create(storing)
    with pytest.raises(Rejected, match=f"{secret}.*delete the Secret and retry"):
        await run(world)


@pytest.mark.parametrize("activity", PLAN_OF_STORAGE, ids=lambda each: each.name)
async def test_without_its_plan_nothing_is_allocated(world: World, activity: Activity) -> None:
    with pytest.raises(Rejected, match="plan starter no longer exists"):
        await activity.run(world.context(plan=None))
    assert not world.held()


async def test_rolling_back_leaves_nothing_and_can_be_repeated(world: World) -> None:
    await run(world)
    assert await roll_back(world) == [
        f"the schema goes with database {NAMES.database}",
        f"database {NAMES.database} and role {NAMES.identity_role} dropped",
        f"role {NAMES.database_role} dropped",
    ]
    assert not world.held()
    assert (await roll_back(world))[1:] == [
        f"role {NAMES.identity_role} was gone already",
        f"role {NAMES.database_role} was gone already",
    ]
    assert not world.held()


async def test_a_failing_migration_fails_the_activity(world: World) -> None:
    await run(world, PLAN_OF_STORAGE[:2])
    broken = Migration("0009_broken.sql", "DO $$ BEGIN RAISE EXCEPTION 'no'; END $$;", "sum")
    with pytest.raises(Rejected, match=r"0009_broken\.sql: PostgreSQL: no"):
        await ApplySchema([*load_migrations(), broken]).run(world.context())
    assert len(world.storage.databases[NAMES.database].applied) == 4


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_fault_at_any_effect_heals_forward_and_backward(moment: str) -> None:
    faults = 0
    for stop in count(1):
        world = World()
        await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMES.namespace}})
        seen = 0

        async def fault(op: str, name: str, stop: int = stop) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise Unavailable(f"{op} {name} was lost")

        for port in (world.cluster, world.storage):
            setattr(port, moment, fault)
        failed = False
        for phase in (run, roll_back):
            try:
                await phase(world)
            except Unavailable:
                failed = True
                await phase(world)
            assert world.held() == (reserved() if phase is run else set())
        if not failed:
            break
        faults += 1
    assert faults > 20
