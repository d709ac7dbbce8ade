"""Thousands of random histories: crashes, faults of every kind, requests at any moment. All end where they should."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga import decide, evolve
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tenant_operator.saga.facts import ActivityCompleted, ActivityStarted, Fact, Tick
from tenant_operator.saga.model import Entry, EntryState, RowState, Saga
from tenant_operator.saga.session import Move, Session
from tenant_operator.saga.step import Step
from tenant_operator.tenants import feed as audit
from tenant_operator.tenants import writer
from tests.fakes.cluster import healthy, stuck
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, TENANT, World, broken_promises, survive

HISTORIES = 2000
ADVERSE_HISTORIES = 600
JOURNAL = ("write_status", "write_metadata")

SETTLED = (
    TenantState.ACTIVE,
    TenantState.FAILED,
    TenantState.PENDING,
    TenantState.DECOMMISSIONED,
    None,
)


class Chaos:
    """A fault for a world: what goes wrong, and how often, is drawn from the seed. It stops at some point."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._left = dice.randrange(1, 8)
        self._rate = dice.choice((0.01, 0.03, 0.1))

    def __call__(self, when: str, operation: str, name: str) -> Exception | str | None:
        if self._left == 0 or self._dice.random() > self._rate:
            return None
        self._left -= 1
        kinds = ["crash", "unavailable"]
        if operation not in (*JOURNAL, "append"):
            # Not during a release: what the other side rejects for ever is held for ever, and says so.
            kinds += ["hang", "rejected"] if operation.startswith(("create", "apply", "send")) else ["hang"]
        match self._dice.choice(kinds):
            case "unavailable":
                return Unavailable(f"{when} {operation} {name}: lost")
            case "rejected" if when == "before":
                return self._dice.choice((Rejected, OwnershipConflict))(f"{operation} {name}: no")
            case "rejected":
                return None
            case kind:
                return kind


def wrong_clock(dice: random.Random) -> timedelta:
    """By how much a clock is wrong: not at all, a little, or beyond all reason."""
    return dice.choice((-1, 1)) * timedelta(seconds=dice.choice((0, 0, 0.5, 20, 45, 3600, 86400 * 400)))


async def history(seed: int, *, adverse: bool = False) -> World:
    """One random history: a tenant is asked for, and then anything happens. `adverse`: no life of the operator has a
    right clock, each is set now and then, and servers go away for a while."""
    dice = random.Random(seed)
    world = World(Chaos(dice))
    if adverse:
        world.error = lambda: wrong_clock(dice)
    world.cluster.rollout = dice.choice((healthy, healthy, healthy, stuck()))
    world.store.apply(TENANT)
    if adverse:
        _set_clocks(world, dice)
        _take_away(world, dice)
    meddling = asyncio.create_task(_meddle(world, dice))
    assert await survive(world), f"seed {seed} does not come to rest"
    if not meddling.done():
        meddling.cancel()
    if dice.random() < 0.3:
        world.store.delete(KEY)
        assert await survive(world), f"seed {seed} does not come to rest after its deletion"
    return world


def _set_clocks(world: World, dice: random.Random) -> None:
    """The clock of whatever life there is then is set, now and then."""

    def set_clock() -> None:
        if world.life is not None:
            world.life.clock.error = wrong_clock(dice)

    for _ in range(dice.randrange(0, 4)):
        asyncio.get_running_loop().call_later(dice.uniform(0.0, 60.0), set_clock)


def _take_away(world: World, dice: random.Random) -> None:
    """A server is away for a while, now and then."""
    loop = asyncio.get_running_loop()
    for server in ("database", "mail"):
        if dice.random() < 0.5:
            begin = dice.uniform(0.0, 5.0)
            loop.call_later(begin, world.away.add, server)
            loop.call_later(begin + dice.choice((0.1, 2.0, 16.0, 60.0)), world.away.discard, server)


