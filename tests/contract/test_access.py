"""What admission may rely on when it asks what somebody may do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from devcluster import Environment
from tenant_operator.adapters.kubernetes.access import SubjectAccessReviews, own_name
from tenant_operator.adapters.kubernetes.client import Connection, KubernetesClient
from tenant_operator.api.names import GROUP
from tenant_operator.ports import AccessReview, Caller
from tests.contract.waiting import until
from tests.fakes.access import FakeAccess

_RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True)
class World:
    """An access review, a namespace, and the way to give somebody a verb in it."""

    access: AccessReview
    namespace: str
    grant: Callable[[str, str, str], Awaitable[None]]
    """Kind of the subject (User, Group), its name, the verb."""
    show: Callable[[str, str], Awaitable[None]]
    """A user's name, and the kind whose objects they may see from now on, all of them."""


@pytest.fixture
async def fake() -> World:
    access = FakeAccess()

    async def grant(_: str, name: str, verb: str) -> None:
        access.grant(name, verb, "here")

    async def show(name: str, plural: str) -> None:
        access.let_see(name, plural)

    return World(access, "here", grant, show)


@pytest.fixture
async def real(devcluster: Environment) -> AsyncIterator[World]:
    namespace = f"access-{uuid4().hex[:8]}"
    async with await KubernetesClient.connect(Connection(devcluster.kubeconfig)) as client:
        await client.request("POST", "/api/v1/namespaces", subject="Namespace", body={"metadata": {"name": namespace}})

        async def create(plural: str, body: dict[str, object]) -> None:
            path = f"{_RBAC}/namespaces/{namespace}/{plural}"
            await client.request("POST", path, subject=plural, body={"metadata": {"name": uuid4().hex}, **body})

        async def grant(kind: str, name: str, verb: str) -> None:
            role = uuid4().hex
            rules = [{"apiGroups": [GROUP], "resources": ["tenants"], "verbs": [verb]}]
            await create("roles", {"metadata": {"name": role}, "rules": rules})
            group = "rbac.authorization.k8s.io"
            await create(
                "rolebindings",
                {
                    "roleRef": {"apiGroup": group, "kind": "Role", "name": role},
                    "subjects": [{"apiGroup": group, "kind": kind, "name": name}],
                },
            )

        async def show(name: str, plural: str) -> None:
            role, group = uuid4().hex, "rbac.authorization.k8s.io"
            rules = [{"apiGroups": [GROUP], "resources": [plural], "verbs": ["list"]}]
            binding = {
                "metadata": {"name": role},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
            }
            for path, body in (
                ("clusterroles", {"metadata": {"name": role}, "rules": rules}),
                ("clusterrolebindings", binding),
            ):
                await client.request("POST", f"{_RBAC}/{path}", subject=path, body=body)

        yield World(SubjectAccessReviews(client), namespace, grant, show)


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


async def is_allowed(world: World, caller: Caller, verb: str, namespace: str | None = None) -> bool:
    return await world.access.allowed(caller, verb, namespace or world.namespace, "banking")


async def test_a_user_may_do_what_is_granted_and_nothing_else(world: World) -> None:
    await world.grant("User", "alice", "suspend")

    assert await eventually_allowed(world, Caller("alice"), "suspend")
    assert not await is_allowed(world, Caller("alice"), "decommission")
    assert not await is_allowed(world, Caller("alice"), "suspend", "elsewhere")
    assert not await is_allowed(world, Caller("bob"), "suspend")


async def test_a_grant_to_a_group_counts(world: World) -> None:
    await world.grant("Group", "operators", "retry")

    assert await eventually_allowed(world, Caller("bob", ("operators",)), "retry")
    assert not await is_allowed(world, Caller("bob", ("others",)), "retry")


async def test_what_an_authenticator_adds_to_a_user_is_understood(world: World) -> None:
    await world.grant("User", "carol", "reset")
    caller = Caller("carol", ("system:authenticated",), "uid-1", {"example.com/tier": ["gold", "blue"]})

    assert await eventually_allowed(world, caller, "reset")


async def test_who_may_list_a_kind_may_see_all_of_it(world: World) -> None:
    await world.show("dave", "organizations")
    await world.grant("User", "dave", "list")

    await until(lambda: world.access.may_list(Caller("dave"), "organizations"))
    await until(lambda: world.access.allowed(Caller("dave"), "list", world.namespace, ""))
    assert not await world.access.may_list(Caller("dave"), "tenants")  # in one namespace only
    assert not await world.access.may_list(Caller("bob"), "organizations")


async def test_the_operator_learns_its_own_name(devcluster: Environment) -> None:
    async with await KubernetesClient.connect(Connection(devcluster.kubeconfig)) as client:
        assert await own_name(client) == "admin"


async def eventually_allowed(world: World, caller: Caller, verb: str) -> bool:
    """The authorizer of a real API server hears of a new grant by a watch."""
    await until(lambda: is_allowed(world, caller, verb))
    return True
