"""Every request, in every state and at every activity, both ways: what is legal happens, the rest is refused."""

import asyncio

import pytest

from tenant_operator.api.names import ActivityName
from tenant_operator.api.states import TenantState
from tenant_operator.provisioning.activity import Activity, Context
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.step import Progress, Undone
from tests.simulation.virtual_time import run
from tests.simulation.world import KEY, STEPS, TENANT, Life, World, broken_promises, steps_with
from tests.stand_in import StandIn

REQUESTS = ("cancel", "retry", "reset", "suspend", "resume", "decommission", "delete")

S = TenantState
GONE = None

FORWARD = {
    # What a saga running forward comes to, by the request that reaches it.
    "cancel": S.PENDING,
    "retry": S.ACTIVE,
    "reset": S.ACTIVE,
    "suspend": S.SUSPENDED,
    "resume": S.ACTIVE,
    "decommission": S.DECOMMISSIONED,
    "delete": GONE,
}
BACKWARD = {
    # A rollback after a failure is not to be turned: what is lasting intent is seen to afterwards.
    "cancel": S.FAILED,
    "retry": S.FAILED,
    "reset": S.FAILED,
    "suspend": S.FAILED,
    "resume": S.FAILED,
    "decommission": S.DECOMMISSIONED,
    "delete": GONE,
}
AT_REST = {
    S.ACTIVE: {"suspend": S.SUSPENDED, "decommission": S.DECOMMISSIONED, "delete": GONE},
    S.SUSPENDED: {"resume": S.ACTIVE, "decommission": S.DECOMMISSIONED, "delete": GONE},
    S.FAILED: {"retry": S.FAILED, "reset": S.FAILED, "decommission": S.DECOMMISSIONED, "delete": GONE},
    S.PENDING: {"retry": S.ACTIVE, "reset": S.FAILED, "decommission": S.DECOMMISSIONED, "delete": GONE},
    S.DECOMMISSIONED: {"resume": S.ACTIVE, "delete": GONE},
}
ILLEGAL_AT_REST = {
    S.ACTIVE: ("cancel", "retry", "reset"),
    S.SUSPENDED: ("cancel", "retry", "reset"),
    S.FAILED: ("cancel",),
    S.PENDING: ("cancel",),
    S.DECOMMISSIONED: ("cancel", "retry", "reset"),
}


def ask(world: World, request: str) -> None:
    """What kubectl would do."""
    match request:
        case "cancel" | "retry" | "reset":
            world.store.annotate(KEY, action=request)
        case "suspend":
            world.store.patch_spec(KEY, desiredState="Suspended")
        case "resume":
            world.store.patch_spec(KEY, desiredState="Active")
        case "decommission":
            world.store.patch_spec(KEY, desiredState="Decommissioned")
        case "delete":
            world.store.delete(KEY)


class Gate(StandIn):
    """Another activity, held up on its way in until the gate is opened."""

    def __init__(self, inner: Activity, *, forward: bool) -> None:
        super().__init__(inner)
        self._forward = forward
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def run(self, ctx: Context) -> Progress:
        if self._forward:
            self.reached.set()
            await self.opened.wait()
        return await super().run(ctx)

    async def compensate(self, ctx: Context) -> Undone:
        if not self._forward:
            self.reached.set()
            await self.opened.wait()
        return await super().compensate(ctx)


class Failing(StandIn):
    """Another activity that fails for good, after it did its work."""

    async def run(self, ctx: Context) -> Progress:
        await super().run(ctx)
        raise Rejected("no")


FAILING_STEPS = steps_with(ActivityName.MARK_ACTIVE, Failing)


def state_of(world: World) -> TenantState | None:
    """The state, None once the record is gone."""
    return world.tenant.status.state if world.tenant else None


def _runs_forward(world: World) -> bool:
    run = world.tenant.status.run if world.tenant else None
    return run is not None and run.direction == "Forward"


