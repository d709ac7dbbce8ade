"""A status that is wiped, replayed or restored for another record: at any point, nothing is left behind after a
release, and nothing that serves is lost, closed, or told of twice."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tenant_operator.api.conditions import ConditionType, find_condition
from tenant_operator.api.names import LABEL_TENANT_UID, Action
from tenant_operator.api.organization import Organization
from tenant_operator.api.states import RunKind, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Manifest
from tenant_operator.provisioning import claims
from tenant_operator.provisioning.activities import validate_request
from tenant_operator.provisioning.activity import Context
from tenant_operator.provisioning.claims import marked
from tenant_operator.provisioning.recall import Recalled
from tenant_operator.saga.errors import Rejected, Unavailable
from tenant_operator.tenants import host as tenant_saga
from tenant_operator.tenants.lifecycle import is_unwanted
from tenant_operator.tenants.standing import SERVING
from tests.fakes.cluster import healthy, stuck
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, ORGANIZATION, TENANT, Fault, Life, World, no_fault, survive

HISTORIES = 360


class Watched(World):
    """A world that takes note of what must not happen to a tenant that has served, while nobody asks for it."""

    def __init__(self, fault: Fault = no_fault) -> None:
        super().__init__(fault)
        self.has_served = False
        self.was_told_to_go = False
        self.losses: list[str] = []
        self.made = 0

    async def _after(self, operation: str, name: str) -> None:
        if self.backends() not in ([], ["paused"]):
            self.has_served = True
        self.made += operation == "create_database"
        tenant = self.tenant
        last = tenant.status.run if tenant is not None else None
        # A release that was asked for goes on to its end, even if the tenant is wanted again by then.
        is_going = self.was_told_to_go and last is not None and last.kind is RunKind.RELEASE
        if tenant is None or is_unwanted(tenant) or is_going:
            self.has_served = False
        elif self.has_served and operation.startswith("drop_"):
            self.losses.append(f"{operation} {name}")
        elif self.has_served and tenant.spec.desired_state == "Active" and self.backends() == ["paused"]:
            self.losses.append("the route was closed")
        await super()._after(operation, name)


def wrongs(world: Watched) -> list[str]:
    """What must not be, once a world has come to rest, however often a status was lost."""
    wrong, tenant = list(world.losses), world.tenant
    state = tenant.status.state if tenant else None
    if state in (TenantState.PROVISIONING, TenantState.DECOMMISSIONING):
        wrong.append(f"left in {state}")
    if state not in SERVING and (tenant is None or not tenant.status.allocations):
        wrong += [f"orphan: {each}" for each in world.leftovers()]
    if state in SERVING and len(world.storage.databases) != 1:
        wrong.append(f"databases: {list(world.storage.databases)}")
    serves = False
    for event in world.events:
        match event.type:
            case "tenant.provisioning.completed" | "tenant.adopted":
                serves = True
            case "tenant.deprovisioning.started" | "tenant.deprovisioning.completed" | "tenant.provisioning.cancelled":
                serves = False
            case "tenant.provisioning.started" | "tenant.deleted" if serves:
                wrong.append(f"{event.type} while it serves")
    # A mail that is sent over after a crash has the same key: whoever receives it knows it for the same.
    mails = len({mail.key for mail in world.mailer.mails})
    if mails > 3 * world.made:
        wrong.append(f"{mails} mails to a tenant that was made {world.made} times")
    return wrong


def wiped_at(point: int, status: dict[str, Any] | None = None) -> Callable[[Watched], Fault]:
    """At the given point of the story, counted from 0, the status becomes `{}`, or what is given."""

    def of(world: Watched) -> Fault:
        passed = -1

        def fault(when: str, operation: str, name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == point and world.tenant is not None:
                world.store.replace_status(KEY, status or {})

        return fault

    return of


async def provision(world: Watched) -> None:
    world.store.apply(TENANT)
    assert await survive(world)


async def provision_and_delete(world: Watched) -> None:
    await provision(world)
    world.store.delete(KEY)
    assert await survive(world)


async def provision_and_decommission(world: Watched) -> None:
    await provision(world)
    world.store.patch_spec(KEY, desiredState="Decommissioned")
    assert await survive(world)


async def fail(world: Watched) -> None:
    world.cluster.rollout = stuck()
    await provision(world)


STORIES: dict[str, tuple[Callable[[Watched], Awaitable[None]], TenantState | None]] = {
    "provision": (provision, TenantState.ACTIVE),
    "delete": (provision_and_delete, None),
    "decommission": (provision_and_decommission, TenantState.DECOMMISSIONED),
    "fail": (fail, TenantState.FAILED),
}
FORWARD = 90
"""Points up to which the stories are the same."""


@pytest.mark.parametrize("name", STORIES)
def test_a_wipe_at_any_point_leaves_nothing_and_loses_nothing(name: str) -> None:
    story, expected = STORIES[name]

    async def tell(make: Callable[[Watched], Fault]) -> Watched:
        world = Watched()
        world.fault = make(world)
        await story(world)
        return world

    points = len(run(tell(lambda world: no_fault)).points)
    for point in range(0 if story is provision else FORWARD, points):
        world = run(tell(wiped_at(point)))
        state = world.tenant.status.state if world.tenant else None
        assert (state, wrongs(world)) == (expected, []), f"wiped at point {point} of {points}"


async def _serving(world: Watched) -> dict[str, Any]:
    """A tenant that serves; its status."""
    await provision(world)
    tenant = world.tenant
    assert tenant is not None and tenant.status.state is TenantState.ACTIVE
    return tenant.status.to_wire()


def told(world: World) -> list[str]:
    return [event.type for event in world.events]


def test_a_wiped_tenant_that_serves_is_taken_over_as_it_is() -> None:
    async def story() -> None:
        world = Watched()
        before = await _serving(world)
        feed, password = told(world), dict(world.storage.roles)
        world.store.replace_status(KEY, {})
        assert await survive(world)
        assert world.tenant is not None
        status = world.tenant.status
        assert (status.state, status.attempt, status.tenant_id) == (TenantState.ACTIVE, 1, world.tenant.metadata.uid)
        assert status.run is not None and status.run.kind is RunKind.ADOPT
        rows = {(row.kind, row.name) for row in status.allocations}
        assert rows == {(row["kind"], row["name"]) for row in before["allocations"]}
        ready = find_condition(status.conditions, ConditionType.READY)
        assert ready is not None and ready.status == "True"
        assert told(world)[len(feed) :] == ["tenant.adopted"]
        assert dict(world.storage.roles) == password
        assert len(world.mailer.mails) == 3
        assert wrongs(world) == []

    run(story())


def test_a_wiped_tenant_that_is_suspended_stays_so() -> None:
    async def story() -> None:
        world = Watched()
        await _serving(world)
        world.store.patch_spec(KEY, desiredState="Suspended")
        assert await survive(world)
        feed = told(world)
        world.store.replace_status(KEY, {})
        assert await survive(world)
        assert world.tenant is not None and world.tenant.status.state is TenantState.SUSPENDED
        assert (told(world)[len(feed) :], world.backends()) == (["tenant.adopted"], ["paused"])
        world.store.patch_spec(KEY, desiredState="Active")
        assert await survive(world)
        assert world.backends() == ["auth"]

    run(story())


@pytest.mark.parametrize("in_the_same_life", [False, True])
def test_a_replayed_status_of_a_run_does_not_unmake_what_serves(in_the_same_life: bool) -> None:
    """Every status that the tenant ever had, written over that of the tenant that serves: also while the operator
    lives that has carried the run."""

    async def lives() -> list[dict[str, Any]]:
        world, seen = Watched(), []

        def fault(when: str, operation: str, name: str) -> None:
            if (when, operation) == ("after", "write_status") and world.tenant is not None:
                seen.append(world.tenant.status.to_wire())

        world.fault = fault
        await provision(world)
        return seen

    async def replayed(status: dict[str, Any], rollout: Any) -> Watched:
        world = Watched()
        life = None
        if in_the_same_life:
            life = Life(world)
            world.store.apply(TENANT)
            assert await life.settle()
        else:
            await _serving(world)
        world.cluster.rollout = rollout
        world.store.replace_status(KEY, status)
        life = life or Life(world)
        await asyncio.sleep(3600.0)
        await life.end()
        return world

    statuses = run(lives())
    assert len(statuses) >= 8
    for number, status in enumerate(statuses):
        status.pop("outbox", None)
        for rollout in (healthy, stuck()):
            world = run(replayed(status, rollout))
            assert world.tenant is not None
            assert (world.tenant.status.state, wrongs(world)) == (TenantState.ACTIVE, []), f"status {number}"
            assert world.backends() == ["auth"], f"status {number}"


@pytest.mark.parametrize("error", [Unavailable("PostgreSQL: connection failed"), Rejected("no")])
def test_an_adoption_that_fails_rolls_nothing_back_and_goes_on(error: Exception) -> None:
    async def story() -> None:
        world = Watched()
        await _serving(world)
        world.store.replace_status(KEY, {})
        world.fault = lambda when, operation, name: error if operation == "set_password" else None
        life = Life(world)
        await asyncio.sleep(900.0)
        assert world.tenant is not None
        status = world.tenant.status
        stalled = find_condition(status.conditions, ConditionType.STALLED)
        assert status.state is TenantState.ACTIVE
        assert stalled is not None and (stalled.status, stalled.reason) == ("True", "AdoptionFailed")
        assert str(error) in stalled.message
        assert (world.backends(), world.losses) == (["auth"], [])
        failures = told(world).count("tenant.provisioning.step_failed")
        assert failures <= 6
        world.fault = no_fault
        assert await life.settle()
        await life.end()
        assert find_condition(world.tenant.status.conditions, ConditionType.STALLED) is None
        assert wrongs(world) == []

    run(story())


def test_what_cannot_be_made_again_is_waited_for() -> None:
    async def story() -> None:
        world = Watched()
        await _serving(world)
        (name,) = world.storage.databases
        kept = world.storage._databases.pop(name)  # as if a restore had not come so far
        world.store.replace_status(KEY, {})
        life = Life(world)
        await asyncio.sleep(300.0)
        assert world.tenant is not None
        stalled = find_condition(world.tenant.status.conditions, ConditionType.STALLED)
        assert stalled is not None and stalled.reason == "StatusLost"
        assert f"PostgresDatabase {name}" in stalled.message
        assert (world.backends(), dict(world.storage.databases)) == (["auth"], {})
        # Asked for nevertheless, it is refused with the reason.
        world.store.annotate(KEY, action=Action.RETRY)
        await asyncio.sleep(5.0)
        last = world.tenant.status.last_action
        assert last is not None and last.outcome == "Refused"
        world.storage._databases[name] = kept
        await asyncio.sleep(120.0)
        await life.end()
        assert world.tenant.status.state is TenantState.ACTIVE
        assert find_condition(world.tenant.status.conditions, ConditionType.STALLED) is None
        assert told(world)[-1] == "tenant.adopted"

    run(story())


@pytest.mark.parametrize("with_status", [True, False])
@pytest.mark.parametrize("wiped", [True, False])
def test_a_restored_record_takes_over_what_is_its_own(with_status: bool, wiped: bool) -> None:
    async def story() -> None:
        world = Watched()
        await _serving(world)
        assert world.tenant is not None
        former, databases = world.tenant.metadata.uid, list(world.storage.databases)
        restored = world.store.restored(KEY, with_status=with_status)
        assert restored.metadata.uid != former
        assert await survive(world)
        if wiped:
            world.store.replace_status(KEY, {})
            assert await survive(world)
        status = world.tenant.status
        assert (status.state, status.tenant_id, status.attempt) == (TenantState.ACTIVE, former, 1)
        assert list(world.storage.databases) == databases
        assert {event.tenant_id for event in world.events} == {former}
        assert told(world).count("tenant.adopted") == (2 if wiped else 1)
        # Another life of the operator finds out who it is, and changes nothing.
        writes = world.store.writes
        assert await survive(world)
        assert world.store.writes == writes
        world.store.patch_spec(KEY, desiredState="Decommissioned")
        assert await survive(world)
        assert (world.tenant.status.state, world.leftovers()) == (TenantState.DECOMMISSIONED, [])
        world.store.patch_spec(KEY, desiredState="Active")
        assert await survive(world)
        assert (world.tenant.status.state, world.tenant.status.attempt) == (TenantState.ACTIVE, 2)
        world.store.delete(KEY)
        assert await survive(world)
        assert world.store.peek(KEY) is None
        assert (world.leftovers(), wrongs(world)) == ([], [])

    run(story())


@pytest.mark.parametrize("with_status", [True, False])
def test_a_restored_record_that_is_unwanted_releases_what_is_its_own(with_status: bool) -> None:
    async def story() -> None:
        world = Watched()
        await _serving(world)
        world.store.restored(KEY, with_status=with_status)
        world.store.delete(KEY)
        assert await survive(world)
        assert (world.tenant, world.leftovers(), told(world)[-1]) == (None, [], "tenant.deleted")

    run(story())


def test_an_identity_that_nothing_proves_is_not_believed() -> None:
    """A status that tells of somebody else, and no namespace that says so: what is theirs is not touched."""

    async def story() -> None:
        world = Watched()
        status = await _serving(world)
        assert world.tenant is not None
        former, databases = world.tenant.metadata.uid, dict(world.storage.databases)
        world.cluster._objects.clear()
        world.store.restored(KEY, with_status=True)
        life = Life(world)
        await asyncio.sleep(300.0)
        stalled = find_condition(world.tenant.status.conditions, ConditionType.STALLED)
        assert stalled is not None and stalled.reason == "StatusLost"
        assert f"orphans --release {former}" in stalled.message
        assert (world.refs("Namespace"), dict(world.storage.databases)) == ([], databases)
        world.store.delete(KEY)
        await asyncio.sleep(300.0)
        assert world.tenant is not None, "the record stays, or the database would be forgotten"
        assert dict(world.storage.databases) == databases
        stalled = find_condition(world.tenant.status.conditions, ConditionType.STALLED)
        assert stalled is not None and former in stalled.message
        for name in list(world.storage.databases):
            world.storage._databases.pop(name)
        world.storage._roles.clear()
        assert await life.settle()
        await life.end()
        assert world.tenant is None
        assert status["tenantId"] == former

    run(story())


def test_a_lie_about_who_a_serving_tenant_is_is_put_right() -> None:
    async def story() -> None:
        world = Watched()
        status = await _serving(world)
        assert world.tenant is not None
        for told_id in ("somebody-else", None):
            world.store.replace_status(KEY, {**status, "tenantId": told_id})
            assert await survive(world)
            now = world.tenant.status
            assert (now.tenant_id, now.state) == (world.tenant.metadata.uid, TenantState.ACTIVE)
        assert wrongs(world) == []

    run(story())


def test_without_its_organization_nothing_is_said_to_be_released() -> None:
    """Its slug is part of the names: without it they cannot be known."""

    async def story() -> None:
        world = Watched()
        slugged = ORGANIZATION.model_copy(update={"spec": ORGANIZATION.spec.model_copy(update={"slug": "cym"})})
        world.offer(slugged)
        await _serving(world)
        world.store.replace_status(KEY, {})
        world.platform.delete(Organization, "cymmetri")
        world.store.delete(KEY)
        life = Life(world)
        await asyncio.sleep(600.0)
        assert world.tenant is not None and world.refs("Namespace") != []
        stalled = find_condition(world.tenant.status.conditions, ConditionType.STALLED)
        assert stalled is not None and "create Organization cymmetri again" in stalled.message
        world.offer(slugged)
        assert await life.settle()
        await life.end()
        assert world.store.peek(KEY) is None
        assert world.leftovers() == []

    run(story())


def test_another_name_in_the_same_place_takes_over_nothing() -> None:
    async def story() -> None:
        world = Watched()
        await _serving(world)
        assert world.tenant is not None
        uid = world.tenant.metadata.uid
        other = {**TENANT, "metadata": {**TENANT["metadata"], "name": "other"}}
        world.store.apply({**other, "spec": {**TENANT["spec"], "slug": KEY.name}})
        assert await survive(world)
        (thief,) = (each for each in world.store.tenants() if each.metadata.name == "other")
        assert thief.status.state is TenantState.FAILED
        assert thief.status.run is not None and "is taken" in (thief.status.run.error or "")
        (namespace,) = world.cluster.objects("Namespace")
        assert namespace["metadata"]["labels"][LABEL_TENANT_UID] == uid
        world.store.delete(type(KEY)(KEY.namespace, "other"))
        assert await survive(world)
        assert len(world.storage.databases) == 1

    run(story())


def test_a_forged_word_that_all_is_released_does_not_let_the_record_go() -> None:
    async def story() -> None:
        world = Watched()
        await provision_and_delete(other := Watched())
        assert other.tenant is None
        status = await _serving(world)
        run_ = {**status["run"], "kind": "Release", "reason": "Deleted", "outcome": "Released"}
        world.store.delete(KEY)
        world.store.replace_status(KEY, {**status, "run": run_, "allocations": [], "timeline": []})
        assert await survive(world)
        assert (world.tenant, world.leftovers()) == (None, [])
        assert told(world)[-1] == "tenant.deleted"

    run(story())


async def history(seed: int) -> Watched:
    """Anything happens, and now and then the status is gone."""
    dice = random.Random(seed)
    world = Watched()
    rate = dice.choice((0.002, 0.01, 0.03))
    wipes = dice.randrange(1, 5)

    def fault(when: str, operation: str, name: str) -> Exception | str | None:
        nonlocal wipes
        if wipes and dice.random() < rate:
            wipes -= 1
            if (tenant := world.tenant) is not None:
                world.store.replace_status(KEY, _maimed(tenant.status.to_wire(), dice))
            return dice.choice((None, None, "crash", Unavailable("lost")))
        return None

    world.fault = fault
    world.cluster.rollout = dice.choice((healthy, healthy, healthy, stuck()))
    world.store.apply(TENANT)
    meddling = asyncio.create_task(_meddle(world, dice))
    assert await survive(world), f"seed {seed} does not come to rest"
    meddling.cancel()
    if dice.random() < 0.5 and world.tenant is not None:
        world.store.replace_status(KEY, {})
        world.cluster.rollout = healthy
        assert await survive(world), f"seed {seed} does not come to rest after the last wipe"
    match dice.randrange(3):
        case 0:
            world.store.delete(KEY)
        case 1 if world.tenant is not None:
            world.store.patch_spec(KEY, desiredState="Decommissioned")
    assert await survive(world), f"seed {seed} does not come to rest at its end"
    return world


def _maimed(status: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """What is left of a status."""
    part = dice.choice(("all", "all", "all", "run", "timeline", "allocations", "tenantId"))
    return {} if part == "all" else {name: value for name, value in status.items() if name != part}


async def _meddle(world: Watched, dice: random.Random) -> None:
    for _ in range(dice.randrange(0, 4)):
        await asyncio.sleep(dice.choice((0.0, 0.2, 1.0, 5.0, 25.0)))
        if world.tenant is None:
            return
        match dice.choice(("wipe", "retry", "decommission", "recreate", "delete", "restore")):
            case "wipe":
                world.store.replace_status(KEY, {})
            case "retry":
                world.store.annotate(KEY, action="retry")
            case "decommission":
                world.was_told_to_go = True
                world.store.patch_spec(KEY, desiredState="Decommissioned")
            case "recreate":
                world.store.patch_spec(KEY, desiredState="Active")
            case "delete":
                world.store.delete(KEY)
            case "restore" if world.tenant.metadata.deletion_timestamp is None:
                world.store.restored(KEY, with_status=dice.random() < 0.5)


@pytest.mark.parametrize("batch", range(12))
def test_random_histories_with_wipes(batch: int) -> None:
    size = HISTORIES // 12
    for seed in range(batch * size, (batch + 1) * size):
        assert wrongs(run(history(seed))) == [], f"seed {seed}"


def _breaks(seeds: int = 120) -> bool:
    """Whether some history notices that something is wrong."""
    for seed in range(seeds):
        try:
            if wrongs(run(history(seed))):
                return True
        except AssertionError:  # it does not come to rest
            return True
    return False


def test_the_simulation_notices_if_a_run_begins_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async def mutant(tenant: Tenant, *_: object, for_run: bool, **__: object) -> Recalled:
        return Recalled(tenant.metadata.uid, for_run=for_run)

    monkeypatch.setattr(tenant_saga, "recall", mutant)
    assert _breaks()


def test_the_simulation_notices_if_the_namespace_does_not_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(namespace: Manifest, tenant: Tenant, *, served: bool) -> Manifest:
        return marked(namespace, tenant, served=False)

    monkeypatch.setattr(claims, "marked", mutant)
    assert _breaks()


def test_the_simulation_notices_if_the_last_look_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def blind(ctx: Context) -> tuple[str, ...]:
        return ()

    async def looks_for_nothing_but_itself(tenant: Tenant, *_: object, for_run: bool, **__: object) -> Recalled:
        return Recalled(tenant.metadata.uid, for_run=for_run)

    async def story() -> Watched:
        world = Watched()
        await _serving(world)
        world.store.replace_status(KEY, {})
        world.store.delete(KEY)
        assert await survive(world)
        return world

    monkeypatch.setattr(tenant_saga, "recall", looks_for_nothing_but_itself)
    assert wrongs(run(story())) == []  # one of the two looks is enough for what a wipe leaves
    monkeypatch.setattr(validate_request, "remains", blind)
    monkeypatch.setattr(tenant_saga, "remains", blind)
    assert wrongs(run(story())) != []
