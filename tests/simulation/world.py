"""The whole operator over fakes, in virtual time: lives that end anywhere, faults in any effect, and what must hold."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from tenant_operator.adapters.circuit import Circuit, SparingMailer
from tenant_operator.adapters.kubernetes.catalog import WatchedCatalog
from tenant_operator.adapters.kubernetes.listener import Hear
from tenant_operator.api.names import LABEL_TENANT_UID, ActivityName
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan, Workload
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import OutboxEvent
from tenant_operator.ports import Clock, Mailer, ObjectRef, TenantKey
from tenant_operator.provisioning.activity import Activity, Context, Ports
from tenant_operator.provisioning.migration_files import load_migrations
from tenant_operator.provisioning.objects import ref_of
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.saga.errors import Outage
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.model import RowState
from tenant_operator.saga.step import Progress, Undone
from tenant_operator.tenants.journal import decode
from tenant_operator.tenants.standing import SERVING, standing_of
from tenant_operator.wiring import Outside, assemble
from tests.fakes.audit import FakeAudit
from tests.fakes.cluster import FakeCluster
from tests.fakes.mailer import FakeMailer
from tests.fakes.notifier import FakeNotifier
from tests.fakes.platform_store import FakePlatformStore
from tests.fakes.prober import FakeProber
from tests.fakes.replicas import FakeReplicas
from tests.fakes.storage import FakeStorage
from tests.fakes.store import FakeTenantStore
from tests.simulation.virtual_time import VirtualClock
from tests.stand_in import StandIn

KEY = TenantKey("cymmetri", "banking")

TENANT: dict[str, Any] = {
    "metadata": {"name": KEY.name, "namespace": KEY.namespace},
    "spec": {
        "organization": "cymmetri",
        "plan": "starter",
        "admin": {"email": "admin@cymmetri.example"},
    },
}

ORGANIZATION = Organization.model_validate(
    {
        "metadata": {"name": "cymmetri"},
        "spec": {"displayName": "Cymmetri", "namespace": "cymmetri", "plans": ["starter"]},
    }
)

PLAN = Plan.model_validate(
    {
        "metadata": {"name": "starter"},
        "spec": {
            "displayName": "Starter",
            # Short, so that a hung step costs a simulation few heartbeats.
            "timeouts": {str(name): "30s" for name in ActivityName},
            "workloads": [
                {
                    "name": "auth",
                    "image": "registry.example/auth:1.0",
                    "ports": [{"name": "http", "containerPort": 8080}],
                }
            ],
        },
    }
)


def plan_of(*workloads: Workload) -> Plan:
    """The same plan with other workloads."""
    return PLAN.model_copy(update={"spec": PLAN.spec.model_copy(update={"workloads": workloads})})


MIGRATIONS = load_migrations()
STEPS = provisioning_steps(Options(), MIGRATIONS)

_IN_HAND: ContextVar[tuple[str, bool]] = ContextVar("_IN_HAND", default=("", False))
"""The activity at work, and whether it is being undone; each try is a task of its own."""


class Crash(BaseException):
    """The process is gone: nothing of it runs on, nothing is tidied up."""


Fault = Callable[[str, str, str], Exception | str | None]
"""Called with ("before" | "after", operation, name): an exception to raise, "crash", "hang", or None."""


def no_fault(when: str, operation: str, name: str) -> Exception | str | None:
    """All goes well."""
    return None


@dataclass
class World:
    """What outlives the operator's process: the API server, PostgreSQL, the mail server, the audit store."""

    fault: Fault = no_fault
    clock: VirtualClock = field(default_factory=VirtualClock)
    """The API server's."""
    error: Callable[[], timedelta] = timedelta
    """By how much the clock of the next life of the operator is wrong."""
    lag: Callable[[], float] = float
    """Seconds until a watch tells of the next change: where it is drawn anew each time, changes come in any order."""
    away: set[str] = field(default_factory=set)
    """What is out of service: "database", "mail"."""
    knocks: Counter[str] = field(default_factory=Counter)
    """How often somebody asked what is out of service."""
    worker: str = ""
    """The life that is being lived."""
    points: list[str] = field(default_factory=list)
    """What it came past, in order: before or after which write or effect."""
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FakeTenantStore(self.clock)
        self.cluster = FakeCluster(self.clock)
        self.storage = FakeStorage()
        self.mailer = FakeMailer()
        self.prober = FakeProber()
        self.audit = FakeAudit()
        self.notifier = FakeNotifier()
        self.replicas = FakeReplicas()
        self.platform = FakePlatformStore(self.cluster)
        self.offer(PLAN)
        self.offer(ORGANIZATION)
        self.lives = count(1)
        self.life: Life | None = None
        for port in (self.store, self.cluster, self.audit):
            port.before = self._before
            port.after = self._after
        for server, shared in (("database", self.storage), ("mail", self.mailer)):
            shared.before = partial(self._before_shared, server)
            shared.after = self._after

    def offer(self, resource: Plan | Organization) -> None:
        """The platform team applies it."""
        self.platform.apply(type(resource), resource.metadata.name, resource.to_wire()["spec"])

    def outside(self, clock: Clock, mailer: Mailer) -> Outside:
        """What a replica is put upon, for one that knows nothing yet."""
        catalog = WatchedCatalog()
        ports = Ports(self.cluster, self.storage, mailer, self.prober, catalog, self.store, clock)
        return Outside(ports, self.store, self.platform, catalog, self.notifier, self.audit, self.replicas)

    async def ask(self, server: str) -> None:
        """What tells whether a server is in service."""
        if server in self.away:
            self.knocks[server] += 1
            raise Outage(f"{server}: connection refused")

    async def _before_shared(self, server: str, operation: str, name: str) -> None:
        await self.ask(server)
        await self._before(operation, name)

    async def _before(self, operation: str, name: str) -> None:
        self._intent_was_journalled(operation, name)
        await self._point("before", operation, name)

    async def _after(self, operation: str, name: str) -> None:
        await self._point("after", operation, name)

    async def _point(self, when: str, operation: str, name: str) -> None:
        if self.life is None or self.life.crashed.is_set():
            raise Crash
        self.points.append(f"{when} {operation} {name}")
        match self.fault(when, operation, name):
            case Exception() as error:
                raise error
            case "crash":
                self.life.crashed.set()
                raise Crash
            case "hang":
                await asyncio.sleep(10_000_000)
            case _:
                pass

    def _intent_was_journalled(self, operation: str, name: str) -> None:
        """Intent before effect: the stored journal announces whatever is touched, the ledger has whatever is made."""
        if operation in ("write_status", "write_metadata", "append"):
            return
        tenant = self.store.peek(KEY)
        if tenant is None:
            self.violations.append(f"{operation} {name} without a record")
            return
        if tenant.status.state in SERVING and operation in ("apply", "delete"):
            return  # the upkeep of a serving tenant: its spec and its plan are the intent
        standing = standing_of(tenant.status)
        if tenant.status.state in SERVING and (standing.rolling_out or standing.repairing or standing.lost):
            return  # what opens its data follows the plan, or is made again
        saga, (activity, is_undone) = decode(tenant.status), _IN_HAND.get()
        row = next((row for row in saga.timeline if row.activity == activity), None)
        if row is None or saga.run is None or saga.run.finished or saga.run.worker != self.worker:
            self.violations.append(f"{operation} {name} was not announced in the journal")
            return
        if row.state is not RowState.COMPENSATING if is_undone else not saga.is_open(row.phase):
            self.violations.append(f"{operation} {name} by {activity} was not announced in the journal")
            return
        if operation == "connect" and is_undone:
            return  # a release after a reset looks for what the ledger may not have come to
        if operation == "drop_database" and any(each.reservation.kind == "PostgresDatabase" for each in saga.ledger):
            return  # it goes with whatever in it is rolled back first
        reserving = activity.startswith("allocate") or activity == ActivityName.DEPLOY_WORKLOADS
        if reserving and not any(entry.activity == activity for entry in saga.ledger):
            self.violations.append(f"{operation} {name} by {activity} without a row in the ledger")

    @property
    def tenant(self) -> Tenant | None:
        """The record as it is stored now."""
        return self.store.peek(KEY)

    @property
    def events(self) -> list[OutboxEvent]:
        """The audit feed."""
        return self.audit.events

    def told(self, *types: str) -> list[str]:
        """The steps (or types, where there is no step) of the feed's events of these types, in order."""
        return [str(event.data.get("step", event.type)) for event in self.events if event.type in types]

    def refs(self, kind: str) -> list[ObjectRef]:
        """The objects of a kind."""
        return [ref_of(each) for each in self.cluster.objects(kind)]

    def backends(self) -> list[str]:
        """The Services that the route leads to."""
        return [
            path["backend"]["service"]["name"]
            for route in self.cluster.objects("Ingress")
            for rule in route["spec"]["rules"]
            for path in rule["http"]["paths"]
        ]

    def leftovers(self) -> list[str]:
        """What a tenant left behind in the cluster and in PostgreSQL."""
        objects = [
            f"{each['kind']} {each['metadata']['name']}"
            for each in self.cluster.objects()
            if LABEL_TENANT_UID in each["metadata"].get("labels", {})
        ]
        return [*objects, *self.storage.databases, *self.storage.roles]