async def settled(world: World, life: Life) -> None:
    """Live on to rest, and end."""
    assert await life.settle()
    await life.end()


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("activity", [name for name in ActivityName if name != ActivityName.SEND_WELCOME_EMAILS])
def test_a_request_while_the_saga_runs_forward(activity: str, request_: str) -> None:
    async def story() -> World:
        world = World()
        gates: list[Gate] = []

        def gated(inner: Activity) -> Activity:
            gates.append(Gate(inner, forward=True))
            return gates[0]

        life = Life(world, steps_with(activity, gated))
        world.store.apply(TENANT)
        await gates[0].reached.wait()
        asked = asyncio.get_running_loop().time()
        ask(world, request_)
        if request_ in ("cancel", "decommission", "delete"):
            while _runs_forward(world):  # noqa: ASYNC110 (virtual time)
                await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() - asked < 1, "the running activity was not interrupted"
        else:
            await asyncio.sleep(1)
        gates[0].opened.set()
        await settled(world, life)
        return world

    world = run(story())
    assert (state_of(world), broken_promises(world)) == (FORWARD[request_], [])
    if request_ in ("cancel", "retry", "reset") and world.tenant is not None:
        action = world.tenant.status.last_action
        assert action is not None
        assert (action.action, action.outcome == "Accepted") == (request_, request_ == "cancel")


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("activity", [name for name in ActivityName if name != ActivityName.SEND_WELCOME_EMAILS])
def test_a_request_while_the_saga_rolls_back(activity: str, request_: str) -> None:
    async def story() -> World:
        world = World()
        gates: list[Gate] = []

        def gated(inner: Activity) -> Activity:
            gates.append(Gate(inner, forward=False))
            return gates[0]

        life = Life(world, steps_with(activity, gated, FAILING_STEPS))
        world.store.apply(TENANT)
        await gates[0].reached.wait()
        ask(world, request_)
        await asyncio.sleep(1)
        gates[0].opened.set()
        await settled(world, life)
        return world

    world = run(story())
    assert (state_of(world), broken_promises(world)) == (BACKWARD[request_], [])


async def at_rest(world: World, state: TenantState) -> None:
    """A tenant in a state in which nothing runs."""
    fails = state is TenantState.FAILED
    steps = FAILING_STEPS if fails else STEPS
    gates: list[Gate] = []
    if state is TenantState.PENDING:

        def gated(inner: Activity) -> Activity:
            gates.append(Gate(inner, forward=True))
            return gates[0]

        steps = steps_with(ActivityName.APPLY_SCHEMA, gated)
    life = Life(world, steps)
    world.store.apply(TENANT)
    if gates:
        await gates[0].reached.wait()
        ask(world, "cancel")
    else:
        assert await life.settle()
    if state is TenantState.SUSPENDED:
        ask(world, "suspend")
    if state is TenantState.DECOMMISSIONED:
        ask(world, "decommission")
    await settled(world, life)
    assert state_of(world) is state


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("state", AT_REST)
def test_a_request_at_rest(state: TenantState, request_: str) -> None:
    async def story() -> World:
        world = World()
        await at_rest(world, state)
        steps = FAILING_STEPS if state is TenantState.FAILED else STEPS
        before = world.tenant
        life = Life(world, steps)
        ask(world, request_)
        await settled(world, life)
        if request_ in ILLEGAL_AT_REST[state]:
            assert before is not None and world.tenant is not None and world.tenant.status.last_action is not None
            assert world.tenant.status.last_action.outcome == "Refused"
            assert "llowed now" in world.tenant.status.last_action.message
            assert world.tenant.status.timeline == before.status.timeline
        return world

    world = run(story())
    assert (state_of(world), broken_promises(world)) == (AT_REST[state].get(request_, state), [])


def test_a_suspended_tenant_keeps_its_route_closed_over_a_restart() -> None:
    async def story() -> World:
        world = World()
        await at_rest(world, TenantState.SUSPENDED)
        await settled(world, Life(world))
        return world

    world = run(story())
    (ingress,) = world.cluster.objects("Ingress")
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"]
    assert backend == "paused"
    assert world.told("tenant.suspended", "tenant.resumed") == ["tenant.suspended"]


def test_a_tenant_created_suspended_never_opens_its_route() -> None:
    async def story() -> World:
        world = World()
        world.store.apply({**TENANT, "spec": {**TENANT["spec"], "desiredState": "Suspended"}})
        await settled(world, Life(world))
        return world

    world = run(story())
    assert state_of(world) is TenantState.SUSPENDED
    (ingress,) = world.cluster.objects("Ingress")
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "paused"
