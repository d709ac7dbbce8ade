"""Organization: a customer of the platform, its people, and the plans it is entitled to."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from .cel import quoted, rule, rules
from .conditions import Conditions
from .fields import (
    UNOBSERVED,
    ApiModel,
    Label,
    Name,
    ObservedGeneration,
    Text,
    bounded_list,
    bounded_map,
    bounded_set,
    keywords,
    list_map,
    whole,
)
from .names import CLUSTER_NAMESPACE_PREFIX, RESERVED_LABEL_PATTERN, SLUG_PATTERN, TENANT_NAMESPACE_PREFIX
from .resource import Column, Definition, Resource


class MemberKind(StrEnum):
    """What a member is to the API server."""

    USER = "User"
    """A user, by the name that the API server knows."""
    GROUP = "Group"
    """All users of a group."""
    SERVICE_ACCOUNT = "ServiceAccount"
    """An account of a program, Argo CD's for example."""


class MemberRole(StrEnum):
    """What a member may do with the organisation's tenants."""

    OWNER = "owner"
    """May do everything with the organisation's tenants."""
    ADMIN = "admin"
    """May do all but what destroys data: no decommission, no delete."""
    VIEWER = "viewer"
    """May look."""


class Member(ApiModel):
    """Somebody who works with the organisation's tenants."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.kind != 'ServiceAccount' || has(self.namespace)",
                "member '%s' is a ServiceAccount: it needs a namespace",
                "self.name",
            ),
            rule(
                "self.kind == 'ServiceAccount' || !has(self.namespace)",
                "member '%s' is a %s: it has no namespace, remove it",
                "self.name",
                "self.kind",
            ),
        )
    )

    kind: MemberKind
    name: Name
    """The name of the user, the group or the ServiceAccount."""
    namespace: Label | None = None
    """Where a ServiceAccount lives."""
    role: MemberRole


class OrganizationSpec(ApiModel):
    """Who the organisation is and what it may have."""

    slug: Label | None = None
    """The organisation's part of its tenants' host names; the name of the object by default. Immutable."""
    display_name: Text = ""
    """The name shown to people."""
    namespace: Annotated[
        Label,
        keywords(
            {
                "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                **rules(
                    rule(
                        f"!self.startsWith({quoted(CLUSTER_NAMESPACE_PREFIX)})",
                        f"namespace '%s' is one of the cluster's own ({CLUSTER_NAMESPACE_PREFIX}*); "
                        "give the Organization a namespace of its own",
                        "self",
                    ),
                    rule(
                        f"!self.startsWith({quoted(TENANT_NAMESPACE_PREFIX)})",
                        f"namespace '%s' is, or could become, a tenant's own ({TENANT_NAMESPACE_PREFIX}*); "
                        "give the Organization a namespace of its own",
                        "self",
                    ),
                ),
            }
        ),
    ]
    """Where the organisation's Tenants live: a namespace of its own. May change only while it has no Tenants."""
    plans: Annotated[tuple[Label, ...], bounded_set(64)] = ()
    """The names of the plans it is entitled to."""
    members: Annotated[tuple[Member, ...], bounded_list(512)] = ()
    """Who may work with the organisation's tenants."""


class OrganizationStatus(ApiModel):
    """How the organisation fares."""

    observed_generation: ObservedGeneration = UNOBSERVED
    """The generation of the spec that the status speaks of; -1 before the operator has looked."""
    conditions: Annotated[Conditions, list_map(32, "type")] = ()
    """Ready, Reconciling and Stalled."""
    namespace: Label | None = None
    """The namespace that is its own. It stays what it was while spec.namespace names another that the organisation
    cannot have yet, and is nobody else's meanwhile."""
    tenants: Annotated[dict[str, Annotated[int, whole()]], bounded_map(16)] = Field(default_factory=dict)
    """The number of its tenants, by state."""


_SLUG = "(has(self.spec.slug) ? self.spec.slug : self.metadata.name)"
_OLD_SLUG = "(has(oldSelf.spec.slug) ? oldSelf.spec.slug : oldSelf.metadata.name)"


class Organization(Resource):
    """A customer of the platform, which owns tenants."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"{_SLUG} == {_OLD_SLUG}",
                "slug is immutable: it is '%s' and cannot become '%s'; create a new Organization for another slug",
                _OLD_SLUG,
                _SLUG,
                field_path=".spec.slug",
            ),
            rule(
                f"{_SLUG}.matches({quoted(SLUG_PATTERN)})",
                "slug '%s' (spec.slug, or else metadata.name) must be lowercase letters, digits and dashes, "
                "start with a letter and not end with a dash; set spec.slug",
                _SLUG,
                field_path=".spec.slug",
            ),
            rule(
                f"!{_SLUG}.matches({quoted(RESERVED_LABEL_PATTERN)})",
                "slug '%s' (spec.slug, or else metadata.name) has '--' in its third and fourth place: such names are "
                "kept for encodings like punycode (xn--…); set another spec.slug",
                _SLUG,
                field_path=".spec.slug",
                at_creation=True,
            ),
        )
    )

    definition: ClassVar = Definition(
        kind="Organization",
        plural="organizations",
        short_names=("org",),
        scope="Cluster",
        columns=(
            Column("Slug", ".spec.slug"),
            Column("Namespace", ".spec.namespace"),
            Column("Active", ".status.tenants.Active", "integer"),
            Column("Failed", ".status.tenants.Failed", "integer"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
    )

    kind: Literal["Organization"] = "Organization"
    spec: OrganizationSpec
    status: OrganizationStatus = OrganizationStatus()

    @property
    def slug(self) -> str:
        """The organisation's part of its tenants' host names."""
        return self.spec.slug or self.metadata.name
