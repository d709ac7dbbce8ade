"""The text of docs/configuration.md: every setting of the operator with its values, default and meaning."""

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from tenant_operator.api.duration import DURATION_PATTERN, format_duration
from tenant_operator.settings import PREFIX, Settings
from tools.docs.markdown import code, prose, table

_SECTIONS: Final[Mapping[str, str]] = {
    "database_url": "PostgreSQL",
    "base_domain": "Addresses and routes",
    "egress_dns": "What tenants may reach",
    "mail_transport": "Email",
    "audit_log": "Audit feed",
    "concurrency": "Provisioning",
    "kube_connections": "The process",
}
"""The headings, each by the first setting under it."""

_COMPUTED: Final[Mapping[str, str]] = {"worker": "`POD_NAME`, or else the host's name"}
"""Defaults that depend on where the operator runs, in words."""

_HEAD: Final = f"""\
<!-- Generated from the settings model: run `make generate`, do not edit. -->
# Configuration

The operator is configured by environment variables, read once at start. Their names are listed here without the prefix
`{PREFIX}`. A variable that is missing or wrong ends the operator at start, with exit code 2 and the variable's name.
A variable of that prefix that is not listed is ignored.

The Helm chart sets them from its values: `settings.baseDomain` is `BASE_DOMAIN`. Secrets are not among those: see
[Install](install.md#the-secrets).

Durations are written like `90s`, `5m`, `1h30m` or `500ms`; lists and objects as JSON. What a Plan says in
`spec.timeouts` and `spec.retries` overrides `TIMEOUTS` and `RETRIES` for its tenants.
"""


def page() -> str:
    """The text of the page. KeyError if there are no words here for a setting."""
    return "\n".join(_lines(Settings.model_json_schema())) + "\n"


def _lines(schema: Mapping[str, Any]) -> Iterator[str]:
    fields = Settings.model_fields
    if strangers := _SECTIONS.keys() - fields.keys():
        raise KeyError(f"sections begin with settings that do not exist: {', '.join(sorted(strangers))}")
    sections: dict[str, list[tuple[str, ...]]] = {}
    rows: list[tuple[str, ...]] = []
    for name, field in fields.items():
        if name in _SECTIONS:
            rows = sections.setdefault(_SECTIONS[name], [])
        rows.append(
            (code(name.upper()), _values(schema["properties"][name], schema), _default(name, field), _meaning(field))
        )
    yield _HEAD.rstrip()
    for heading, content in sections.items():
        yield from ("", f"## {heading}", "", *table(("Variable", "Values", "Default", "Meaning"), content))


def _values(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What may be given, in words."""
    alternatives = [each for each in value.get("anyOf", ()) if each.get("type") != "null"]
    if alternatives:
        return " or ".join(_values(each, schema) for each in alternatives)
    if "$ref" in value:
        return _values(schema["$defs"][value["$ref"].rpartition("/")[2]], schema)
    match value:
        case {"enum": options}:
            return ", ".join(code(option) for option in options)
        case {"format": "password"}:
            return "secret text"
        case {"format": "path"}:
            return "file"
        case {"pattern": pattern} if pattern == DURATION_PATTERN:
            return "duration"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"whole number, {least} to {most}"
        case {"type": "integer", "exclusiveMinimum": limit}:
            return f"whole number above {limit}"
        case {"type": "number", "exclusiveMinimum": limit}:
            return f"number above {limit:g}"
        case {"type": "array"}:
            return "JSON list"
        case {"type": "object"}:
            return "JSON object"
        case {"type": "string", "pattern": pattern}:
            return f"text like {code(pattern)}"
        case {"type": "string"}:
            return "text"
        case _:
            raise KeyError(f"no words for {dict(value)}")


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if name in _COMPUTED:
        return _COMPUTED[name]
    if field.default_factory not in (None, dict):
        raise KeyError(f"no words for the default of {name}")
    match field.get_default(call_default_factory=True):
        case None:
            return "none"
        case timedelta() as duration:
            return code(format_duration(duration))
        case Enum(value=value):
            return code(value)
        case {} as empty if not empty:
            return code("{}")
        case tuple() as values:
            return code(json.dumps(to_jsonable_python(values, by_alias=True, exclude_none=True)))
        case float() as number:
            return code(f"{number:g}")
        case plain:
            return code(plain)


def _meaning(field: FieldInfo) -> str:
    if not field.description:
        raise KeyError("a setting has no docstring")
    return prose(field.description)
