"""Manifests from templates: every value lands as exactly one scalar, every object lands where it belongs.

A template writes the structure and `{{ value }}` the leaves: what an expression yields is quoted as a YAML flow value
whether the template asks for it or not, so that no value can add a key, an item or a document.
"""

import json
import re
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml
from jinja2 import BaseLoader, FileSystemLoader, StrictUndefined, Template, TemplateError, nodes
from jinja2.exceptions import TemplateNotFound, TemplateSyntaxError
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.ports import Manifest
from tenant_operator.saga.errors import Rejected

RENDERED_LIMIT: Final = 1024 * 1024
"""Characters that one template may render to."""
DOCUMENTS_LIMIT: Final = 200
"""Objects that one template may render to."""
VALUE_LIMIT: Final = 64 * 1024
"""Characters that one value template may render to."""

_TENANT_KINDS: Final = frozenset(
    {
        "ConfigMap",
        "Deployment",
        "HTTPRoute",
        "Ingress",
        "LimitRange",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ResourceQuota",
        "Service",
    }
)
_NOT_PLAIN: Final = re.compile(r"[^\x20-\x7e]")
_MARKUP: Final = re.compile(r"\{[{%#]")
# Small enough to be linear in its input: no calls, no loops, no arithmetic, no attributes.
_VALUE_NODES: Final = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Filter)
_VALUE_FILTERS: Final = frozenset({"lower", "upper", "trim", "urlencode"})
# The parser in C reads a plan's workloads ten times faster; not every platform has it.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_flow(value: object) -> str:
    """`value` (text, whole number, boolean, None, or mappings and sequences of them) as one line of ASCII YAML."""
    if isinstance(value, Undefined):
        # Text of an undefined value: raises the error that names it.
        return str(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    # JSON is YAML but for what YAML takes for line breaks or refuses unescaped.
    return _NOT_PLAIN.sub(lambda match: f"\\U{ord(match[0]):08x}", text)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be a value of a manifest")


class Templates:
    """A set of manifest templates, compiled once."""

    def __init__(self, loader: BaseLoader) -> None:
        self._environment = ImmutableSandboxedEnvironment(
            loader=loader,
            undefined=StrictUndefined,
            autoescape=False,
            finalize=yaml_flow,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )

    def render(
        self,
        template: str,
        names: Names,
        values: Mapping[str, object],
        *,
        outside: Mapping[str, str | None] = MappingProxyType({}),
    ) -> list[Manifest]:
        """The objects of a template, labelled as the tenant's and placed in its namespace.

        `outside` maps the kinds that live elsewhere to their namespace, None for cluster-scoped ones. Rejected if the
        template is broken, speaks of what is not defined, or wants an object that is not the tenant's to have.
        """
        text = self._text(template, values)
        try:
            documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
        except yaml.YAMLError as error:
            raise Rejected(f"template {template}: what it renders to is not YAML: {_in_one_line(error)}") from error
        if len(documents) > DOCUMENTS_LIMIT:
            raise Rejected(f"template {template}: renders to {len(documents)} objects, allowed are {DOCUMENTS_LIMIT}")
        return [_placed(template, document, names, outside) for document in documents]

    def _text(self, template: str, values: Mapping[str, object]) -> str:
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._environment.get_template(template).generate(values):
                pieces.append(piece)
                length += len(piece)
                if length > RENDERED_LIMIT:
                    raise Rejected(f"template {template}: renders to more than {RENDERED_LIMIT} characters")
        except TemplateNotFound as error:
            raise Rejected(f"template {template}: there is no template {error.name}") from error
        except TemplateSyntaxError as error:
            raise Rejected(f"template {error.name or template}, line {error.lineno}: {error.message}") from error
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise Rejected(f"template {_place(error, template)}: {_in_one_line(error)}") from error
        return "".join(pieces)


BUILT_IN: Final = Templates(FileSystemLoader(Path(__file__).parent / "templates"))
"""The templates that every tenant is made from."""


def render_value(text: str, values: Mapping[str, str], *, place: str) -> str:
    """A value of a plan that may be a template, such as `https://{{ host }}/healthz`.

    Names and the filters lower, upper, trim and urlencode are all it may use. `place` says in errors whose value it is.
    """
    if not _MARKUP.search(text):
        return text
    try:
        rendered = _value_template(text).render(values)
    except TemplateError as error:
        raise Rejected(f"{place}: {_in_one_line(error)}; known are {', '.join(sorted(values))}") from error
    if len(rendered) > VALUE_LIMIT:
        raise Rejected(f"{place}: renders to more than {VALUE_LIMIT} characters")
    return rendered


_VALUES: Final = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined,
    autoescape=False,
    keep_trailing_newline=True,
)


@lru_cache(maxsize=1024)
def _value_template(text: str) -> Template:
    tree = _VALUES.parse(text)
    for node in (tree, *tree.find_all(nodes.Node)):
        allowed = isinstance(node, _VALUE_NODES) and (
            not isinstance(node, nodes.Filter) or (node.name in _VALUE_FILTERS and not node.args and not node.kwargs)
        )
        if not allowed:
            raise TemplateSyntaxError(
                f"only names and the filters {', '.join(sorted(_VALUE_FILTERS))} may be used, "
                f"not {getattr(node, 'name', None) or type(node).__name__.lower()}",
                node.lineno,
            )
    return _VALUES.from_string(tree)


def _placed(template: str, document: Any, names: Names, outside: Mapping[str, str | None]) -> Manifest:
    match document:
        case {"apiVersion": str(), "kind": str(kind), "metadata": {"name": str(name)} as metadata}:
            pass
        case _:
            raise Rejected(f"template {template}: an object without apiVersion, kind and metadata.name")
    manifest: dict[str, Any] = dict(document)
    if kind not in outside and kind not in _TENANT_KINDS:
        raise Rejected(f"template {template}: {kind} {name} is of a kind that a tenant may not have")
    namespace = outside.get(kind, names.namespace)
    stated = metadata.get("namespace", namespace)
    if stated != namespace:
        where = f"in namespace {namespace}" if namespace else "in no namespace"
        raise Rejected(f"template {template}: {kind} {name} must be {where}, not in {stated}")
    if kind == "Namespace" and name != names.namespace:
        raise Rejected(f"template {template}: Namespace {name} is not the tenant's, which is {names.namespace}")
    manifest["metadata"] = {
        **metadata,
        **({"namespace": namespace} if namespace else {}),
        "labels": {**(metadata.get("labels") or {}), **names.labels()},
    }
    return manifest


def _place(error: BaseException, template: str) -> str:
    """The template and the line that an error of rendering comes from."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == "<template>" or frame.filename.endswith(".j2"):
            name = template if frame.filename == "<template>" else Path(frame.filename).name
            return f"{name}, line {frame.lineno}"
    return template


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
