"""Tenant: one isolated environment of an organisation."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict

from .cel import quoted, rule, rules
from .fields import ApiModel, Label, keywords
from .names import (
    DISPLAY_NAME_PATTERN,
    DNS_LABEL_MAX_LENGTH,
    EMAIL_PATTERN,
    REGION_PATTERN,
    RESERVED_LABEL_PATTERN,
    SLUG_PATTERN,
)
from .resource import Column, Definition, Resource
from .states import DesiredState
from .tenant_status import TenantStatus


class Admin(ApiModel):
    """The first administrator of a tenant."""

    email: Annotated[
        str,
        keywords(
            {
                "maxLength": 254,
                **rules(
                    rule(
                        f"self.matches({quoted(EMAIL_PATTERN)})",
                        "admin email '%s' is not an email address: write it like admin@example.com",
                        "self",
                    )
                ),
            }
        ),
    ]
    """Where the welcome emails go."""


class TenantSpec(ApiModel):
    """What a tenant should be."""

    organization: Annotated[
        Label,
        keywords(
            rules(
                rule(
                    "self == oldSelf",
                    "organization is immutable: it is '%s' and cannot become '%s'; "
                    "create a new Tenant for another organization",
                    "oldSelf",
                    "self",
                ),
            )
        ),
    ]
    """The Organization that owns the tenant. Immutable."""
    slug: Label | None = None
    """The tenant's part of its host name; the name of the object by default. Immutable."""
    display_name: (
        Annotated[
            Label,
            keywords(
                rules(
                    rule(
                        f"self.matches({quoted(DISPLAY_NAME_PATTERN)})",
                        "displayName '%s' must start with a lowercase letter and be lowercase words "
                        "joined by dashes, like retail-banking",
                        "self",
                    )
                )
            ),
        ]
        | None
    ) = None
    """The name shown to people: lowercase words joined by dashes."""
    plan: Label
    """The Plan that sizes the tenant. May change any time: a tenant that serves follows in place."""
    region: (
        Annotated[
            Label,
            keywords(
                rules(
                    rule(
                        f"self.matches({quoted(REGION_PATTERN)})",
                        "region '%s' must be lowercase letters, digits and dashes, like eu-1",
                        "self",
                    )
                )
            ),
        ]
        | None
    ) = None
    """One of the regions that the plan offers."""
    admin: Admin
    """The first administrator."""
    desired_state: DesiredState = DesiredState.ACTIVE
    """The lasting intent: Active, Suspended (traffic paused, all kept) or Decommissioned (all released)."""


_SLUG = "(has(self.spec.slug) ? self.spec.slug : self.metadata.name)"
_OLD_SLUG = "(has(oldSelf.spec.slug) ? oldSelf.spec.slug : oldSelf.metadata.name)"

_RULES = rules(
    rule(
        f"{_SLUG} == {_OLD_SLUG}",
        "slug is immutable: it is '%s' and cannot become '%s'; create a new Tenant for another slug",
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
        "slug '%s' (spec.slug, or else metadata.name) has '--' in its third and fourth place: such host names are kept "
        "for encodings like punycode (xn--…); set another spec.slug",
        _SLUG,
        field_path=".spec.slug",
        at_creation=True,
    ),
    rule(
        f"size({_SLUG}) + 1 + size(self.spec.organization) <= {DNS_LABEL_MAX_LENGTH}",
        f"host '%s-%s' is longer than {DNS_LABEL_MAX_LENGTH} characters; set a shorter spec.slug",
        _SLUG,
        "self.spec.organization",
        field_path=".spec.slug",
    ),
    rule(
        "(has(self.spec.region) ? self.spec.region : '') == (has(oldSelf.spec.region) ? oldSelf.spec.region : '')"
        " || !has(oldSelf.status) || !has(oldSelf.status.allocations) || size(oldSelf.status.allocations) == 0",
        "region cannot change from '%s' to '%s' while resources are held; set desiredState: Decommissioned first",
        "(has(oldSelf.spec.region) ? oldSelf.spec.region : '')",
        "(has(self.spec.region) ? self.spec.region : '')",
        field_path=".spec.region",
    ),
)


class Tenant(Resource):
    """One isolated environment of an organisation, from asked for to serving traffic and back to nothing."""

    model_config = ConfigDict(json_schema_extra=_RULES)

    definition: ClassVar = Definition(
        kind="Tenant",
        plural="tenants",
        short_names=("tn",),
        scope="Namespaced",
        columns=(
            Column("State", ".status.state"),
            Column("Phase", ".status.phase"),
            Column("Attempt", ".status.attempt", "integer"),
            Column("Plan", ".spec.plan"),
            Column("URL", ".status.url"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Worker", ".status.run.worker", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
    )

    kind: Literal["Tenant"] = "Tenant"
    spec: TenantSpec
    status: TenantStatus = TenantStatus()

    @property
    def slug(self) -> str:
        """The tenant's part of its host name."""
        return self.spec.slug or self.metadata.name
