"""What makes a model a resource of the API server: its names, its scope, its columns."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .fields import ApiModel
from .meta import ObjectMeta
from .names import API_VERSION, GROUP


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; priority 1 shows with `-o wide` only."""

    name: str
    json_path: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Definition:
    """How the API server knows a kind."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[Column, ...]

    @property
    def singular(self) -> str:
        """The name for one object, in lower case."""
        return self.kind.lower()

    @property
    def crd_name(self) -> str:
        """The name of the CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


class Resource(ApiModel):
    """An object of the API server; its subclasses add `spec` and `status`."""

    definition: ClassVar[Definition]

    api_version: str = API_VERSION
    kind: str
    metadata: ObjectMeta
