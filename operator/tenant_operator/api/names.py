"""The names of the API that clients, dashboards and GitOps rules depend on."""

from enum import StrEnum
from typing import Final

GROUP: Final = "intelliauth.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "intelliauth"

FINALIZER: Final = f"{GROUP}/release"
"""Keeps a Tenant that is being deleted until everything it holds is released."""
FIELD_MANAGER: Final = "tenant-operator"
"""Who owns the fields that the operator writes."""

ANNOTATION_ACTION: Final = f"{GROUP}/action"
"""A one-shot request: cancel, retry or reset. The operator takes it off."""
ANNOTATION_REQUEST: Final = f"{GROUP}/request"
"""Where the operator puts a request that it has taken, under an id, to carry it out exactly once."""
ANNOTATION_REQUESTED_BY: Final = f"{GROUP}/requested-by"
"""The user who asked for what the Tenant asks now. Admission stamps it; nobody can set another's name."""

ANNOTATION_RECORD: Final = f"{GROUP}/record"
"""On a tenant's namespace: namespace and name of the Tenant that it was made for."""
ANNOTATION_ATTEMPT: Final = f"{GROUP}/attempt"
"""On a tenant's namespace: the number of the last attempt that provisioned it."""
ANNOTATION_CREDENTIALS: Final = f"{GROUP}/credentials"
"""On pods: how often what they log in with was made again; they are made anew when it changes."""
ANNOTATION_SERVED: Final = f"{GROUP}/served"
"""On a tenant's namespace: "true" from before its route is first opened. What has served is released by request only,
never rolled back."""

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
"""tenant-operator, on everything that the operator makes."""
LABEL_TENANT_UID: Final = f"{GROUP}/tenant-uid"
"""The identity of the tenant that an object belongs to, the UID of the Tenant that it was made for: the claim."""
LABEL_TENANT: Final = f"{GROUP}/tenant"
"""The slug of that Tenant."""
LABEL_ORGANIZATION: Final = f"{GROUP}/organization"
"""The name of its Organization."""

SLUG_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
RESERVED_LABEL_PATTERN: Final = "^..--"
"""Such labels of a host name are kept for encodings, as punycode's `xn--` is (RFC 5891, 4.2.3.1): browsers show them as
something else, or not at all."""
TENANT_NAMESPACE_PREFIX: Final = "tenant-"
"""How the names of all tenants' own namespaces begin; no organisation lives in one."""
CLUSTER_NAMESPACE_PREFIX: Final = "kube-"
"""How the names of the cluster's own namespaces begin."""
DISPLAY_NAME_PATTERN: Final = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
REGION_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
EMAIL_PATTERN: Final = (
    r"^[A-Za-z0-9.!#$%&*+/=?^_`{|}~-]+"
    r"@[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+$"
)
DNS_LABEL_MAX_LENGTH: Final = 63


class WatchEvent(StrEnum):
    """What a watch reports of an object, in the API server's words."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Action(StrEnum):
    """A one-shot request, the value of the action annotation."""

    CANCEL = "cancel"
    """Interrupts the running activity and rolls back."""
    RETRY = "retry"
    """Begins another attempt."""
    RESET = "reset"
    """Forgets the run and its history; releases nothing and starts nothing."""


class PhaseName(StrEnum):
    """The phases of provisioning, in order."""

    VALIDATE = "validate"
    """Is it allowed?"""
    ALLOCATE = "allocate"
    """What it holds."""
    DEPLOY = "deploy"
    """What runs in it."""
    ACTIVATE = "activate"
    """It begins to serve."""
    WELCOME = "welcome"
    """Its admin is told."""


class ActivityName(StrEnum):
    """The activities of provisioning, in order."""

    VALIDATE_REQUEST = "validate-request"
    """Checks the request against organisation, plan, limit and hosts."""
    ALLOCATE_NAMESPACE = "allocate-namespace"
    """Claims the host by creating the namespace, with quota and limits."""
    ALLOCATE_STORAGE = "allocate-storage"
    """Makes the database, its owner role and the Secret with the credentials."""
    ALLOCATE_IDENTITY_STORE = "allocate-identity-store"
    """Makes the identity schema with a role of its own, and the key pair that signs tokens."""
    ALLOCATE_TRAFFIC_BOUNDARY = "allocate-traffic-boundary"
    """Makes the NetworkPolicies, and the route, closed."""
    APPLY_SCHEMA = "apply-schema"
    """Applies the migrations to the identity schema."""
    DEPLOY_WORKLOADS = "deploy-workloads"
    """Applies the plan's workloads."""
    WAIT_READY = "wait-ready"
    """Waits until all workloads are ready, and the plan's readiness URL answers."""
    MARK_ACTIVE = "mark-active"
    """Checks the plan's limit for good, and opens the route."""
    SEND_WELCOME_EMAILS = "send-welcome-emails"
    """Sends the three emails. A failure does not fail the run."""
