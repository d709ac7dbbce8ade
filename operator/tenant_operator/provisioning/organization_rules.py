"""What keeps organisations apart: one pure function per rule, for admission, for the conditions of an Organization and
for validate-request alike.

Of two Organizations that cannot stand beside each other, the one that came later is at fault: whoever serves is not
harmed by a newcomer, and a newcomer gets no tenants, however it came to be.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tenant_operator.api.conditions import Reason
from tenant_operator.api.known_tenant import KnownTenant
from tenant_operator.api.names import (
    CLUSTER_NAMESPACE_PREFIX,
    RESERVED_LABEL_PATTERN,
    SLUG_PATTERN,
    TENANT_NAMESPACE_PREFIX,
)
from tenant_operator.api.organization import Organization, OrganizationStatus

NAMESPACE: Final = "spec.namespace"
SLUG: Final = "spec.slug"
SLUG_RULE: Final = "must be lowercase letters, digits and dashes, start with a letter and not end with a dash"
RESERVED_RULE: Final = (
    "has '--' in its third and fourth place: such names are kept for encodings like punycode (xn--…); choose another"
)

_SLUG: Final = re.compile(SLUG_PATTERN)
_RESERVED: Final = re.compile(RESERVED_LABEL_PATTERN)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Defect:
    """Why an Organization gets no tenants: the path of the field, its value, and what is wrong with it.

    `message` may name other Organizations, `discreet` names none: members may not know whom else the platform serves.
    """

    reason: Reason
    field: str
    value: str
    message: str
    discreet: str

    def told(self, *, discreetly: bool) -> str:
        """The defect in one readable line."""
        return f"{self.field} '{self.value}': {self.discreet if discreetly else self.message}"


def defects(
    organization: Organization,
    everyone: Iterable[Organization],
    tenants: Iterable[KnownTenant],
    operator_namespace: str,
) -> list[Defect]:
    """All that is wrong with an Organization. `everyone` are all there are, itself perhaps included; `tenants` are
    those that name it; the operator itself lives in `operator_namespace`."""
    others = _without(organization, everyone)
    return [
        *slug_form(organization),
        *slug_taken(organization, others),
        *namespace_reserved(organization, operator_namespace),
        *namespace_taken(organization, others),
        *left_behind(organization, organization.status.namespace, tenants),
    ]


def defects_of_write(
    old: Organization | None,
    new: Organization,
    everyone: Iterable[Organization],
    tenants: Iterable[KnownTenant],
    operator_namespace: str,
) -> list[Defect]:
    """What is wrong with a creation (`old` is None) or an update: whoever asks comes after all that are there. An
    update answers for what it changes only."""
    others = _without(new, everyone)
    newcomer = _newcomer(new)
    if old is None:
        return defects(newcomer, others, (), operator_namespace)
    found: list[Defect] = []
    if old.slug != new.slug:
        immutable = f"is immutable: it is '{old.slug}'; create a new Organization for another slug"
        found.append(Defect(Reason.INVALID_SLUG, SLUG, new.slug, immutable, immutable))
    if old.spec.namespace != new.spec.namespace:
        former = dict.fromkeys((old.spec.namespace, old.status.namespace))
        known = list(tenants)
        found += namespace_reserved(new, operator_namespace)
        found += namespace_taken(newcomer, others)
        found += (defect for home in former for defect in left_behind(new, home, known))
    return found


def slug_form(organization: Organization) -> Iterator[Defect]:
    """The slug is fit to be part of a host name."""
    wrong = wrong_label(organization.slug)
    if wrong:
        yield Defect(Reason.INVALID_SLUG, SLUG, organization.slug, wrong, wrong)


def wrong_label(slug: str) -> str:
    """Why a slug cannot begin or end the label of a host; empty if it can."""
    if not _SLUG.fullmatch(slug):
        return SLUG_RULE
    return RESERVED_RULE if _RESERVED.match(slug) else ""


def slug_taken(organization: Organization, others: Iterable[Organization]) -> Iterator[Defect]:
    """No older Organization has hosts that this one could take: `<slug>-<organization>` reads in one way only."""
    slug = organization.slug
    for other in others:
        if slugs_clash(slug, other.slug) and _age(other) < _age(organization):
            way_out = "create the Organization anew with a slug that ends no other's after a dash, nor is ended so"
            yield Defect(
                Reason.SLUG_TAKEN,
                SLUG,
                slug,
                f"the hosts of its tenants could be those of Organization {other.metadata.name}, whose slug is "
                f"'{other.slug}'; {way_out}",
                f"the hosts of its tenants could be those of another Organization; {way_out}",
            )


def slugs_clash(one: str, other: str) -> bool:
    """Whether tenants of two organisations of these slugs could have the same host."""
    return one == other or one.endswith(f"-{other}") or other.endswith(f"-{one}")


def namespace_reserved(organization: Organization, operator_namespace: str) -> Iterator[Defect]:
    """The namespace is neither the cluster's, nor the operator's, nor a tenant's: by its name, since labels can be
    copied.

    A tenant's own namespace is one that the operator deletes, and whose name is the claim on a host.
    """
    name = organization.spec.namespace
    if name.startswith(CLUSTER_NAMESPACE_PREFIX):
        why = f"is one of the cluster's own ({CLUSTER_NAMESPACE_PREFIX}*)"
    elif name == operator_namespace:
        why = "is where the operator lives"
    elif name.startswith(TENANT_NAMESPACE_PREFIX):
        why = f"is, or could become, a tenant's own ({TENANT_NAMESPACE_PREFIX}*)"
    else:
        return
    message = f"{why}; give the Organization a namespace of its own"
    yield Defect(Reason.NAMESPACE_RESERVED, NAMESPACE, name, message, message)


def namespace_taken(organization: Organization, others: Iterable[Organization]) -> Iterator[Defect]:
    """No other Organization came to the namespace before: what lives in one namespace shares members and Tenants."""
    name = organization.spec.namespace
    for other in others:
        if name in homes(other) and _rank_in(name, other) < _rank_in(name, organization):
            way_out = "give each Organization a namespace of its own"
            yield Defect(
                Reason.NAMESPACE_TAKEN,
                NAMESPACE,
                name,
                f"is the namespace of Organization {other.metadata.name}; {way_out}",
                f"is another Organization's; {way_out}",
            )


def left_behind(organization: Organization, home: str | None, tenants: Iterable[KnownTenant]) -> Iterator[Defect]:
    """Whoever moves leaves no Tenants in the former namespace, `home`, not even decommissioned ones: members could no
    longer reach them."""
    name = organization.spec.namespace
    if home is None or home == name:
        return
    left = sum(tenant.metadata.namespace == home for tenant in tenants)
    if left:
        count = "1 Tenant lives" if left == 1 else f"{left} Tenants live"
        message = f"{count} in namespace {home}, where no member could reach them; keep {home}, or delete them first"
        yield Defect(Reason.TENANTS_LEFT_BEHIND, NAMESPACE, name, message, message)


def homes(organization: Organization) -> set[str]:
    """The namespaces that nobody else may live in: where it lives, and where it lived until it has moved."""
    return {organization.spec.namespace, organization.status.namespace or organization.spec.namespace}


def home_of(organization: Organization, found: Sequence[Defect]) -> str | None:
    """The namespace that is the organisation's own, given its defects."""
    is_sound = all(defect.field != NAMESPACE for defect in found)
    return organization.spec.namespace if is_sound else organization.status.namespace


