"""JSON data as the fakes keep it."""

from typing import TypeVar

Json = TypeVar("Json")


def copied(value: Json) -> Json:
    """A deep copy of JSON data: many times faster than `copy.deepcopy`, and simulations copy a lot."""
    if isinstance(value, dict):
        return {name: copied(each) for name, each in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [copied(each) for each in value]  # type: ignore[return-value]
    return value
