"""The cluster-side activities' outside world in memory, and the requests that the tests make of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.activities.allocate_namespace import AllocateNamespace
from tenant_operator.provisioning.activities.allocate_traffic_boundary import AllocateTrafficBoundary
from tenant_operator.provisioning.activity import Activity, Context, Ports
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.saga.step import Done, NotYet
from tests.fakes.cluster import FakeCluster
from tests.fakes.mailer import FakeMailer
from tests.fakes.prober import FakeProber
from tests.fakes.storage import FakeStorage

NAMESPACE = "tenant-banking-cymmetri"


@dataclass
class HandClock:
    """A clock that stands still until it is moved."""

    moment: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def elapsed(self) -> float:
        return self.moment.timestamp()


@dataclass
class FixedCatalog:
    """The tenants of one organisation, of which `unheard` have not reached the catalogue."""

    tenants: list[Tenant] = field(default_factory=list)
    unheard: int = 0
    others: list[Organization] = field(default_factory=list)

    def plan(self, name: str) -> Plan | None:
        return None

    def organization(self, name: str) -> Organization | None:
        return None

    def organizations(self) -> Sequence[Organization]:
        return self.others

    def tenants_of(self, organization: str) -> Sequence[Tenant]:
        return self.tenants

    def tenants_in(self, namespace: str) -> int:
        return len(self.tenants)

    async def count(self, namespace: str) -> int:
        return len(self.tenants) + self.unheard


class World:
    """The outside world in memory, and contexts to look at it for a tenant."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.cluster = FakeCluster(self.clock)
        self.prober = FakeProber()
        self.catalog = FixedCatalog()
        self.heartbeats: list[tuple[str, int | None]] = []
        self.is_awaited = True

    def context(self, uid: str = "uid-1", *, slug: str = "banking", owner: str = "cymmetri", **changes: Any) -> Context:
        async def journalled(name: str) -> None:
            raise AssertionError(f"no checkpoint is expected: {name}")

        def heartbeat(detail: str, progress: int | None) -> None:
            self.heartbeats.append((detail, progress))

        context = Context(
            tenant=a_tenant(uid, slug=slug, organization=owner),
            plan=a_plan(),
            organization=an_organization(owner),
            names=Names(slug, owner, owner, uid, "tenants.example"),
            ports=Ports(self.cluster, FakeStorage(), FakeMailer(), self.prober, self.catalog, self.catalog, self.clock),
            options=Options(),
            checkpoints=frozenset(),
            heartbeat=heartbeat,
            is_awaited=lambda: self.is_awaited,
            checkpoint=journalled,
        )
        return replace(context, **changes)

    def kinds(self) -> list[str]:
        return sorted(f"{each['kind']} {each['metadata']['name']}" for each in self.cluster.objects())


def a_tenant(uid: str = "uid-1", *, slug: str = "banking", organization: str = "cymmetri", **spec: object) -> Tenant:
    return Tenant.model_validate(
        {
            "metadata": {"name": slug, "namespace": organization, "uid": uid},
            "spec": {
                "organization": organization,
                "plan": "starter",
                "admin": {"email": "admin@cymmetri.example"},
                **spec,
            },
        }
    )


def an_organization(name: str = "cymmetri") -> Organization:
    return Organization.model_validate({"metadata": {"name": name}, "spec": {"namespace": name, "plans": ["starter"]}})


def a_plan(**spec: object) -> Plan:
    auth = {
        "name": "auth",
        "image": "auth:1",
        "replicas": 2,
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    worker = {"name": "worker", "image": "worker:1"}
    return Plan.model_validate(
        {
            "metadata": {"name": "starter"},
            "spec": {
                "quota": {"pods": "20"},
                "limitRange": {"default": {"cpu": "1"}},
                "workloads": [auth, worker],
                **spec,
            },
        }
    )


async def done(activity: Activity, ctx: Context) -> Done:
    progress = await activity.run(ctx)
    assert isinstance(progress, Done), progress
    return progress


async def released(activity: Activity, ctx: Context) -> Done:
    """Compensate until it is done, as the engine does."""
    for _ in range(5):
        progress = await activity.compensate(ctx)
        if isinstance(progress, Done):
            return progress
    raise AssertionError(progress)


async def not_yet(activity: Activity, ctx: Context) -> NotYet:
    progress = await activity.run(ctx)
    assert isinstance(progress, NotYet), progress
    return progress


def backend(world: World) -> str:
    (ingress,) = world.cluster.objects("Ingress")
    (rule,) = ingress["spec"]["rules"]
    name: str = rule["http"]["paths"][0]["backend"]["service"]["name"]
    return name


async def claimed_world() -> World:
    """A world in which the namespace is allocated."""
    world = World()
    await done(AllocateNamespace(), world.context())
    return world


async def bounded_world() -> World:
    """A world in which the traffic boundary is allocated as well."""
    world = await claimed_world()
    await done(AllocateTrafficBoundary(Options()), world.context())
    return world
