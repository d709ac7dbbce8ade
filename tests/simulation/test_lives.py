"""A tenant's life as a state machine: whoever does whatever when, and the operator dies in between, it ends where it
should. What breaks it is shrunk to the few things that have to happen."""

import asyncio
from datetime import timedelta
from functools import partial
from itertools import cycle
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from

from tenant_operator.api.states import TenantState
from tenant_operator.saga.errors import Outage, Rejected, Unavailable
from tests.fakes.cluster import healthy, stuck
from tests.simulation.test_random_histories import JOURNAL, SETTLED
from tests.simulation.test_upkeep_histories import PLANS
from tests.simulation.virtual_time import VirtualTimeLoop
from tests.simulation.world import KEY, PLAN, TENANT, Life, World, broken_promises, no_fault, survive

WRITES_OF_OUR_OWN = (*JOURNAL, "append")
MAKES = ("create", "apply", "send")

seconds = sampled_from((0.0, 0.1, 0.6, 2.0, 8.0, 31.0, 400.0))
servers = sampled_from(("database", "mail"))


class Trouble:
    """What happens to the next requests: the first, the second and so on of those that come."""

    def __init__(self) -> None:
        self._planned: dict[int, str] = {}
        self._seen = 0

    def plan(self, after: int, what: str) -> None:
        self._planned[self._seen + after] = what

    def __call__(self, when: str, operation: str, name: str) -> Exception | str | None:
        self._seen += 1
        match self._planned.pop(self._seen, None):
            case "unavailable":
                return Unavailable(f"{when} {operation} {name}: lost")
            case "outage":
                return Outage(f"{when} {operation} {name}: away")
            # What the other side rejects for ever during a release is held for ever, and says so.
            case "rejected" if when == "before" and operation.startswith(MAKES) and operation not in WRITES_OF_OUR_OWN:
                return Rejected(f"{operation} {name}: no")
            case "hang" if operation not in WRITES_OF_OUR_OWN:
                return "hang"
            case "crash":
                return "crash"
        return None


class Lives(RuleBasedStateMachine):
    """One tenant, one operator at a time, and everybody who may meddle."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self._trouble = Trouble()
        self._world = World(self._trouble)
        self._life: Life | None = None

    def _live(self, span: float) -> None:
        """So much time passes, in one life or several."""

        async def story() -> None:
            if self._life is None:
                self._life = Life(self._world)
            await asyncio.sleep(span)
            if self._life.crashed.is_set():
                await self._life.end()
                self._life = Life(self._world)

        self._runner.run(story())

    def _do(self, deed: Any, *arguments: Any) -> None:
        async def story() -> None:
            deed(*arguments)

        self._runner.run(story())

    def _to_the_tenant(self, deed: Any, **changes: Any) -> None:
        """Done if it is still there when its turn comes."""
        self._do(lambda: deed(KEY, **changes) if self._is_there else None)

    @property
    def _is_there(self) -> bool:
        return self._world.tenant is not None

    @initialize(rolls_out=booleans())
    def begin(self, *, rolls_out: bool) -> None:
        self._world.cluster.rollout = healthy if rolls_out else stuck()
        self._live(0.0)
        self._do(self._world.store.apply, TENANT)

    @rule(span=seconds)
    def time_passes(self, span: float) -> None:
        self._live(span)

    @rule(after=integers(1, 60), what=sampled_from(("unavailable", "outage", "rejected", "hang", "crash")))
    def something_will_go_wrong(self, after: int, what: str) -> None:
        self._trouble.plan(after, what)

    @rule()
    def the_process_is_replaced(self) -> None:
        async def story() -> None:
            if self._life is not None:
                await self._life.end()
            self._life = Life(self._world)

        self._runner.run(story())

    @precondition(lambda self: self._is_there)
    @rule(action=sampled_from(("cancel", "retry", "reset", "nonsense")))
    def somebody_asks(self, action: str) -> None:
        self._to_the_tenant(self._world.store.annotate, action=action)

    @precondition(lambda self: self._is_there)
    @rule(state=sampled_from(("Active", "Suspended", "Decommissioned")))
    def somebody_wants(self, state: str) -> None:
        self._to_the_tenant(self._world.store.patch_spec, desiredState=state)

    @precondition(lambda self: self._is_there)
    @rule()
    def somebody_deletes_it(self) -> None:
        self._do(self._world.store.delete, KEY)

    @precondition(lambda self: not self._is_there)
    @rule()
    def somebody_makes_it_anew(self) -> None:
        self._do(self._world.store.apply, TENANT)

    @rule(number=integers(0, len(PLANS) - 1))
    def the_plan_changes(self, number: int) -> None:
        self._do(self._world.offer, PLANS[number])

    @rule(server=servers)
    def a_server_goes_away(self, server: str) -> None:
        self._world.away.add(server)

    @rule(server=servers)
    def a_server_comes_back(self, server: str) -> None:
        self._world.away.discard(server)

    @rule(lags=lists(sampled_from((0.0, 0.0, 0.2, 3.0)), min_size=1, max_size=3))
    def the_watches_lag(self, lags: list[float]) -> None:
        self._world.lag = partial(next, cycle(lags))

    @rule(wrong=sampled_from((-3600, -31, 0, 45, 86400)))
    def the_clock_is_set(self, wrong: int) -> None:
        if self._life is not None:
            self._life.clock.error = timedelta(seconds=wrong)

    @invariant()
    def nothing_was_touched_without_an_intent(self) -> None:
        assert self._world.violations == []

    def teardown(self) -> None:
        try:
            self._runner.run(self._come_to_rest())
        finally:
            self._runner.close()

    async def _come_to_rest(self) -> None:
        """Whatever was in the way is over."""
        world = self._world
        world.fault, world.cluster.rollout = no_fault, healthy
        world.lag = float
        world.away.clear()
        world.offer(PLAN)
        if self._life is not None:
            await self._life.end()
        assert await survive(world), "it does not come to rest"
        state = world.tenant.status.state if world.tenant is not None else None
        assert state in (*SETTLED, TenantState.SUSPENDED)
        assert broken_promises(world) == []


LIVES = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLives = Lives.TestCase
TestLives.settings = LIVES