class Watched(StandIn):
    """Tells the world which activity is at work."""

    async def run(self, ctx: Context) -> Progress:
        _IN_HAND.set((self.name, False))
        return await super().run(ctx)

    async def compensate(self, ctx: Context) -> Undone:
        _IN_HAND.set((self.name, True))
        return await super().compensate(ctx)


def steps_with(
    activity: str, wrap: Callable[[Activity], Activity], steps: Sequence[Activity] = STEPS
) -> list[Activity]:
    """The steps, one of them wrapped."""
    return [wrap(each) if each.name == activity else each for each in steps]


class Life:
    """One life of the operator's process."""

    def __init__(self, world: World, activities: Sequence[Activity] = STEPS) -> None:
        self.world = world
        self.crashed = asyncio.Event()
        number = next(world.lives)
        self.clock = clock = VirtualClock(world.error())
        worker = Worker(f"worker-{number}", number, clock.now())
        world.worker = worker.id
        ids = (f"01{number:04d}{serial:020d}" for serial in count())
        database = Circuit("database", partial(world.ask, "database"), limit=4, clock=clock)
        post = Circuit("mail", partial(world.ask, "mail"), limit=4, clock=clock)
        world.storage.permits = database
        parts = assemble(
            world.outside(clock, SparingMailer(world.mailer, post)),
            [Watched(each) for each in activities],
            Options(),
            worker,
            new_id=lambda: next(ids),
            concurrency=4,
            jitter=random.Random(number),
        )
        self.inbox, self.queue, self.requests, self.courier = parts.inbox, parts.queue, parts.requests, parts.courier
        self.comparison = parts.comparison
        database.on_closed = post.on_closed = self.inbox.server_is_back
        self._last: dict[TenantKey, dict[str, Any]] = {}
        world.life = self
        asyncio.get_running_loop().set_exception_handler(_report_all_but_crashes)
        for body in world.platform.bodies(Plan):
            self.inbox.plan_changed(None, body)
        for body in world.platform.bodies(Organization):
            self.inbox.organization_changed(None, body)
        for tenant in world.store.tenants():
            self._changed(TenantKey(tenant.metadata.namespace or "", tenant.metadata.name))
        world.store.subscribe(self._changed)
        world.platform.subscribe(self._offer_changed)
        self._courier_task = asyncio.create_task(self.courier.run())

    @property
    def _hears(self) -> bool:
        return self.world.life is self and not self.crashed.is_set()

    def _changed(self, key: TenantKey) -> None:
        """What the watch of Tenants would report."""
        body, last = self.world.store.body(key), self._last.get(key)
        if body is not None:
            self._last[key] = body
            self._tell(self.inbox.tenant_changed, "MODIFIED", body)
        elif last is not None:
            self._tell(self.inbox.tenant_changed, "DELETED", last)

    def _offer_changed(self, event: str, body: dict[str, Any]) -> None:
        """What the watches of Plans and Organizations would report."""
        self._tell(self.inbox.plan_changed if body["kind"] == "Plan" else self.inbox.organization_changed, event, body)

    def _tell(self, hear: Hear, event: str, body: dict[str, Any]) -> None:
        def tell() -> None:
            if self._hears:
                hear(event, body)

        if lag := self.world.lag():
            asyncio.get_running_loop().call_later(lag, tell)
        else:
            tell()

    def drifted(self, kind: str, name: str) -> None:
        """Somebody else deletes an object in the tenant's namespace, as its watch would report it."""
        tenant = self.world.tenant
        assert tenant is not None
        (namespace,) = self.world.refs("Namespace")
        labels = {LABEL_TENANT_UID: tenant.metadata.uid}
        metadata = {"name": name, "namespace": namespace.name, "uid": f"uid-{kind}-{name}", "labels": labels}
        self.inbox.child_changed("DELETED", {"kind": kind, "metadata": metadata})

    def hears_of_deployments(self) -> None:
        """The watch of Deployments tells how they are now."""
        for each in self.world.cluster.objects("Deployment"):
            body = {**each, "metadata": {"uid": each["metadata"]["name"], **each["metadata"]}}
            self._tell(self.inbox.child_changed, "MODIFIED", body)

    @property
    def quiet(self) -> bool:
        """Nothing runs, waits or is due."""
        return self.queue.idle and self.requests.idle and not self.courier.backlog

    async def settle(self, *, within: float = 7200.0) -> bool:
        """Live on until there is nothing to do. False if it crashed, or if `within` virtual seconds were not enough."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while not self.crashed.is_set() and not self.quiet and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(2.0)
        return self.quiet and not self.crashed.is_set()

    async def end(self) -> None:
        """The process is gone, whatever it was doing."""
        self.crashed.set()
        # Nothing may be left to ring: it would act on as a ghost.
        await asyncio.gather(self.queue.close(0.0), self.requests.close(0.0))
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def survive(world: World, *, lives: int = 50, within: float = 7200.0) -> bool:
    """Restart the operator after each crash until a life comes to rest. False if none did within its time."""
    for _ in range(lives):
        life = Life(world)
        settled = await life.settle(within=within)
        crashed = life.crashed.is_set()
        await life.end()
        if not crashed:
            return settled
    return False


def _report_all_but_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Crash):
        loop.default_exception_handler(context)


WITHOUT_ATTEMPT = ("tenant.deleted", "tenant.deprovisioning.completed", "tenant.provisioning.reset")
ATTEMPT_ENDS = ("tenant.provisioning.completed", "tenant.provisioning.failed", "tenant.provisioning.cancelled")


def broken_promises(world: World) -> list[str]:
    """What must hold once a world has come to rest, whatever happened on the way."""
    broken = list(world.violations)
    tenant = world.tenant
    state = tenant.status.state if tenant else None
    if tenant is not None and tenant.status.outbox:
        broken.append("events are left in the outbox")
    was_reset = tenant is not None and tenant.status.run is None and tenant.status.attempt > 0
    serving = state in SERVING
    if state in (TenantState.PROVISIONING, TenantState.DECOMMISSIONING):
        broken.append(f"left in {state}")
    if was_reset and not (tenant and tenant.status.allocations):
        broken += [f"orphan: {each}" for each in world.leftovers()]
    if not serving and not was_reset:
        broken += [f"orphan: {each}" for each in world.leftovers()]
        if tenant is not None and tenant.status.allocations:
            broken.append("the ledger is not empty")
    elif serving and tenant is not None:
        is_open = world.backends() != ["paused"]
        if is_open is not (state is TenantState.ACTIVE):
            broken.append(f"{state}, and the route leads to {world.backends()}")
        if any(row.state != "Allocated" for row in tenant.status.allocations):
            broken.append("a row of the ledger is not Allocated")
        if len(world.storage.databases) != 1:
            broken.append(f"databases: {list(world.storage.databases)}")
    return broken + _feed_is_consistent(world.events)


def _feed_is_consistent(events: Sequence[OutboxEvent]) -> list[str]:
    """Exactly one event per change, in the order of the plan and, going back, in its reverse."""
    broken = []
    order = [str(name) for name in ActivityName]
    attempts: list[list[OutboxEvent]] = []
    for event in events:
        if event.type == "tenant.provisioning.started":
            attempts.append([])
        if not attempts and event.type in WITHOUT_ATTEMPT:
            continue
        if not attempts:
            broken.append(f"{event.type} before any start")
            continue
        attempts[-1].append(event)
    for number, attempt in enumerate(attempts, start=1):
        types = Counter(event.type for event in attempt)
        ends = sum(types[end] for end in ATTEMPT_ENDS)
        # A saga that no worker held may be reset: then that is how the attempt ended.
        if ends != 1 and not (ends == 0 and types["tenant.provisioning.reset"]):
            broken.append(f"attempt {number} ended {ends} times: {dict(types)}")
        completed = _steps(attempt, "tenant.provisioning.step_completed")
        if completed != sorted(completed, key=order.index):
            broken.append(f"attempt {number} completed out of order: {completed}")
        if types["tenant.provisioning.completed"]:
            before = order[: order.index(ActivityName.MARK_ACTIVE) + 1]
            broken += [f"attempt {number} never told of {step}" for step in before if step not in completed]
        allowed = {str(name): 2 if name.startswith("allocate") else 1 for name in ActivityName}
        broken += [
            f"attempt {number} completed {step} {times} times"
            for step, times in Counter(completed).items()
            if times != allowed[step]
        ]
        for type_ in ("tenant.provisioning.compensated", "tenant.deprovisioning.step_completed"):
            undone = _steps(attempt, type_)
            if undone != sorted(set(undone), key=order.index, reverse=True):
                broken.append(f"attempt {number} was undone out of order: {undone}")
        # A rollback that no worker held may be cut off by a reset.
        if types["tenant.provisioning.compensated"] and not types["tenant.provisioning.reset"]:
            missing = set(completed) - set(_steps(attempt, "tenant.provisioning.compensated"))
            broken += [f"attempt {number} completed {step} and never compensated it" for step in missing]
    return broken


def _steps(events: Sequence[OutboxEvent], type_: str) -> list[str]:
    return [str(event.data["step"]) for event in events if event.type == type_]
