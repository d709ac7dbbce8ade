"""Manifests from templates: every value lands as exactly one scalar, every object lands where it belongs.

A template writes the structure and `{{ value }}` the leaves: what an expression yields is quoted as a YAML flow value
whether the template asks for it or not, so that no value can add a key, an item or a document.
"""

import json
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml
from jinja2 import BaseLoader, FileSystemLoader, StrictUndefined, TemplateError, filters
from jinja2.exceptions import TemplateNotFound, TemplateSyntaxError
from jinja2.lexer import TokenStream
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tenant_operator.ports import Manifest
from tenant_operator.provisioning.naming import Names
from tenant_operator.saga.errors import ActivityError, Rejected
from tenant_operator.saga.evolve import bounded

RENDERED_LIMIT: Final = 1024 * 1024
"""Characters that one template may render to."""
DOCUMENTS_LIMIT: Final = 200
"""Objects that one template may render to."""
DEPTH_LIMIT: Final = 100
"""Lists and mappings within each other that one object may have."""
SIZE_LIMIT: Final = 100_000
"""Values that one object may have, each counted as often as it is referred to."""
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
_VALUE_FILTERS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "lower": filters.do_lower,
        "trim": filters.do_trim,
        "upper": filters.do_upper,
        "urlencode": filters.do_urlencode,
    }
)
# Nothing is nested more deeply than there are of these in its text, indentation aside, which needs a square of it.
_NESTING: Final = ("[", "{", "- ", "? ")
_NESTING_THAT_THE_PARSER_SURVIVES: Final = 5_000
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
        with _blamed(f"template {template}"):
            text = self._text(template, values)
            with _blamed(f"template {template}: what it renders to is not YAML"):
                _refuse_a_bottomless(text, template)
                documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
            if len(documents) > DOCUMENTS_LIMIT:
                raise Rejected(
                    f"template {template}: renders to {len(documents)} objects, allowed are {DOCUMENTS_LIMIT}"
                )
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
        except ActivityError:
            raise
        except Exception as error:  # a template may fail with anything, and whoever renders it must not
            raise Rejected(f"template {_place(error, template)}: {_in_words(error)}") from error
        return "".join(pieces)


BUILT_IN: Final = Templates(FileSystemLoader(Path(__file__).parent / "templates"))
"""The templates that every tenant is made from."""


def render_value(text: str, values: Mapping[str, str], *, place: str) -> str:
    """A value of a plan that may be a template, such as `https://{{ host }}/healthz`.

    Names and the filters lower, upper, trim and urlencode are all it may use. `place` says in errors whose value it is.
    """
    if not _MARKUP.search(text):
        return text
    with _blamed(place):
        pieces: list[str] = []
        for piece in _pieces(text):
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            name, *through = piece
            if name not in values:
                raise Rejected(f"{place}: '{name}' is undefined; known are {', '.join(sorted(values))}")
            value = values[name]
            for each in through:
                value = _VALUE_FILTERS[each](value)
            pieces.append(value)
        rendered = "".join(pieces)
        if len(rendered) > VALUE_LIMIT:
            raise Rejected(f"{place}: renders to more than {VALUE_LIMIT} characters")
        return rendered


_VALUES: Final = ImmutableSandboxedEnvironment(keep_trailing_newline=True)

_Piece = str | tuple[str, ...]
"""Text as it stands, or a name and the filters that its value passes."""


@lru_cache(maxsize=1024)
def _pieces(text: str) -> tuple[_Piece, ...]:
    """What a value template consists of. Read word by word: as there is nothing to nest, whatever it says costs time in
    proportion to its length, and no more. Raises TemplateSyntaxError."""
    pieces: list[_Piece] = []
    words = _VALUES.lexer.tokenize(text)
    while words:
        if word := words.next_if("data"):
            pieces.append(word.value)
            continue
        if not words.skip_if("variable_begin"):
            next(words)  # the beginning of a statement: what it is comes next
            raise _beyond_its_means(words)
        pieces.append(_expression(words))
    return tuple(pieces)


