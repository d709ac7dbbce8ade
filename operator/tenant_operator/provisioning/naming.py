"""The names of everything a tenant holds: derived, deterministic, and within the limits of those who store them."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from tenant_operator.api import names as api_names

_DNS_LABEL = 63
_DIGEST = 20
"""Hexadecimal digits, 80 bits: whoever chooses a slug must not find one that is shortened to another's name."""


def _bounded(text: str, limit: int, separator: str) -> str:
    """`text` if it fits, else its head and a digest: still one-to-one for all practical purposes."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
    return text[: limit - _DIGEST - 1].rstrip(separator) + separator + digest


@dataclass(frozen=True, slots=True)
class Names:
    """The names that belong to one tenant. `host_label`, `<slug>-<organization slug>`, is unique; the pair is not.
    `uid` is the tenant's identity: the UID of its Tenant, or of the one that this was restored from."""

    slug: str
    organization: str
    organization_name: str
    uid: str
    base_domain: str

    @property
    def host_label(self) -> str:
        return f"{self.slug}-{self.organization}"

    @property
    def host(self) -> str:
        return f"{self.host_label}.{self.base_domain}"

    @property
    def url(self) -> str:
        return f"https://{self.host}"

    @property
    def namespace(self) -> str:
        """The tenant's own namespace, derived from the host alone: holding it is holding the slug."""
        return _bounded(f"tenant-{self.host_label}", _DNS_LABEL, "-")

    @property
    def database(self) -> str:
        """Database and owner role. Every role on the server can read the names of all databases: so this one tells
        nothing of the tenant, and a released name is never met again by another one."""
        return "tenant_" + self.uid.replace("-", "")

    @property
    def database_role(self) -> str:
        return self.database

    @property
    def identity_schema(self) -> str:
        return "identity"

    @property
    def identity_role(self) -> str:
        return self.database + "_id"

    database_secret: ClassVar[str] = "database-credentials"  # noqa: S105 (the name of a Secret, not a secret)
    identity_secret: ClassVar[str] = "identity-credentials"  # noqa: S105
    signing_secret: ClassVar[str] = "identity-signing-key"  # noqa: S105
    jwks: ClassVar[str] = "identity-jwks"
    quota: ClassVar[str] = "tenant-quota"
    limits: ClassVar[str] = "tenant-limits"
    route: ClassVar[str] = "tenant"
    closed_backend: ClassVar[str] = "paused"

    def labels(self) -> dict[str, str]:
        """The labels that everything created for the tenant carries."""
        return {
            api_names.LABEL_MANAGED_BY: api_names.FIELD_MANAGER,
            api_names.LABEL_TENANT_UID: self.uid,
            api_names.LABEL_TENANT: self.slug,
            api_names.LABEL_ORGANIZATION: self.organization_name,
        }
