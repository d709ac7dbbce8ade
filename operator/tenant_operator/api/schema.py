"""From a model to the structural OpenAPI v3 schema that a CustomResourceDefinition takes.

A structural schema has no references, no alternatives and no titles. An optional field is one that may be
absent: the API server prunes a null that a client sends for it, so no field is nullable.
"""

from typing import Any, Final

from .cel import VALIDATIONS
from .fields import UNOBSERVED
from .names import CATEGORY, DNS_LABEL_MAX_LENGTH, GROUP, VERSION
from .resource import Column, Resource

Schema = dict[str, Any]

_NOT_STRUCTURAL: Final = frozenset({"title", "propertyNames", "$defs"})
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"


def custom_resource_definition(model: type[Resource]) -> Schema:
    """The CustomResourceDefinition of a kind."""
    definition = model.definition
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.crd_name},
        "spec": {
            "group": GROUP,
            "names": {
                "categories": [CATEGORY],
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                **({"shortNames": list(definition.short_names)} if definition.short_names else {}),
                "singular": definition.singular,
            },
            "scope": definition.scope,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(each) for each in definition.columns],
                    "schema": {"openAPIV3Schema": structural_schema(model)},
                }
            ],
        },
    }


def structural_schema(model: type[Resource]) -> Schema:
    """The schema of an object: `spec` has the defaults that the API server applies, `status` but one."""
    source = model.model_json_schema(by_alias=True, mode="validation")
    definitions = source["$defs"]
    parts = source["properties"]
    root: Schema = {
        "description": source["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            # The name becomes the value of labels, which are no longer than a DNS label.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": DNS_LABEL_MAX_LENGTH}},
            },
            "spec": _structural(parts["spec"], definitions, defaults=True),
            "status": {
                **_structural(parts["status"], definitions, defaults=False),
                "default": {"observedGeneration": UNOBSERVED},
            },
        },
    }
    if VALIDATIONS in source:
        root[VALIDATIONS] = source[VALIDATIONS]
    return root


def _structural(node: Schema, definitions: Schema, *, defaults: bool) -> Schema:
    """One node without references, alternatives and titles."""
    node = _resolved(node, definitions)
    structural: Schema = {}
    for keyword, value in node.items():
        match keyword:
            case _ if keyword in _NOT_STRUCTURAL:
                continue
            case "type" if _INT_OR_STRING in node:
                continue
            case "description":
                structural[keyword] = " ".join(value.split())
            case "default":
                if defaults and (default := _without_nothing(value)) not in (None, "", [], {}):
                    structural[keyword] = default
            case "properties":
                structural[keyword] = {
                    name: _structural(each, definitions, defaults=defaults) for name, each in value.items()
                }
            case "items" | "additionalProperties":
                structural[keyword] = _structural(value, definitions, defaults=defaults)
            case _:
                structural[keyword] = value
    return structural


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """The node with what it refers to, its own keywords first; "X or null" is X."""
    if _INT_OR_STRING in node:
        return node
    own = {keyword: value for keyword, value in node.items() if keyword not in ("$ref", "anyOf")}
    if "$ref" in node:
        return _resolved(definitions[node["$ref"].rpartition("/")[2]], definitions) | own
    if "anyOf" in node:
        (only,) = (each for each in node["anyOf"] if each != {"type": "null"})
        return _resolved(only, definitions) | own
    return node


def _without_nothing(value: Any) -> Any:
    """A default without the members that mean "absent"."""
    if not isinstance(value, dict):
        return value
    members = {name: _without_nothing(each) for name, each in value.items()}
    return {name: each for name, each in members.items() if each not in (None, "", [], {})}


def _column(column: Column) -> Schema:
    return {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.json_path,
        **({"priority": column.priority} if column.priority else {}),
    }
