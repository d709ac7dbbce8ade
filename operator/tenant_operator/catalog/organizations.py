"""What an Organization's status says: pure projections of the organisation and of what surrounds it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from tenant_operator.api.conditions import ConditionType, ConditionUpdate, Reason, set_condition
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.meta import ConditionStatus
from tenant_operator.api.names import DNS_LABEL_MAX_LENGTH
from tenant_operator.api.organization import MemberRole, Organization, OrganizationStatus
from tenant_operator.catalog.roles import invalid_members
from tenant_operator.ports import Manifest
from tenant_operator.provisioning.findings import Finding, judged
from tenant_operator.provisioning.objects import is_going
from tenant_operator.provisioning.organization_rules import Defect, homes

_SHOWN = 10


def tenants_by_state(tenants: Iterable[KnownTenant]) -> dict[str, int]:
    """How many tenants are in each state; a state that no tenant is in is left out."""
    return dict(Counter(tenant.status.state.value for tenant in tenants))


def of_name(organization: Organization) -> list[Finding]:
    """The name has to fit the label by which everything of the organisation is found."""
    name = organization.metadata.name
    if len(name) <= DNS_LABEL_MAX_LENGTH:
        return []
    message = (
        f"the name has {len(name)} characters, {DNS_LABEL_MAX_LENGTH} at most are allowed; "
        "create the Organization anew under a shorter name"
    )
    return [Finding(Reason.INVALID_NAME, message)]


def of_neighbours(defects: Iterable[Defect]) -> list[Finding]:
    """The organisation can stand beside all others. Whoever reads Organizations reads them all: others are named."""
    return [Finding(defect.reason, defect.told(discreetly=False)) for defect in defects]


def of_namespace(organization: Organization, namespace: Manifest | None) -> list[Finding]:
    """The namespace of the organisation's Tenants is there, and is to stay."""
    name = organization.spec.namespace
    if namespace is None:
        return [Finding(Reason.NAMESPACE_NOT_FOUND, f"namespace {name} does not exist; create it", waits=True)]
    if is_going(namespace):
        return [Finding(Reason.NAMESPACE_NOT_FOUND, f"namespace {name} is being deleted", waits=True)]
    return []


def of_plans(organization: Organization, missing: Sequence[str]) -> list[Finding]:
    """Every plan it is entitled to exists."""
    if not missing:
        return []
    one = len(missing) == 1
    message = (
        f"{'plan' if one else 'plans'} {_listed(missing)} {'does' if one else 'do'} not exist; "
        f"create {'it' if one else 'them'}, or remove {'it' if one else 'them'} from spec.plans"
    )
    return [Finding(Reason.PLAN_NOT_FOUND, message, waits=True)]


def of_members(organization: Organization) -> list[Finding]:
    """Every member can be given its role."""
    problems = invalid_members(organization)
    return [Finding(Reason.INVALID_MEMBER, _listed(problems, separator="; "))] if problems else []


def status_of(
    organization: Organization,
    tenants: Iterable[KnownTenant],
    findings: Sequence[Finding],
    now: datetime,
    *,
    home: str | None = None,
    open_databases: Sequence[str] = (),
) -> OrganizationStatus:
    """The status that the organisation should have. `home` is the namespace that is its own. `open_databases` tells of
    those that tenants' roles can connect to and should not, a sentence each."""
    generation = organization.metadata.generation
    conditions = judged(
        organization.status.conditions, findings, fine=_summary(organization), generation=generation, now=now
    )
    return OrganizationStatus(
        observed_generation=generation,
        conditions=set_condition(conditions, _databases(open_databases), generation=generation, now=now),
        namespace=home,
        # Anybody's Tenant can name the organisation; its own live where it does.
        tenants=tenants_by_state(each for each in tenants if each.metadata.namespace in homes(organization)),
    )


def _databases(open_databases: Sequence[str]) -> ConditionUpdate:
    """It says nothing of the organisation, and leaves it ready: but whoever keeps it keeps the server, or knows who."""
    if open_databases:
        told = _listed(open_databases, separator="; ")
        return ConditionUpdate(ConditionType.DATABASES_CLOSED, ConditionStatus.FALSE, Reason.DATABASES_OPEN, told)
    fine = "tenants' roles can connect to no database but their own"
    return ConditionUpdate(ConditionType.DATABASES_CLOSED, ConditionStatus.TRUE, Reason.DATABASES_CLOSED, fine)


def _summary(organization: Organization) -> str:
    roles = Counter(member.role for member in organization.spec.members)
    members = ", ".join(f"{roles[role]} {role.value}{'' if roles[role] == 1 else 's'}" for role in MemberRole)
    return f"members hold their roles in namespace {organization.spec.namespace}: {members}"


def _listed(items: Sequence[str], *, separator: str = ", ") -> str:
    """The first of them, and how many more there are."""
    shown = separator.join(items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown} and {len(items) - _SHOWN} more"
