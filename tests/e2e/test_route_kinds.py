"""With the Gateway API a tenant's host is an HTTPRoute on the platform's Gateway."""

from collections.abc import Iterator, Mapping

import pytest

from devcluster.platform import OPERATOR
from tests.e2e.feed import Object
from tests.e2e.world import TenantUnderTest, World

GATEWAYS = "e2e-gateways"
RESPONDER = OPERATOR
"""The responder is where the operator is: there it may make ReferenceGrants, and nowhere else."""


@pytest.fixture(scope="module")
def operator_settings() -> Mapping[str, str]:
    return {
        "ROUTE_KIND": "HTTPRoute",
        "GATEWAY_NAMESPACE": GATEWAYS,
        "GATEWAY_NAME": "public",
        "RESPONDER_NAMESPACE": RESPONDER,
        "RESPONDER_SERVICE": "paused",
    }


@pytest.fixture(scope="module", autouse=True)
def gateway(module_world: World) -> Iterator[None]:
    """The platform's Gateway."""
    if module_world.read("customresourcedefinition", "httproutes.gateway.networking.k8s.io") is None:
        pytest.skip("this cluster does not know the Gateway API")
    listener = {"name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": {"namespaces": {"from": "All"}}}
    module_world.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GATEWAYS}},
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "public", "namespace": GATEWAYS},
            "spec": {"gatewayClassName": "any", "listeners": [listener]},
        },
    )
    yield
    module_world.is_clean()
    assert module_world.listed("referencegrants", f"--namespace={RESPONDER}") == []
    module_world.kubectl("delete", "namespace", GATEWAYS, "--wait=false")


def _backend(tenant: TenantUnderTest) -> tuple[str, str, int]:
    """Namespace, name and port of the Service that answers."""
    (rule,) = _route(tenant)["rules"]
    (backend,) = rule["backendRefs"]
    return backend["namespace"], backend["name"], backend["port"]


def _route(tenant: TenantUnderTest) -> Object:
    spec: Object = tenant.object("httproute", "tenant")["spec"]
    return spec


def test_route_is_attached_and_open(world: World) -> None:
    tenant = world.tenant("routed", "standard")
    tenant.settles("Active")
    assert [(each["namespace"], each["name"]) for each in _route(tenant)["parentRefs"]] == [(GATEWAYS, "public")]
    assert _route(tenant)["hostnames"] == [tenant.host]
    assert _backend(tenant) == (tenant.namespace, "auth", 8080)
    assert world.listed("ingresses", f"--namespace={tenant.namespace}") == []


def test_route_is_closed_until_it_is_active(world: World) -> None:
    """A closed route leads to the responder in another namespace, which has to permit it."""
    tenant = world.tenant("closed", "endless")
    tenant.runs("wait-ready")
    assert _backend(tenant) == (RESPONDER, "paused", 80)
    grant = world.read("referencegrant", tenant.namespace, RESPONDER)
    assert grant is not None
    assert [each["namespace"] for each in grant["spec"]["from"]] == [tenant.namespace]
    assert [each["name"] for each in grant["spec"]["to"]] == ["paused"]
    tenant.act("cancel")
    tenant.settles("Pending")
    assert world.read("referencegrant", tenant.namespace, RESPONDER) is None
    tenant.holds_nothing()


def test_suspended_route_leads_to_the_responder_and_back(world: World) -> None:
    tenant = world.tenant("route-paused", "standard")
    tenant.settles("Active")
    for desired, backend in (
        ("Suspended", (RESPONDER, "paused", 80)),
        ("Active", (tenant.namespace, "auth", 8080)),
    ):
        patch = f'--patch={{"spec":{{"desiredState":"{desired}"}}}}'
        world.kubectl("patch", "tenant", tenant.name, tenant.where, "--type=merge", patch)
        tenant.settles(desired)
        assert _backend(tenant) == backend
    assert (len(tenant.told("tenant.suspended")), len(tenant.told("tenant.resumed"))) == (1, 1)
