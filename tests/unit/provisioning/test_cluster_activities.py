"""The activities that make, watch and release what a tenant has in the cluster."""

import asyncio

import pytest

from tenant_operator.api import names as api_names
from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.names import ActivityName
from tenant_operator.api.organization import Organization
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Manifest
from tenant_operator.provisioning.activities.allocate_namespace import AllocateNamespace
from tenant_operator.provisioning.activities.allocate_traffic_boundary import AllocateTrafficBoundary
from tenant_operator.provisioning.activities.deploy_workloads import DeployWorkloads
from tenant_operator.provisioning.activities.mark_active import MarkActive
from tenant_operator.provisioning.activities.validate_request import ValidateRequest
from tenant_operator.provisioning.activities.wait_ready import WaitReady
from tenant_operator.provisioning.activity import Activity
from tenant_operator.provisioning.objects import all_of, namespace_ref
from tenant_operator.provisioning.options import Options, RouteKind
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.saga.errors import OwnershipConflict, Rejected, Unavailable
from tenant_operator.saga.model import Reservation
from tenant_operator.saga.step import Done, NotYet
from tests.unit.provisioning.cluster_world import (
    NAMESPACE,
    World,
    a_plan,
    a_tenant,
    an_organization,
    done,
    not_yet,
    released,
)

# The plan


def test_the_plan_is_the_list_of_activities() -> None:
    assert [activity.name for activity in provisioning_steps(Options(), ())] == list(ActivityName)


@pytest.mark.parametrize("kind", RouteKind)
def test_what_the_plan_reserves_is_named_once(kind: RouteKind) -> None:
    names = World().context().names

    rows = [row for activity in provisioning_steps(Options(route_kind=kind), ()) for row in activity.reserves(names)]

    assert len(rows) == len(set(rows))
    assert Reservation("Namespace", NAMESPACE) in rows
    assert Reservation(kind.value, "tenant", NAMESPACE) in rows


# validate-request


async def test_an_admissible_request_is_validated_without_an_effect(world: World) -> None:
    await done(ValidateRequest(), world.context())

    assert world.cluster.objects() == []


async def test_a_request_is_refused_with_every_violation(world: World) -> None:
    tenant = a_tenant(displayName="My Bank", region="ap-1")

    with pytest.raises(Rejected) as refused:
        await ValidateRequest().run(world.context(tenant=tenant))

    assert "spec.displayName 'My Bank'" in refused.value.message
    assert "spec.region 'ap-1'" in refused.value.message


async def test_a_request_without_organization_and_plan_is_refused(world: World) -> None:
    with pytest.raises(Rejected, match=r"no Organization of this name .*; .*there is no such Plan"):
        await ValidateRequest().run(world.context(plan=None, organization=None))


async def test_the_other_tenants_of_the_organization_count(world: World) -> None:
    early = {"creationTimestamp": "2025-01-01T00:00:00Z"}
    other = a_tenant("uid-0", slug="other").to_wire()
    world.catalog.tenants = [Tenant.model_validate({**other, "metadata": {**other["metadata"], **early}})]

    with pytest.raises(Rejected, match="the plan's limit is 1 per organization"):
        await ValidateRequest().run(world.context(plan=a_plan(limits={"tenants": 1})))


@pytest.mark.parametrize(
    ("other", "own", "says"),
    [
        ({"slug": "cymmetri"}, {"slug": "my-cymmetri"}, "could be those of another Organization"),
        ({"namespace": "cymmetri"}, {}, "spec.namespace 'cymmetri': is another Organization's"),
        ({}, {"slug": "xn--cymmetri"}, "spec.slug 'xn--cymmetri': has '--' in its third and fourth place"),
    ],
)
async def test_without_admission_an_organization_that_came_later_gets_no_tenants(
    world: World, other: dict[str, str], own: dict[str, str], says: str
) -> None:
    """What its conditions say to the platform team is what the saga says to its members, who learn nobody's name."""

    def organization(name: str, day: int, spec: dict[str, str]) -> Organization:
        metadata = {"name": name, "uid": name, "creationTimestamp": f"2026-01-0{day}T00:00:00Z"}
        found = {"namespace": name, "plans": ["starter"], **spec}
        return Organization.model_validate({"metadata": metadata, "spec": found})

    earlier, later = organization("secret", 1, other), organization("cymmetri", 2, own)
    world.catalog.others = [earlier, later]

    with pytest.raises(Rejected, match="the Organization gets no new tenants: ") as refused:
        await ValidateRequest().run(world.context(organization=later))

    assert says in refused.value.message
    assert "secret" not in refused.value.message


