"""What a Plan's status says: whether tenants can be made of it, and how many use it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from tenant_operator.api.conditions import Reason
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.meta import ObjectMeta
from tenant_operator.api.plan import Plan, PlanStatus
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Admin, Tenant, TenantSpec
from tenant_operator.ports import Endpoint
from tenant_operator.provisioning import manifests, route
from tenant_operator.provisioning.findings import Finding, judged
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.rendering import render_value
from tenant_operator.provisioning.rules import traffic
from tenant_operator.saga.errors import Rejected

_FINE: Final = "tenants can be made of it"
_DATABASE: Final = Endpoint("192.0.2.1", 5432)
"""Of the sample: where the real one is, is no concern of a plan."""


def tenants_using(plan: str, tenants: Iterable[KnownTenant]) -> int:
    """How many tenants count as users of the plan: as for its limit, all that are not decommissioned."""
    return sum(tenant.spec.plan == plan and tenant.status.state is not TenantState.DECOMMISSIONED for tenant in tenants)


def findings_of(plan: Plan, options: Options) -> list[Finding]:
    """What would fail in every tenant of the plan, found by rendering one that nobody asked for."""
    return [Finding(Reason.INVALID_PLAN, message) for message in dict.fromkeys(_faults(plan, options))]


def status_of(plan: Plan, tenants: int, findings: Sequence[Finding], now: datetime) -> PlanStatus:
    """The status that the plan should have."""
    generation = plan.metadata.generation
    return PlanStatus(
        observed_generation=generation,
        conditions=judged(plan.status.conditions, findings, fine=_FINE, generation=generation, now=now),
        tenants=tenants,
    )


def _faults(plan: Plan, options: Options) -> Iterator[str]:
    traffic_faults = [violation.message for violation in traffic(_sample(plan), plan)]
    yield from traffic_faults
    names = Names("sample", "organization", "organization", "0" * 12, options.base_domain)
    rendered: list[Callable[[], object]] = [
        lambda: manifests.namespace(names, plan),
        lambda: manifests.network_policies(names, options, plan, database=_DATABASE),
        lambda: manifests.workloads(names, plan),
    ]
    if not traffic_faults:
        rendered.append(lambda: route.manifests(names, options, plan, is_open=True))
    for render in rendered:
        try:
            render()
        except Rejected as error:
            yield error.message
    yield from _probe_faults(plan, names)


def _probe_faults(plan: Plan, names: Names) -> Iterator[str]:
    if plan.spec.readiness is None:
        return
    place = f"plan {plan.metadata.name}, readiness URL"
    try:
        url = render_value(plan.spec.readiness.url, manifests.template_values(names), place=place)
    except Rejected as error:
        yield error.message
        return
    if not _is_web_address(url):
        yield f"{place}: it must be http:// or https:// with a host, and for a tenant it would be '{url}'"


def _is_web_address(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    return False


def _sample(plan: Plan) -> Tenant:
    return Tenant(
        metadata=ObjectMeta(name="sample"),
        spec=TenantSpec(organization="organization", plan=plan.metadata.name, admin=Admin(email="admin@example.com")),
    )
