"""The traffic boundary, and the route that opens and closes."""

from dataclasses import replace

import pytest

from tenant_operator.api.plan import Plan
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning import route
from tenant_operator.provisioning.activities.allocate_traffic_boundary import AllocateTrafficBoundary
from tenant_operator.provisioning.activities.mark_active import MarkActive
from tenant_operator.provisioning.objects import ref_of
from tenant_operator.provisioning.options import Options, RouteKind
from tenant_operator.saga.errors import Rejected
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done
from tests.unit.provisioning.cluster_world import (
    NAMESPACE,
    World,
    a_plan,
    a_tenant,
    backend,
    done,
    released,
)

PROBE = "http://auth.{{ namespace }}.svc:8080/healthz"


async def in_responders_namespace(world: World, options: Options) -> None:
    name = options.responder_namespace
    await world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


@pytest.mark.parametrize("kind", RouteKind)
async def test_what_is_made_for_the_traffic_boundary_is_what_was_reserved(claimed: World, kind: RouteKind) -> None:
    ctx = claimed.context(options=Options(route_kind=kind))
    await in_responders_namespace(claimed, ctx.options)
    before = claimed.cluster.objects()
    activity = AllocateTrafficBoundary(ctx.options)

    await done(activity, ctx)

    made = [ref_of(each) for each in claimed.cluster.objects() if each not in before]
    assert {Reservation(ref.kind, ref.name, ref.namespace) for ref in made} == set(activity.reserves(ctx.names))

    await released(activity, replace(ctx, plan=None, organization=None))
    assert claimed.cluster.objects() == before


async def test_the_route_is_reserved_closed(claimed: World) -> None:
    await done(AllocateTrafficBoundary(Options()), claimed.context())

    assert backend(claimed) == "paused"


async def test_a_route_of_the_kind_that_was_used_before_is_released_too(claimed: World) -> None:
    old = Options(route_kind=RouteKind.INGRESS)
    ctx = claimed.context(options=old)
    activity = AllocateTrafficBoundary(old)
    await done(activity, ctx)
    rows = [
        {
            "kind": row.kind,
            "name": row.name,
            "namespace": row.namespace,
            "activity": activity.name,
            "state": "Allocated",
            "since": "2026-01-01T12:00:00Z",
            "reservedAt": "2026-01-01T12:00:00Z",
        }
        for row in activity.reserves(ctx.names)
    ]
    tenant = Tenant.model_validate({**ctx.tenant.to_wire(), "status": {"allocations": rows}})
    new = Options(route_kind=RouteKind.HTTP_ROUTE)

    await released(AllocateTrafficBoundary(new), claimed.context(tenant=tenant, options=new))

    assert claimed.cluster.objects("Ingress") == []
    assert claimed.cluster.objects("Service") == []


async def test_the_boundary_of_another_tenant_is_left_alone(claimed: World) -> None:
    await done(AllocateTrafficBoundary(Options()), claimed.context())
    before = claimed.cluster.objects()

    await released(AllocateTrafficBoundary(Options()), claimed.context("uid-2"))

    assert claimed.cluster.objects() == before


async def test_the_database_port_is_let_out(claimed: World) -> None:
    await done(AllocateTrafficBoundary(Options()), claimed.context())

    (egress,) = [
        each["spec"]["egress"]
        for each in claimed.cluster.objects("NetworkPolicy")
        if each["metadata"]["name"] == "allow-egress"
    ]
    port = claimed.context().ports.storage.endpoint.port
    assert {"protocol": "TCP", "port": port} in [port for rule in egress for port in rule.get("ports", ())]


async def test_only_a_plan_with_a_readiness_probe_lets_the_operator_in(claimed: World) -> None:
    async def let_in(plan: Plan) -> list[str]:
        await done(AllocateTrafficBoundary(Options()), claimed.context(plan=plan))
        (policy,) = [
            each for each in claimed.cluster.objects("NetworkPolicy") if each["metadata"]["name"] == "allow-ingress"
        ]
        sources = policy["spec"]["ingress"][0]["from"]
        return [
            each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            for each in sources
            if "namespaceSelector" in each
        ]

    assert await let_in(a_plan()) == ["ingress-nginx"]
    assert await let_in(a_plan(readiness={"url": PROBE})) == ["ingress-nginx", "tenant-operator"]


async def test_the_route_opens_when_the_tenant_turns_active(bounded: World) -> None:
    await done(MarkActive(), bounded.context())
    assert backend(bounded) == "auth"

    await released(MarkActive(), bounded.context(plan=None))
    assert backend(bounded) == "paused"


async def test_a_tenant_that_is_wanted_suspended_is_kept_closed(bounded: World) -> None:
    await done(MarkActive(), bounded.context(tenant=a_tenant(desiredState="Suspended")))

    assert backend(bounded) == "paused"


async def test_closing_what_has_no_route_is_success_and_makes_none(claimed: World) -> None:
    assert await released(MarkActive(), claimed.context()) == Done(
        "https://banking-cymmetri.tenants.example has no route"
    )
    assert claimed.cluster.objects("Ingress") == []


async def test_the_route_of_another_tenant_is_not_closed(bounded: World) -> None:
    await done(MarkActive(), bounded.context())
    other = bounded.context("uid-2")

    assert not await route.set_open(bounded.cluster, other.names, other.options, None, is_open=False)
    assert backend(bounded) == "auth"


async def test_opening_and_closing_is_one_write(bounded: World) -> None:
    written: list[str] = []

    async def write(operation: str, name: str) -> None:
        written.append(f"{operation} {name}")

    bounded.cluster.before = write
    ctx = bounded.context()
    await route.set_open(bounded.cluster, ctx.names, ctx.options, ctx.plan, is_open=True)
    await route.set_open(bounded.cluster, ctx.names, ctx.options, None, is_open=False)

    assert written == [f"apply Ingress {NAMESPACE}/tenant"] * 2


async def test_a_route_cannot_open_without_a_plan(bounded: World) -> None:
    with pytest.raises(Rejected, match="its plan does not exist"):
        await MarkActive().run(bounded.context(plan=None))