async def test_an_organization_that_was_there_first_is_not_harmed(world: World) -> None:
    organization = an_organization().model_copy(update={"metadata": ObjectMeta(name="cymmetri", uid="a")})
    newcomer = organization.model_copy(update={"metadata": ObjectMeta(name="my-cymmetri", uid="b")})
    world.catalog.others = [newcomer, organization]

    await done(ValidateRequest(), world.context(organization=organization))


async def test_a_taken_host_is_told_early(world: World) -> None:
    await done(AllocateNamespace(), world.context("uid-2", slug="banking-cymmetri", owner="other"))
    assert [each["metadata"]["name"] for each in world.cluster.objects("Namespace")] == [
        "tenant-banking-cymmetri-other"
    ]
    await done(AllocateNamespace(), world.context("uid-3"))

    with pytest.raises(OwnershipConflict, match="belongs to tenant cymmetri/banking"):
        await ValidateRequest().run(world.context("uid-1"))


# allocate-namespace


async def test_a_namespace_is_claimed_with_its_bounds(world: World) -> None:
    await done(AllocateNamespace(), world.context())

    assert world.kinds() == [
        "LimitRange tenant-limits",
        f"Namespace {NAMESPACE}",
        "ResourceQuota tenant-quota",
    ]
    (namespace,) = world.cluster.objects("Namespace")
    assert namespace["metadata"]["labels"][api_names.LABEL_TENANT_UID] == "uid-1"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


async def test_allocating_again_changes_nothing(world: World) -> None:
    await done(AllocateNamespace(), world.context())
    before = world.cluster.objects()

    await done(AllocateNamespace(), world.context())

    assert world.cluster.objects() == before


async def test_a_claim_that_lost_its_labels_gets_them_back(world: World) -> None:
    ctx = world.context()
    bare = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": ctx.names.labels()}}
    await world.cluster.create(bare)

    await done(AllocateNamespace(), ctx)

    (namespace,) = world.cluster.objects("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


async def test_two_tenants_with_the_same_host_cannot_both_have_it(world: World) -> None:
    first = world.context("uid-1", slug="a-b", owner="c")
    second = world.context("uid-2", slug="a", owner="b-c")

    outcomes = await asyncio.gather(
        AllocateNamespace().run(first), AllocateNamespace().run(second), return_exceptions=True
    )

    (winner,) = [each for each in outcomes if isinstance(each, Done)]
    (loser,) = [each for each in outcomes if isinstance(each, OwnershipConflict)]
    assert winner
    # Of another organisation, whoever reads this may know nothing.
    assert loser.message == "host a-b-c.tenants.example is taken; choose another slug"


async def test_a_tenant_of_the_same_organization_that_holds_the_host_is_named(world: World) -> None:
    await AllocateNamespace().run(world.context("uid-1"))

    with pytest.raises(OwnershipConflict) as refused:
        await AllocateNamespace().run(world.context("uid-2"))

    assert refused.value.message == (
        f"host banking-cymmetri.tenants.example is taken: namespace {NAMESPACE} belongs to tenant cymmetri/banking "
        "(UID uid-1); choose another slug"
    )


async def test_a_namespace_of_nobody_is_not_taken_over(world: World) -> None:
    foreign = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    await world.cluster.create(foreign)

    with pytest.raises(OwnershipConflict, match="exists and belongs to no tenant"):
        await AllocateNamespace().run(world.context())

    assert await released(AllocateNamespace(), world.context()) == Done(
        f"namespace {NAMESPACE} belongs to another tenant, left alone"
    )
    assert world.kinds() == [f"Namespace {NAMESPACE}"]


async def test_ones_own_namespace_that_is_still_going_is_waited_for(world: World) -> None:
    world.cluster.terminating_looks = 10
    await done(AllocateNamespace(), world.context())
    assert isinstance(await AllocateNamespace().compensate(world.context()), NotYet)

    waiting = await not_yet(AllocateNamespace(), world.context())

    assert waiting.cause == f"namespace {NAMESPACE} is still terminating"


async def test_a_namespace_is_released_until_it_is_gone(world: World) -> None:
    world.cluster.terminating_looks = 2
    await done(AllocateNamespace(), world.context())

    first = await AllocateNamespace().compensate(world.context())
    assert first == NotYet(f"namespace {NAMESPACE} is terminating")

    await released(AllocateNamespace(), world.context(plan=None, organization=None))
    assert world.cluster.objects() == []


async def test_what_keeps_a_namespace_from_going_is_told(world: World) -> None:
    going: Manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": world.context().names.labels(),
            "deletionTimestamp": "2026-01-01T12:00:00Z",
        },
        "status": {
            "conditions": [
                {"type": "NamespaceContentRemaining", "status": "True", "message": "pods. has 2 resource instances"},
                {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "fine"},
            ]
        },
    }
    await world.cluster.create(going)

    progress = await AllocateNamespace().compensate(world.context())

    assert progress == NotYet(f"namespace {NAMESPACE} is terminating: pods. has 2 resource instances")