def _expression(words: TokenStream) -> tuple[str, ...]:
    """`name | filter | filter }}`."""
    if words.current.type != "name":
        raise _beyond_its_means(words)
    parts = [next(words).value]
    while words.skip_if("pipe"):
        if words.current.value not in _VALUE_FILTERS:
            raise _beyond_its_means(words)
        parts.append(next(words).value)
    if not words.skip_if("variable_end"):
        raise _beyond_its_means(words)
    return tuple(parts)


def _beyond_its_means(words: TokenStream) -> TemplateSyntaxError:
    word = words.current
    if word.type == "eof":
        return TemplateSyntaxError("unexpected end of template: {{ without }}", word.lineno)
    only = f"only names and the filters {', '.join(sorted(_VALUE_FILTERS))} may be used"
    return TemplateSyntaxError(f"{only}, not {word.value!r:.60}", word.lineno)


@contextmanager
def _blamed(place: str) -> Iterator[None]:
    """Whatever goes wrong is Rejected, and the fault of what `place` names: who renders what a person wrote must be
    ready for anything."""
    try:
        yield
    except ActivityError:
        raise
    except Exception as error:
        raise Rejected(f"{place}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """The cause, on one line."""
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case MemoryError():
            return "it is too large"
        case TemplateSyntaxError(message=str(message)):
            return bounded(" ".join(message.split()))
        case TemplateError() | yaml.YAMLError() | TypeError() | ValueError() | ArithmeticError():
            return bounded(" ".join(str(error).split())) or type(error).__name__
        case _:
            return bounded(" ".join(f"{type(error).__name__}: {error}".split()))


def _refuse_a_bottomless(text: str, template: str) -> None:
    """The parser builds what is nested by calling itself, in C, where that ends the process. Its events do not."""
    if sum(map(text.count, _NESTING)) <= _NESTING_THAT_THE_PARSER_SURVIVES:
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_LIMIT:
            raise _too_deep(template)


def _too_deep(template: str) -> Rejected:
    return Rejected(f"template {template}: what it renders to is nested more than {DEPTH_LIMIT} levels deep")


def _is_json(template: str, document: object) -> None:
    """Rejected if there is more or other in a document than a Kubernetes object can have: dates, keys that are no text,
    references that go round in circles or multiply."""
    waiting: list[tuple[object, int]] = [(document, 1)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEPTH_LIMIT:
            raise _too_deep(template)
        if seen > SIZE_LIMIT:
            raise Rejected(f"template {template}: an object of more than {SIZE_LIMIT} values")
        match value:
            case dict():
                for key in value:
                    if not isinstance(key, str):
                        raise Rejected(f"template {template}: the key {key!r} of an object is no text; quote it")
                waiting += [(each, depth + 1) for each in value.values()]
            case list():
                waiting += [(each, depth + 1) for each in value]
            case float() if not math.isfinite(value):
                raise Rejected(f"template {template}: {value} is no number that an object can have")
            case None | bool() | int() | float() | str():
                pass
            case _:
                raise Rejected(f"template {template}: {value!r} is no value that an object can have; quote it")


def _placed(template: str, document: Any, names: Names, outside: Mapping[str, str | None]) -> Manifest:
    _is_json(template, document)
    match document:
        case {"apiVersion": str(), "kind": str(kind), "metadata": {"name": str(name)} as metadata}:
            labels = metadata.get("labels") or {}
        case _:
            raise Rejected(f"template {template}: an object without apiVersion, kind and metadata.name")
    if not isinstance(labels, dict):
        raise Rejected(f"template {template}: the labels of {kind} {name} are no mapping")
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
        "labels": {**labels, **names.labels()},
    }
    return manifest


def _place(error: BaseException, template: str) -> str:
    """The template and the line that an error of rendering comes from."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == "<template>" or frame.filename.endswith(".j2"):
            name = template if frame.filename == "<template>" else Path(frame.filename).name
            return f"{name}, line {frame.lineno}"
    return template
