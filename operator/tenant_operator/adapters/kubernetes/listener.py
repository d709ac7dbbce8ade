"""What is to be heard of the objects of a kind, and by whom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Hear = Callable[[str | None, dict[str, Any]], None]
"""Told of an object: None (it was there when the list was read), ADDED, MODIFIED or DELETED, and the object."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of the objects of a kind; of those with `labels` only. `is_whole`: whether it has to hear more of them
    than their metadata, where somebody asks for that."""

    api_version: str
    kind: str
    plural: str
    hear: Hear
    labels: Mapping[str, str] | None = None
    is_whole: bool = False

    @property
    def path(self) -> str:
        """Where the API server has the objects of all namespaces."""
        return f"/{'api' if self.api_version == 'v1' else 'apis'}/{self.api_version}/{self.plural}"
