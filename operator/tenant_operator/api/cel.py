"""Rules in the Common Expression Language, which the API server checks on every write."""

from typing import Final

from pydantic.config import JsonDict

VALIDATIONS: Final = "x-kubernetes-validations"


def rule(expression: str, message: str, *values: str, field_path: str = "", at_creation: bool = False) -> JsonDict:
    """One rule: the expression must hold, or the write is refused with the message.

    Each `%s` of the message takes the text of a CEL expression. `field_path` names the field to blame,
    relative to where the rule stands. `at_creation`: an object that is there already is not held to it, since nobody
    could write to it any more; for what never changes, that is enough.
    """
    if at_creation:
        expression = f"oldSelf.hasValue() || {expression}"
    says: JsonDict = {"message": message}
    if values:
        says = {"messageExpression": _interpolated(message, values)}
    more: JsonDict = {"fieldPath": field_path} if field_path else {}
    if at_creation:
        more["optionalOldSelf"] = True
    return {"rule": expression, **says, **more}


def rules(*each: JsonDict) -> JsonDict:
    """The schema keyword that carries rules."""
    return {VALIDATIONS: list(each)}


def quoted(text: str) -> str:
    """A CEL string literal of any text."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _interpolated(message: str, values: tuple[str, ...]) -> str:
    first, *others = message.split("%s")
    parts = [quoted(first)] if first else []
    for value, text in zip(values, others, strict=True):
        parts += [value, quoted(text)] if text else [value]
    return " + ".join(parts)
