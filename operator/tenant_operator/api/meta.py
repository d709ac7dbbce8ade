"""What every Kubernetes object carries: metadata, owner references, conditions."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .fields import ApiModel, Message, Time, Timestamp, keywords, whole


class OwnerReference(ApiModel):
    """The object whose deletion deletes this one."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiModel):
    """The part of `metav1.ObjectMeta` that the operator reads."""

    name: str
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    """It holds."""
    FALSE = "False"
    """It does not hold."""
    UNKNOWN = "Unknown"
    """Not known. The operator does not use it."""


class Condition(ApiModel):
    """One aspect of the state of an object: `metav1.Condition`."""

    type: Annotated[str, keywords({"minLength": 1, "maxLength": 316})]
    """The aspect, unique in its list."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Annotated[int, whole(width=64)] | None = None
    """The generation of the object that the condition was set for."""
    last_transition_time: Timestamp
    """When the status last changed."""
    reason: Annotated[
        str,
        keywords(
            {
                "minLength": 1,
                "maxLength": 253,
                "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            }
        ),
    ]
    """Why, for machines: one word in PascalCase."""
    message: Message
    """Why, for people."""
