"""A Tenant on which a saga can be told."""

from datetime import datetime
from itertools import count
from typing import Any

from tenant_operator.api.names import ANNOTATION_ACTION, ANNOTATION_REQUESTED_BY
from tenant_operator.api.states import DesiredState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import TenantStatus
from tenant_operator.provisioning.naming import Names

UID = "7f0c8c2e-0000-4000-8000-000000000001"
NAMES = Names("banking", "cymmetri", "cymmetri", UID, "tenants.example")

_serials = count(1)


def tenant(
    status: TenantStatus | None = None,
    *,
    desired: DesiredState = DesiredState.ACTIVE,
    deleted: datetime | None = None,
    action: str | None = None,
    version: int = 1,
    **annotations: str,
) -> Tenant:
    """A Tenant as the API server has it, with an action asked for by alice."""
    asked = {ANNOTATION_ACTION: action, ANNOTATION_REQUESTED_BY: "alice"} if action is not None else {}
    manifest: dict[str, Any] = {
        "metadata": {
            "name": "banking",
            "namespace": "cymmetri",
            "uid": UID,
            "resourceVersion": str(version),
            "generation": 3,
            "deletionTimestamp": deleted.isoformat() if deleted else None,
            "annotations": {**asked, **{f"intelliauth.io/{key}": value for key, value in annotations.items()}},
        },
        "spec": {
            "organization": "cymmetri",
            "plan": "starter",
            "admin": {"email": "admin@cymmetri.example"},
            "desiredState": desired,
        },
        "status": (status or TenantStatus()).to_wire(),
    }
    return Tenant.model_validate(manifest)


def new_id() -> str:
    """As long as a ULID, and in order like one."""
    return f"01{next(_serials):024d}"
