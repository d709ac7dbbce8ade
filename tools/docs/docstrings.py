"""The docstrings of attributes, which Python itself does not keep: of the members of enumerations, of constants."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from enum import Enum
from types import ModuleType


def of_members(enumeration: type[Enum]) -> dict[str, str]:
    """The meaning of each value. KeyError if a member has none."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(enumeration))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 (the source of a class is a class)
    found = _documented(definition.body)
    if silent := [member.name for member in enumeration if member.name not in found]:
        raise KeyError(f"{enumeration.__name__} does not say what {', '.join(silent)} means")
    return {str(member.value): found[member.name] for member in enumeration}


def of_constants(module: ModuleType) -> Mapping[str, str]:
    """The meaning of those constants of a module that have one, by name."""
    return _documented(ast.parse(inspect.getsource(module)).body)


def _documented(body: Iterable[ast.stmt]) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
                name = target
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[name] = " ".join(text.split())
                name = ""
            case _:
                name = ""
    return found
