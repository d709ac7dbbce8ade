"""What makes a request for a tenant admissible: one pure function per rule, for admission and for the saga alike."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tenant_operator.api.names import DISPLAY_NAME_PATTERN, DNS_LABEL_MAX_LENGTH, SLUG_PATTERN
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.naming import Names

_LAST: Final = datetime.max.replace(tzinfo=UTC)
_SLUG: Final = re.compile(SLUG_PATTERN)
_DISPLAY_NAME: Final = re.compile(DISPLAY_NAME_PATTERN)
_SLUG_RULE: Final = "must be lowercase letters, digits and dashes, start with a letter and not end with a dash"


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a request breaks: the path of the field, its value, and what is wrong with it, for people."""

    field: str
    value: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} '{self.value}': {self.message}"


def check_request(
    tenant: Tenant, plan: Plan | None, organization: Organization | None, tenants_of_org: Iterable[Tenant], names: Names
) -> list[Violation]:
    """Every rule that the request breaks; empty if it is admissible. `plan` and `organization` are None if unknown."""
    return [
        *slug(tenant),
        *display_name(tenant),
        *host_label(tenant, names),
        *_of_organization(tenant, organization),
        *_of_plan(tenant, plan, organization),
        *(entitlement(tenant, organization) if plan and organization else ()),
        *(tenant_limit(tenant, plan, tenants_of_org) if plan else ()),
    ]


def _of_organization(tenant: Tenant, organization: Organization | None) -> Iterator[Violation]:
    if organization is None:
        yield Violation("spec.organization", tenant.spec.organization, "there is no such Organization")
        return
    yield from organization_slug(organization)
    yield from namespace(tenant, organization)


def _of_plan(tenant: Tenant, plan: Plan | None, organization: Organization | None) -> Iterator[Violation]:
    if plan is None:
        offer = f"; Organization {organization.metadata.name} {_offer(organization)}" if organization else ""
        yield Violation("spec.plan", tenant.spec.plan, f"there is no such Plan{offer}")
        return
    yield from region(tenant, plan)
    yield from traffic(tenant, plan)


def slug(tenant: Tenant) -> Iterator[Violation]:
    """The slug is fit to be part of a host name."""
    if not _SLUG.fullmatch(tenant.slug):
        yield Violation("spec.slug", tenant.slug, _SLUG_RULE)


def organization_slug(organization: Organization) -> Iterator[Violation]:
    """The organisation's slug is fit to be part of a host name."""
    if not _SLUG.fullmatch(organization.slug):
        message = f"the slug of the Organization, '{organization.slug}', {_SLUG_RULE}"
        yield Violation("spec.organization", organization.metadata.name, message)


def display_name(tenant: Tenant) -> Iterator[Violation]:
    """The name, where there is one, is one that every later phase can work with."""
    name = tenant.spec.display_name
    if name is not None and not _DISPLAY_NAME.fullmatch(name):
        message = "must start with a lowercase letter and be lowercase words joined by dashes, like retail-banking"
        yield Violation("spec.displayName", name, message)


def host_label(tenant: Tenant, names: Names) -> Iterator[Violation]:
    """Slug and organisation together fit one DNS label."""
    if len(names.host_label) > DNS_LABEL_MAX_LENGTH:
        message = (
            f"host name '{names.host_label}' has {len(names.host_label)} characters, "
            f"{DNS_LABEL_MAX_LENGTH} at most are allowed; set a shorter spec.slug"
        )
        yield Violation("spec.slug", tenant.slug, message)


def namespace(tenant: Tenant, organization: Organization) -> Iterator[Violation]:
    """The Tenant lives where its organisation's Tenants live."""
    if tenant.metadata.namespace != organization.spec.namespace:
        message = (
            f"Tenants of Organization {organization.metadata.name} live in namespace {organization.spec.namespace}"
        )
        yield Violation("metadata.namespace", tenant.metadata.namespace or "", message)


def entitlement(tenant: Tenant, organization: Organization) -> Iterator[Violation]:
    """The organisation may use the plan."""
    if tenant.spec.plan not in organization.spec.plans:
        message = f"Organization {organization.metadata.name} is not entitled to this plan; it {_offer(organization)}"
        yield Violation("spec.plan", tenant.spec.plan, message)


def _offer(organization: Organization) -> str:
    plans = organization.spec.plans
    return f"may use {', '.join(plans)}" if plans else "may use none yet"


def region(tenant: Tenant, plan: Plan) -> Iterator[Violation]:
    """The region, where one is named, is one of the plan's."""
    wanted, offered = tenant.spec.region, plan.spec.regions
    if wanted is not None and wanted not in offered:
        offer = f"it offers {', '.join(offered)}" if offered else "it offers none: leave the region out"
        yield Violation("spec.region", wanted, f"plan {plan.metadata.name} does not offer this region; {offer}")


def traffic(tenant: Tenant, plan: Plan) -> Iterator[Violation]:
    """The plan's workloads can be deployed beside the platform's own objects, and one can take the traffic."""
    if not plan.spec.workloads or not plan.spec.routed_workload.ports:
        yield Violation("spec.plan", tenant.spec.plan, "the plan has no workload with a port to take the traffic")
    if any(workload.name == Names.closed_backend for workload in plan.spec.workloads):
        message = f"the plan calls a workload '{Names.closed_backend}', a name that the platform keeps for itself"
        yield Violation("spec.plan", tenant.spec.plan, message)


def tenant_limit(tenant: Tenant, plan: Plan, tenants_of_org: Iterable[Tenant]) -> Iterator[Violation]:
    """Fewer tenants of the organisation than the limit come before this one: a rank, so two requests cannot race."""
    limit = plan.spec.limits.tenants
    if limit is None:
        return
    mine = _rank(tenant)
    before = sum(1 for other in tenants_of_org if _counts(other, tenant) and _rank(other) < mine)
    if before >= limit:
        message = (
            f"the plan's limit is {limit} per organization, and {before} of {tenant.spec.organization} came before; "
            "decommission one, or choose a larger plan"
        )
        yield Violation("spec.plan", tenant.spec.plan, message)


def _counts(other: Tenant, tenant: Tenant) -> bool:
    return other.spec.organization == tenant.spec.organization and other.status.state is not TenantState.DECOMMISSIONED


def _rank(tenant: Tenant) -> tuple[datetime, str]:
    """The place in the order of creation; a tenant that is not stored yet comes last."""
    return (tenant.metadata.creation_timestamp or _LAST, tenant.metadata.uid)


def refusal(violations: Sequence[Violation]) -> str:
    """All violations in one readable line."""
    return "; ".join(str(violation) for violation in violations)
