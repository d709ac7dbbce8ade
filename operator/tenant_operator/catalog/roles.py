"""The roles of an organisation's members as Kubernetes RBAC: one RoleBinding per role, in its namespace."""

import re
from collections.abc import Iterator
from typing import Final

from tenant_operator.api.names import (
    API_VERSION,
    DNS_LABEL_MAX_LENGTH,
    FIELD_MANAGER,
    LABEL_MANAGED_BY,
    LABEL_ORGANIZATION,
)
from tenant_operator.api.organization import Member, MemberKind, MemberRole, Organization
from tenant_operator.ports import Manifest, ObjectRef

RBAC_GROUP: Final = "rbac.authorization.k8s.io"
RBAC_VERSION: Final = f"{RBAC_GROUP}/v1"
PREFIX: Final = "intelliauth-"
"""How the names of all ClusterRoles of the product begin, and of the RoleBindings that the operator keeps."""

_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME_LIMIT: Final = 253


def cluster_role(role: MemberRole) -> str:
    """The ClusterRole that says what a role may do; the RoleBinding that grants it has the same name."""
    return f"{PREFIX}{role.value}"


def labels(organization: str) -> dict[str, str]:
    """The labels by which the RoleBindings of an organisation are found."""
    return {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_ORGANIZATION: organization}


def role_bindings(organization: Organization) -> list[Manifest]:
    """The RoleBindings that the organisation's members need: none for a role that nobody has."""
    return [
        _role_binding(organization, role, subjects)
        for role in MemberRole
        if (subjects := list(_subjects(organization, role)))
    ]


def invalid_members(organization: Organization) -> list[str]:
    """Why a member cannot be the subject of a RoleBinding; the API server would refuse it for all of its role."""
    return [problem for member in organization.spec.members if (problem := _problem(member))]


def binding_ref(manifest: Manifest) -> ObjectRef:
    """The name of a RoleBinding."""
    metadata = manifest["metadata"]
    return ObjectRef(RBAC_VERSION, "RoleBinding", metadata["name"], metadata["namespace"])


def organization_of(manifest: Manifest) -> str | None:
    """The organisation that the operator keeps the RoleBinding for; None if it is somebody else's."""
    found: dict[str, str] = manifest["metadata"].get("labels") or {}
    return found.get(LABEL_ORGANIZATION) if found.get(LABEL_MANAGED_BY) == FIELD_MANAGER else None


def is_kept_for(manifest: Manifest, organization: Organization) -> bool:
    """Whether the operator keeps the RoleBinding for that organisation, by its labels or else by its owner."""
    return organization_of(manifest) == organization.metadata.name or organization.metadata.uid in _owners(manifest)


def same_role(found: Manifest, wanted: Manifest) -> bool:
    """Whether both grant the same role: the API server lets nobody change that of a RoleBinding."""
    return bool(found.get("roleRef") == wanted["roleRef"])


def in_step(found: Manifest, wanted: Manifest) -> bool:
    """Whether what is there grants what it should, and goes when the organisation goes."""
    return (
        same_role(found, wanted)
        and (found.get("subjects") or []) == wanted["subjects"]
        and wanted["metadata"]["labels"].items() <= (found["metadata"].get("labels") or {}).items()
        and _owners(found) >= _owners(wanted)
    )


def _owners(manifest: Manifest) -> set[str]:
    """The UIDs of those it goes with."""
    return {owner["uid"] for owner in manifest["metadata"].get("ownerReferences") or []}


def _role_binding(organization: Organization, role: MemberRole, subjects: list[dict[str, str]]) -> Manifest:
    name = cluster_role(role)
    return {
        "apiVersion": RBAC_VERSION,
        "kind": "RoleBinding",
        "metadata": {
            "name": name,
            "namespace": organization.spec.namespace,
            "labels": labels(organization.metadata.name),
            # Garbage collection removes the RoleBinding with its organisation, whether the operator runs or not.
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": organization.kind,
                    "name": organization.metadata.name,
                    "uid": organization.metadata.uid,
                }
            ],
        },
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": name},
        "subjects": subjects,
    }


def _subjects(organization: Organization, role: MemberRole) -> Iterator[dict[str, str]]:
    """The valid members of a role as the API server stores them, each once, in the order of the spec."""
    seen: set[tuple[MemberKind, str | None, str]] = set()
    for member in organization.spec.members:
        identity = (member.kind, member.namespace, member.name)
        if member.role is role and identity not in seen and not _problem(member):
            seen.add(identity)
            yield _subject(member)


def _subject(member: Member) -> dict[str, str]:
    if member.kind is MemberKind.SERVICE_ACCOUNT:
        return {"kind": member.kind.value, "name": member.name, "namespace": member.namespace or ""}
    return {"apiGroup": RBAC_GROUP, "kind": member.kind.value, "name": member.name}


def _problem(member: Member) -> str:
    """Why the API server would not take the member as a subject; empty if it would."""
    who = f"member '{member.name}' ({member.kind.value}, {member.role.value})"
    if member.kind is not MemberKind.SERVICE_ACCOUNT:
        return "" if member.name else f"{who}: its name is empty"
    if len(member.name) > _NAME_LIMIT or not _DNS_SUBDOMAIN.fullmatch(member.name):
        return f"{who}: that is no name of a ServiceAccount: lowercase letters, digits, dashes and dots are"
    if not member.namespace:
        return f"{who}: it needs a namespace"
    if len(member.namespace) > DNS_LABEL_MAX_LENGTH or not _DNS_LABEL.fullmatch(member.namespace):
        return f"{who}: '{member.namespace}' is no name of a namespace"
    return ""
