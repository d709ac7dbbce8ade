"""Judges a status as the API server would: by the schema of the CRD."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tenant_operator.api.crds import render_crds

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


@cache
def status_schema() -> dict[str, Any]:
    """The schema of `status`."""
    crd = yaml.safe_load(render_crds()["intelliauth.io_tenants.yaml"])
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    return schema


def faults(value: Any, schema: dict[str, Any], path: str = "status") -> Iterator[str]:
    """What the API server would find wrong with `value`."""
    kind = schema.get("type")
    if kind is not None and not isinstance(value, _TYPES[kind]):
        yield f"{path}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{path}: has {len(value)} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: {value} is out of range"
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            yield f"{path}: has {len(value)} rows"
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys and len({tuple(row[key] for key in keys) for row in value}) < len(value):
            yield f"{path}: two rows of one key"
        for index, row in enumerate(value):
            yield from faults(row, schema.get("items", {}), f"{path}[{index}]")
    if isinstance(value, dict) and "properties" in schema:
        for name in schema.get("required", []):
            if name not in value:
                yield f"{path}.{name}: is missing"
        for name, field in value.items():
            if name not in schema["properties"]:
                yield f"{path}.{name}: is unknown"
            else:
                yield from faults(field, schema["properties"][name], f"{path}.{name}")
