"""Random lives of a serving tenant: whatever was wanted, refused, lost or cut off on the way, the last word holds."""

import asyncio
import random

import pytest

from tenant_operator.api.plan import Plan
from tenant_operator.saga.errors import Rejected, Unavailable
from tests.fakes.cluster import healthy, stuck
from tests.simulation.test_crashes import provision
from tests.simulation.test_upkeep import images, told
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, PLAN, Life, World, broken_promises, no_fault, plan_of, survive

HISTORIES = 200
MOMENTS = 12


_AUTH = PLAN.spec.workloads[0]
PLANS = (
    PLAN,
    plan_of(_AUTH.model_copy(update={"image": "registry.example/auth:2.0"})),
    plan_of(_AUTH.model_copy(update={"name": "auth2"})),
    plan_of(_AUTH, _AUTH.model_copy(update={"name": "aux", "ports": ()})),
)


class _Trouble:
    """Some of what is tried fails, sometimes the process ends there, and sometimes somebody changes their mind."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self.desired = "Active"
        self.share = 0.0

    def want(self, desired: str) -> None:
        self.desired = desired
        self._world.store.patch_spec(KEY, desiredState=desired)

    def __call__(self, when: str, operation: str, name: str) -> Exception | str | None:
        if operation not in ("apply", "delete", "write_status") or self._chance.random() >= self.share:
            return None
        if "Ingress" in name and self._chance.random() < 0.5:
            self.want(self._chance.choice(("Active", "Suspended")))
            return None
        kind = self._chance.choice((Unavailable, Rejected, None))
        if kind is None:
            return "crash"
        return kind("no") if when == "before" or kind is Unavailable else None


async def _history(seed: int) -> tuple[World, Plan, str]:
    chance = random.Random(seed)
    world = World()
    await provision(world)
    world.fault = trouble = _Trouble(world, chance)
    life = Life(world)
    plan = PLAN
    for _ in range(MOMENTS):
        match chance.randrange(6):
            case 0 | 1:
                trouble.want(chance.choice(("Active", "Suspended")))
            case 2:
                plan = chance.choice(PLANS)
                world.offer(plan)
                life.queue.wake(KEY)
            case 3:
                world.cluster.rollout = chance.choice((healthy, stuck()))
            case 4:
                trouble.share = chance.choice((0.0, 0.1, 0.3))
            case 5:
                life.drifted("NetworkPolicy", "default-deny")
                life.queue.wake(KEY)
        await asyncio.sleep(chance.choice((0.0, 0.0, 0.1, 3.0, 60.0)))
        if life.crashed.is_set() or chance.random() < 0.1:
            await life.end()
            life = Life(world)
    await life.end()
    world.fault, world.cluster.rollout = no_fault, healthy
    world.cluster.roll_out()
    assert await survive(world)
    return world, plan, trouble.desired


@pytest.mark.parametrize("part", range(4))
def test_the_last_word_holds(part: int) -> None:
    for seed in range(part, HISTORIES, 4):
        world, plan, desired = run(_history(seed))
        assert world.tenant is not None
        assert world.tenant.status.state.value == desired, f"seed {seed}"
        assert broken_promises(world) == [], f"seed {seed}"
        assert images(world) == {each.name: each.image for each in plan.spec.workloads}, f"seed {seed}"
        assert told(world) == ({"Ready": ("True", "Active")} if desired == "Active" else {}), f"seed {seed}"
        if desired == "Active":
            assert world.backends() == [plan.spec.routed_workload.name], f"seed {seed}"