async def _meddle(world: World, dice: random.Random) -> None:
    for _ in range(dice.randrange(0, 3)):
        await asyncio.sleep(dice.choice((0.0, 0.2, 1.0, 5.0, 25.0)))
        if world.tenant is None:
            return
        match dice.choice(("cancel", "retry", "reset", "decommission", "recreate", "delete", "label")):
            case "cancel" | "retry" | "reset" as action:
                world.store.annotate(KEY, action=action)
            case "decommission":
                world.store.patch_spec(KEY, desiredState="Decommissioned")
            case "recreate":
                world.store.patch_spec(KEY, desiredState="Active")
            case "delete":
                world.store.delete(KEY)
            case "label":
                world.store.apply({**TENANT, "metadata": {**TENANT["metadata"], "labels": {"seen": "yes"}}})


def check(seed: int, *, adverse: bool = False) -> list[str]:
    """What a history leaves broken."""
    world = run(history(seed, adverse=adverse))
    state = world.tenant.status.state if world.tenant else None
    return broken_promises(world) + ([] if state in SETTLED else [f"ended in {state}"])


@pytest.mark.parametrize("batch", range(20))
def test_random_histories_keep_every_promise(batch: int) -> None:
    size = HISTORIES // 20
    for seed in range(batch * size, (batch + 1) * size):
        assert check(seed) == [], f"seed {seed}"


@pytest.mark.parametrize("batch", range(20))
def test_wrong_clocks_and_outages_break_no_promise(batch: int) -> None:
    size = ADVERSE_HISTORIES // 20
    for seed in range(batch * size, (batch + 1) * size):
        assert check(seed, adverse=True) == [], f"seed {seed}"


def _breaks(seeds: int = 300) -> bool:
    """Whether some history notices that something is wrong."""
    for seed in range(seeds):
        try:
            if check(seed):
                return True
        except AssertionError:  # it does not come to rest
            return True
    return False


def test_the_simulation_notices_if_only_completed_steps_are_compensated(monkeypatch: pytest.MonkeyPatch) -> None:
    original = decide.decide

    def mutant(saga: Saga, *rest: object) -> object:
        timeline = tuple(
            replace(row, state=RowState.SKIPPED)
            if saga.run and saga.run.direction == "Backward" and row.state in (RowState.RUNNING, RowState.FAILED)
            else row
            for row in saga.timeline
        )
        return original(replace(saga, timeline=timeline), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decide, "decide", mutant)
    assert _breaks()


def test_the_simulation_notices_an_effect_before_its_intent_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(self: Session[Tenant], move: Move) -> bool:
        return isinstance(move.decision, decide.Act) and all(isinstance(fact, Tick) for fact in move.facts)

    monkeypatch.setattr(Session, "may_wait", mutant)
    assert _breaks()


def test_the_simulation_notices_a_ledger_row_that_is_written_with_the_completion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = evolve.evolve

    def mutant(saga: Saga, fact: Fact, now: datetime, worker: evolve.Worker, steps: Mapping[str, Step]) -> Saga:
        match fact:
            case ActivityStarted(activity):
                return original(saga, replace(fact, reserves=()), now, worker, steps)
            case ActivityCompleted(activity):
                entries = tuple(
                    Entry(each, activity, EntryState.ALLOCATING, now, now) for each in steps[activity].reserves
                )
                saga = replace(saga, ledger=saga.ledger + entries)
        return original(saga, fact, now, worker, steps)

    monkeypatch.setattr(decide, "evolve", mutant)
    assert _breaks()


def test_the_simulation_notices_if_only_what_is_journalled_as_begun_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion taken for an intent: what was run under the intent of its phase may not be journalled."""
    monkeypatch.setattr(evolve, "_unsure", lambda saga: saga)
    assert _breaks()


@pytest.mark.parametrize("told", [0, 2], ids=["lost", "told twice"])
def test_the_simulation_notices_an_audit_event_that_is(told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tick: it is told with the write that takes it along, and only then."""
    original = audit.audit_events

    def mutant(tenant: Tenant, names: Names, saga: Saga, facts: Sequence[Fact], **rest: Any) -> list[OutboxEvent]:
        late = [fact for fact in facts if isinstance(fact, ActivityCompleted) and fact.at is not None]
        due = [fact for fact in facts if fact not in late] if told == 0 else [*facts, *late]
        return original(tenant, names, saga, due, **rest)

    monkeypatch.setattr(writer, "audit_events", mutant)
    assert _breaks()
