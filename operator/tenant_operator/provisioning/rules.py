"""What makes a request for a tenant admissible: one pure function per rule, for admission and for the saga alike."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import DISPLAY_NAME_PATTERN, DNS_LABEL_MAX_LENGTH
from tenant_operator.api.organization import Organization
from tenant_operator.api.plan import Plan
from tenant_operator.api.states import TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.organization_rules import Defect, wrong_label

ORGANIZATION: Final = "spec.organization"

_LAST: Final = datetime.max.replace(tzinfo=UTC)
_DISPLAY_NAME: Final = re.compile(DISPLAY_NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a request breaks: the path of the field, its value, and what is wrong with it, for people."""

    field: str
    value: str
    message: str

    def __str__(self) -> str:
        return f"{self.field} '{self.value}': {self.message}"


def check_request(
    tenant: Tenant,
    plan: Plan | None,
    organization: Organization | None,
    tenants_of_org: Iterable[KnownTenant],
    names: Names,
    defects: Iterable[Defect] = (),
) -> list[Violation]:
    """Every rule that the request breaks; empty if it is admissible. `plan` and `organization` are None if unknown;
    `defects` are those of the organisation.

    Of an organisation that the Tenant only pretends to be of nothing is told: neither that it exists, nor what it may.
    """
    own = _own(tenant, organization)
    return [
        *slug(tenant),
        *display_name(tenant),
        *membership(tenant, own),
        *(standing(tenant, defects) if own else ()),
        *(host_label(tenant, names) if own else ()),
        *check_plan(tenant, plan, organization, tenants_of_org),
    ]


def check_plan(
    tenant: Tenant, plan: Plan | None, organization: Organization | None, tenants_of_org: Iterable[KnownTenant]
) -> list[Violation]:
    """Every rule that is broken by having the plan: for a tenant that serves and changes to it."""
    own = _own(tenant, organization)
    return [
        *_of_plan(tenant, plan, own),
        *(entitlement(tenant, own) if plan and own else ()),
        *(tenant_limit(tenant, plan, tenants_of_org) if plan and own else ()),
    ]


def _own(tenant: Tenant, organization: Organization | None) -> Organization | None:
    """The organisation, unless the Tenant only pretends to be of it."""
    return organization if organization is not None and lives_with(tenant, organization) else None


def _of_plan(tenant: Tenant, plan: Plan | None, organization: Organization | None) -> Iterator[Violation]:
    if plan is None:
        offer = f"; Organization {organization.metadata.name} {_offer(organization)}" if organization else ""
        yield Violation("spec.plan", tenant.spec.plan, f"there is no such Plan{offer}")
        return
    yield from region(tenant, plan)
    yield from traffic(tenant, plan)


def slug(tenant: Tenant) -> Iterator[Violation]:
    """The slug is fit to be part of a host name."""
    if wrong := wrong_label(tenant.slug):
        yield Violation("spec.slug", tenant.slug, wrong)


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


def lives_with(tenant: KnownTenant, organization: Organization) -> bool:
    """Whether the Tenant lives where its organisation's Tenants live: whoever may write there speaks for it."""
    return tenant.metadata.namespace == organization.spec.namespace


def membership(tenant: Tenant, own: Organization | None) -> Iterator[Violation]:
    """The organisation that the Tenant names lives where the Tenant lives; None if there is none that does."""
    if own is None:
        message = (
            f"no Organization of this name has its Tenants in namespace {tenant.metadata.namespace}; correct the name, "
            "or create the Tenant in the Organization's namespace"
        )
        yield Violation(ORGANIZATION, tenant.spec.organization, message)


def standing(tenant: Tenant, defects: Iterable[Defect]) -> Iterator[Violation]:
    """The organisation can stand beside all others. Members read this: the others are not named."""
    for defect in defects:
        message = f"the Organization gets no new tenants: {defect.told(discreetly=True)}"
        yield Violation(ORGANIZATION, tenant.spec.organization, message)


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


def tenant_limit(tenant: Tenant, plan: Plan, tenants_of_org: Iterable[KnownTenant]) -> Iterator[Violation]:
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


def _counts(other: KnownTenant, tenant: Tenant) -> bool:
    """Those that name the organisation from elsewhere are none of its Tenants: anybody could use up its limit."""
    of_one = (
        other.spec.organization == tenant.spec.organization and other.metadata.namespace == tenant.metadata.namespace
    )
    return of_one and other.status.state is not TenantState.DECOMMISSIONED


def _rank(tenant: KnownTenant) -> tuple[datetime, str]:
    """The place in the order of creation; a tenant that is not stored yet comes last."""
    return (tenant.metadata.creation_timestamp or _LAST, tenant.metadata.uid)


def refusal(violations: Sequence[Violation]) -> str:
    """All violations in one readable line."""
    return "; ".join(str(violation) for violation in violations)
