"""What a tenant's namespace remembers of it: a second record beside the status, which somebody may wipe or lose.

The namespace is written by the operator alone, and its name is derived from the host: so it says whose the host is,
whether the tenant has served, and how often it was provisioned. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tenant_operator.api.names import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_RECORD,
    ANNOTATION_SERVED,
    FIELD_MANAGER,
    LABEL_MANAGED_BY,
    LABEL_ORGANIZATION,
    LABEL_TENANT,
    LABEL_TENANT_UID,
)
from tenant_operator.api.tenant import Tenant
from tenant_operator.ports import Manifest, key_of


@dataclass(frozen=True, slots=True)
class Claim:
    """What a namespace says. `uid`: the identity of its tenant. `record`: where the Tenant is, as namespace/name."""

    uid: str
    record: str
    organization: str
    slug: str
    attempt: int
    served: bool


def claim_of(namespace: Manifest) -> Claim | None:
    """The claim that a namespace is; None if the operator did not make it."""
    labels, annotations = _mapping(namespace, "labels"), _mapping(namespace, "annotations")
    uid = labels.get(LABEL_TENANT_UID)
    if not uid or labels.get(LABEL_MANAGED_BY) != FIELD_MANAGER:
        return None
    number = annotations.get(ANNOTATION_ATTEMPT, "")
    return Claim(
        uid=uid,
        record=annotations.get(ANNOTATION_RECORD, ""),
        organization=labels.get(LABEL_ORGANIZATION, ""),
        slug=labels.get(LABEL_TENANT, ""),
        attempt=int(number) if number.isascii() and number.isdigit() else 0,
        served=annotations.get(ANNOTATION_SERVED) == "true",
    )


def is_own(claim: Claim, tenant: Tenant) -> bool:
    """Whether the namespace was made for this Tenant, or for the one that it was restored from.

    A namespace holds one Tenant of a name at a time: if another UID is recorded for the very name of a Tenant that
    exists, then whoever had that UID is gone. Nothing that a Tenant says of itself counts but what it cannot choose
    (its place), or cannot change (organisation and slug).
    """
    if claim.uid == tenant.metadata.uid:
        return True
    recorded = (claim.record, claim.organization, claim.slug)
    return recorded == (str(key_of(tenant)), tenant.spec.organization, tenant.slug)


def marked(namespace: Manifest, tenant: Tenant, *, served: bool) -> Manifest:
    """The manifest of the tenant's namespace, with what it is to remember."""
    marks = {ANNOTATION_RECORD: str(key_of(tenant)), ANNOTATION_ATTEMPT: str(tenant.status.attempt)}
    if served:
        marks[ANNOTATION_SERVED] = "true"
    return {**namespace, "metadata": {**namespace["metadata"], "annotations": marks}}


def says(stored: Manifest, wanted: Manifest) -> bool:
    """Whether the stored namespace has the labels and the marks of the manifest."""
    return all(_mapping(wanted, part).items() <= _mapping(stored, part).items() for part in ("labels", "annotations"))


def _mapping(manifest: Manifest, part: str) -> Mapping[str, str]:
    found: Mapping[str, str] = manifest["metadata"].get(part) or {}
    return found
