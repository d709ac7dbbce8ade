"""A structural schema in words: its objects, their fields with type, default and limits, and what its rules refuse."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tenant_operator.api.cel import VALIDATIONS
from tenant_operator.api.duration import DURATION_PATTERN
from tools.docs.markdown import code

Schema = Mapping[str, Any]

_CONDITIONS: Final = "conditions"
"""The same in every kind, and told once."""


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a table. `part` is the path of the object it leads to, `{}` in `type` stands for that object."""

    name: str
    type: str
    required: bool
    default: str
    description: str
    limits: str
    options: tuple[str, ...]
    part: str


def sections(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every object with fields of its own, outer ones first, each with its path."""
    yield path, schema
    for name, value in schema["properties"].items():
        step, inner = _inner(name, value)
        if "properties" in inner and name != _CONDITIONS:
            yield from sections(f"{path}.{step}", inner)


def fields(section: Schema) -> Iterator[Field]:
    """The fields of an object."""
    required = section.get("required", ())
    for name, value in section["properties"].items():
        step, inner = _inner(name, value)
        default = None if "properties" in inner else value.get("default", section.get("default", {}).get(name))
        yield Field(
            name=name,
            type=_type(value),
            required=name in required,
            default="" if default is None else default if isinstance(default, str) else json.dumps(default),
            description=value.get("description", ""),
            limits=_limits(value),
            options=tuple(value.get("enum", ())),
            part=step if "properties" in inner else "",
        )


def violations(section: Schema) -> list[tuple[str, str]]:
    """What the rules of an object and of its fields that are no objects refuse: the field, and the message."""
    found = [
        (str(each.get("fieldPath", "")).removeprefix(".spec").removeprefix("."), _message(each))
        for each in section.get(VALIDATIONS, ())
    ]
    for name, value in section["properties"].items():
        if "properties" not in value:
            found += [(name, _message(each)) for each in value.get(VALIDATIONS, ())]
    return found


def name_of(camel_case: str) -> str:
    """DesiredState in words: Desired state."""
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: " " + match[1].lower(), camel_case)


def _inner(name: str, value: Schema) -> tuple[str, Schema]:
    """What a list or a map is of, or the value itself, and how a path leads there."""
    if "items" in value:
        return f"{name}[]", value["items"]
    if isinstance(value.get("additionalProperties"), Mapping):
        return f"{name}.*", value["additionalProperties"]
    return name, value


def _type(value: Schema) -> str:
    match value:
        case {"x-kubernetes-int-or-string": True}:
            return "quantity"
        case {"x-kubernetes-preserve-unknown-fields": True}:
            return "any object"
        case {"items": items}:
            return f"list of {_type(items)}"
        case {"properties": _}:
            return "{}"
        case {"additionalProperties": values}:
            return f"map of {_type(values)}"
        case {"pattern": pattern} if pattern == DURATION_PATTERN:
            return "duration"
        case {"format": "date-time"}:
            return "time"
        case {"format": "cidr"}:
            return "network"
        case {"type": "integer"}:
            return "whole number"
        case {"type": "boolean"}:
            return "`true` or `false`"
        case {"type": "string"}:
            return "text"
        case _:
            raise KeyError(f"no words for {dict(value)}")


def _limits(value: Schema) -> str:
    """The limits in a sentence; empty if there are none that need words."""
    own = _bounds(value)
    _, inner = _inner("", value)
    if inner is not value and "properties" not in inner and (each := _bounds(inner)):
        own = [*own, f"each {', '.join(each)}"]
    text = "; ".join(own)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _bounds(value: Schema) -> list[str]:
    known_form = _type(value) in {"quantity", "duration", "time"}
    ranges = (
        ("minimum", "maximum", ""),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
        *(() if known_form else (("minLength", "maxLength", " characters"),)),
    )
    bounds = [
        _range(value.get(least), value.get(most), unit)
        for least, most, unit in ranges
        if least in value or most in value
    ]
    match value.get("x-kubernetes-list-type"), value.get("x-kubernetes-list-map-keys"):
        case "set", _:
            bounds.append("no value twice")
        case "map", [key]:
            bounds.append(f"no {code(key)} twice")
    if "pattern" in value and not known_form:
        bounds.append(f"like {code(value['pattern'])}")
    return bounds


def _range(least: int | None, most: int | None, unit: str) -> str:
    if least is None:
        return f"at most {most}{unit}"
    if most is None:
        return f"{least} or more{unit}"
    return f"{least} to {most}{unit}" if least < most else f"{least}{unit}"


def _message(validation: Schema) -> str:
    """The message of a rule; `…` stands for what is known only when it is refused."""
    if "message" in validation:
        return str(validation["message"])
    return "".join(
        str(json.loads(term)) if term.startswith('"') else "…" for term in _terms(validation["messageExpression"])
    )


def _terms(expression: str) -> Iterator[str]:
    """The terms of a sum of texts; signs inside of literals and brackets are no concern of it."""
    depth, start = 0, 0
    for token in re.finditer(r'"(?:\\.|[^"\\])*"|[(\[]|[)\]]| \+ ', expression):
        match token[0]:
            case "(" | "[":
                depth += 1
            case ")" | "]":
                depth -= 1
            case " + " if depth == 0:
                yield expression[start : token.start()]
                start = token.end()
    yield expression[start:]