async def test_releasing_a_namespace_that_is_not_there_is_success(world: World) -> None:
    assert await AllocateNamespace().compensate(world.context()) == Done(f"namespace {NAMESPACE} is gone")


# What all of them promise

ACTIVITIES: tuple[Activity, ...] = (
    AllocateNamespace(),
    AllocateTrafficBoundary(Options()),
    DeployWorkloads(),
    WaitReady(),
)


@pytest.mark.parametrize("activity", ACTIVITIES, ids=lambda each: str(each.name))
async def test_without_its_plan_nothing_goes_forward(bounded: World, activity: Activity) -> None:
    before = bounded.cluster.objects()

    with pytest.raises(Rejected, match="plan starter no longer exists"):
        await activity.run(bounded.context(plan=None))

    assert bounded.cluster.objects() == before


@pytest.mark.parametrize("activity", [*ACTIVITIES, MarkActive(), ValidateRequest()], ids=lambda each: str(each.name))
async def test_releasing_what_was_never_made_is_success(world: World, activity: Activity) -> None:
    await released(activity, world.context(plan=None, organization=None))

    assert world.cluster.objects() == []


FORWARD: tuple[Activity, ...] = (
    AllocateNamespace(),
    AllocateTrafficBoundary(Options()),
    DeployWorkloads(),
    MarkActive(),
)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_at_any_effect_leaves_nothing_that_is_not_released(world: World, moment: str) -> None:
    """Each effect in turn fails; the try is repeated or given up, and in both cases the cluster ends up clean."""
    for crash_at in range(40):
        effects = 0

        async def crash(operation: str, name: str, at: int = crash_at) -> None:
            nonlocal effects
            effects += 1
            if effects == at + 1:
                raise Unavailable(f"{operation} {name}: lost")

        setattr(world.cluster, moment, crash)
        started: list[Activity] = []
        try:
            for activity in FORWARD:
                started.append(activity)
                await done(activity, world.context())
        except Unavailable:
            await done(started[-1], world.context())
        for activity in reversed(started):
            try:
                await released(activity, world.context())
            except Unavailable:
                await released(activity, world.context())
        assert world.cluster.objects() == [], crash_at
        if effects <= crash_at:
            return
    raise AssertionError("there are more effects than crashes")


async def test_of_several_failures_the_one_that_cannot_heal_is_told() -> None:
    finished: list[str] = []

    async def fail(error: Exception) -> None:
        raise error

    async def finish() -> None:
        await asyncio.sleep(0)
        finished.append("late")

    with pytest.raises(Rejected, match="no"):
        await all_of([fail(Unavailable("busy")), fail(Rejected("no")), finish()])

    assert finished == ["late"]


async def test_the_namespace_is_what_its_reference_names(claimed: World) -> None:
    assert await claimed.cluster.get(namespace_ref(claimed.context().names)) is not None
