"""The way from the tenant's host to its workloads: open, or closed and answered by the platform's responder."""

from dataclasses import dataclass, replace

from tenant_operator.api.plan import Plan
from tenant_operator.ports import Cluster, Manifest, ObjectRef
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.objects import belongs_to, ref_of
from tenant_operator.provisioning.options import Options, RouteKind
from tenant_operator.provisioning.rendering import BUILT_IN
from tenant_operator.saga.errors import Rejected


@dataclass(frozen=True, slots=True)
class Backend:
    """The Service that answers the tenant's host."""

    service: str
    port: int
    namespace: str


def all_refs(names: Names, options: Options) -> tuple[ObjectRef, ...]:
    """What a route of any kind is made of."""
    return tuple(ref for kind in RouteKind for ref in refs(names, replace(options, route_kind=kind)))


def refs(names: Names, options: Options) -> tuple[ObjectRef, ...]:
    """What the route is made of; the first opens and closes it."""
    match options.route_kind:
        case RouteKind.INGRESS:
            return (
                ObjectRef("networking.k8s.io/v1", "Ingress", names.route, names.namespace),
                ObjectRef("v1", "Service", names.closed_backend, names.namespace),
            )
        case RouteKind.HTTP_ROUTE:
            return (
                ObjectRef("gateway.networking.k8s.io/v1", "HTTPRoute", names.route, names.namespace),
                ObjectRef(
                    "gateway.networking.k8s.io/v1beta1", "ReferenceGrant", names.namespace, options.responder_namespace
                ),
            )


def manifests(names: Names, options: Options, plan: Plan | None, *, is_open: bool) -> list[Manifest]:
    """The objects of `refs`, in its order. Only an open route needs a plan."""
    return [_switch(names, options, plan, is_open=is_open), *_closed_backend(names, options)]


async def set_open(cluster: Cluster, names: Names, options: Options, plan: Plan | None, *, is_open: bool) -> bool:
    """Open or close the route by one apply. False if there was nothing to close: no route, or another tenant's."""
    manifest = _switch(names, options, plan, is_open=is_open)
    if not is_open:
        # Applying would make what a release has removed.
        current = await cluster.get(ref_of(manifest))
        if current is None or not belongs_to(current, names):
            return False
    await cluster.apply(manifest)
    return True


def is_open(switch: Manifest, names: Names, options: Options) -> bool:
    """Whether the route, as it is stored, leads to a workload."""
    services: list[str] = []
    for rule in (switch.get("spec") or {}).get("rules") or ():
        services += [each["backend"]["service"]["name"] for each in (rule.get("http") or {}).get("paths") or ()]
        services += [each["name"] for each in rule.get("backendRefs") or ()]
    return bool(services) and _responder(names, options).service not in services


def _switch(names: Names, options: Options, plan: Plan | None, *, is_open: bool) -> Manifest:
    """The one object that opens and closes the route."""
    backend = _workload(names, plan) if is_open else _responder(names, options)
    values = {"name": names.route, "host": names.host, "backend": backend}
    match options.route_kind:
        case RouteKind.INGRESS:
            values |= {"ingress_class": options.ingress_class, "tls_secret": options.tls_secret}
            (manifest,) = BUILT_IN.render("route-ingress.yaml.j2", names, values)
        case RouteKind.HTTP_ROUTE:
            values |= {"gateway_namespace": options.gateway_namespace, "gateway_name": options.gateway_name}
            (manifest,) = BUILT_IN.render("route-httproute.yaml.j2", names, values)
    return manifest


def _workload(names: Names, plan: Plan | None) -> Backend:
    if plan is None:
        raise Rejected(f"{names.host} cannot be opened: its plan does not exist")
    if not plan.spec.workloads or not plan.spec.routed_workload.ports:
        raise Rejected(f"{names.host} cannot be opened: plan {plan.metadata.name} has no workload with a port")
    routed = plan.spec.routed_workload
    return Backend(routed.name, routed.ports[0].container_port, names.namespace)


def _responder(names: Names, options: Options) -> Backend:
    match options.route_kind:
        case RouteKind.INGRESS:
            return Backend(names.closed_backend, options.responder_port, names.namespace)
        case RouteKind.HTTP_ROUTE:
            return Backend(options.responder_service, options.responder_port, options.responder_namespace)


def _closed_backend(names: Names, options: Options) -> list[Manifest]:
    """What lets the closed route reach the responder."""
    match options.route_kind:
        case RouteKind.INGRESS:
            host = f"{options.responder_service}.{options.responder_namespace}.svc.cluster.local"
            values = {"name": names.closed_backend, "responder_host": host, "responder_port": options.responder_port}
            return BUILT_IN.render("route-ingress-closed-backend.yaml.j2", names, values)
        case RouteKind.HTTP_ROUTE:
            return BUILT_IN.render(
                "route-httproute-closed-backend.yaml.j2",
                names,
                {
                    "tenant_namespace": names.namespace,
                    "responder_namespace": options.responder_namespace,
                    "responder_service": options.responder_service,
                },
                outside={"ReferenceGrant": options.responder_namespace},
            )
