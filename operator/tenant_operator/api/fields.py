"""The base of all models, and the types of their fields with the bounds that the API server enforces.

Bounds and rules live on the models as JSON schema only. The API server is their judge: a stored object
that predates a tightened rule must still be readable, or it could never be released.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from tenant_operator.text import cut

MESSAGE_MAX_LENGTH: Final = 1024
UNOBSERVED: Final = -1
"""The observed generation of an object that the operator has not looked at: without it, clients would take one that
has no conditions yet for one that is as it should be."""
QUANTITY_PATTERN: Final = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)


class ApiModel(BaseModel):
    """A frozen part of a resource: camelCase on the wire, unknown fields ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """The JSON object that the API server stores."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def keywords(extra: JsonDict) -> Any:
    """JSON schema keywords of an annotated type or field."""
    return Field(json_schema_extra=extra)


def list_map(max_items: int, *keys: str) -> Any:
    """A bounded list whose rows are told apart by their keys: no key twice, rows merged by key."""
    return keywords({"maxItems": max_items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)})


def bounded_list(max_items: int) -> Any:
    """A bounded list that is replaced as a whole."""
    return keywords({"maxItems": max_items, "x-kubernetes-list-type": "atomic"})


def bounded_set(max_items: int) -> Any:
    """A bounded list of different values."""
    return keywords({"maxItems": max_items, "x-kubernetes-list-type": "set"})


def bounded_map(max_properties: int) -> Any:
    """A bounded map of text keys."""
    return keywords({"maxProperties": max_properties})


def whole(minimum: int = 0, maximum: int | None = None, *, width: int = 32) -> Any:
    """The range of a whole number, and its width in bits."""
    upper: JsonDict = {} if maximum is None else {"maximum": maximum}
    return keywords({"format": f"int{width}", "minimum": minimum, **upper})


def _to_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _to_whole_seconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _to_rfc3339(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _shorten(text: object) -> object:
    # A cause that is too long must not stop the journal from being written.
    return cut(text, MESSAGE_MAX_LENGTH) if isinstance(text, str) else text


ObservedGeneration = Annotated[int, whole(UNOBSERVED, width=64)]
"""The generation of the object that a status speaks of."""

Time = Annotated[
    AwareDatetime,
    AfterValidator(_to_utc),
    PlainSerializer(_to_rfc3339, return_type=str, when_used="json"),
    keywords({"type": "string", "format": "date-time"}),
]
"""A moment in UTC, fractions of a second kept."""

Timestamp = Annotated[Time, AfterValidator(_to_whole_seconds)]
"""A moment in UTC, cut to whole seconds as in `metav1.Time`."""

Message = Annotated[str, BeforeValidator(_shorten), keywords({"maxLength": MESSAGE_MAX_LENGTH})]
"""Text for people; longer text is cut, with an ellipsis."""

Name = Annotated[str, keywords({"minLength": 1, "maxLength": 253})]
"""The name of an object, or of a user."""

Label = Annotated[str, keywords({"minLength": 1, "maxLength": 63})]
"""A short name: a slug, an activity, a reason."""

Text = Annotated[str, keywords({"maxLength": 253})]
"""A short line of free text."""

Url = Annotated[str, keywords({"maxLength": 2048})]

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value),
    keywords(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 64,
            "pattern": QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
        }
    ),
]
"""An amount of a resource: 2, "500m", "4Gi"."""

Quantities = Annotated[dict[str, Quantity], bounded_map(32)]
"""Amounts by the name of the resource."""