def may_have_roles(found: Iterable[Defect]) -> bool:
    """Whether members may be given their roles in the namespace: only where it is the organisation's own."""
    return not any(defect.reason in (Reason.NAMESPACE_RESERVED, Reason.NAMESPACE_TAKEN) for defect in found)


def concern_each_other(one: Organization, other: Organization) -> bool:
    """Whether one of them may be at fault because of the other."""
    return slugs_clash(one.slug, other.slug) or bool(homes(one) & homes(other))


def _without(organization: Organization, everyone: Iterable[Organization]) -> list[Organization]:
    return [each for each in everyone if each.metadata.name != organization.metadata.name]


def _newcomer(organization: Organization) -> Organization:
    """It comes after all that are there, whatever it says of itself."""
    metadata = organization.metadata.model_copy(update={"creation_timestamp": None})
    return organization.model_copy(update={"metadata": metadata, "status": OrganizationStatus()})


def _age(organization: Organization) -> tuple[datetime, str, str]:
    """The place in the order of creation; one that is not stored yet comes last."""
    metadata = organization.metadata
    return (metadata.creation_timestamp or _LAST, metadata.uid, metadata.name)


def _rank_in(namespace: str, organization: Organization) -> tuple[bool, datetime, str, str]:
    """Whoever has the namespace already comes first: an old Organization that moves into it is a newcomer there."""
    return (organization.status.namespace != namespace, *_age(organization))
