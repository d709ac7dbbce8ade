"""The CustomResourceDefinitions as text."""

from typing import Any, Final

import yaml

from .names import GROUP
from .organization import Organization
from .plan import Plan
from .resource import Resource
from .schema import custom_resource_definition
from .tenant import Tenant

RESOURCES: Final[tuple[type[Resource], ...]] = (Organization, Plan, Tenant)

_HEADER: Final = "# Generated from the models of tenant_operator.api: run `make generate`, do not edit.\n"


class _PlainDumper(yaml.SafeDumper):
    """Writes what occurs twice twice: anchors are hard to read in a review."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render_crds() -> dict[str, str]:
    """The YAML text of each CustomResourceDefinition, by file name."""
    return {
        f"{GROUP}_{model.definition.plural}.yaml": _HEADER
        + yaml.dump(
            custom_resource_definition(model),
            Dumper=_PlainDumper,
            sort_keys=False,
            allow_unicode=True,
            width=110,
        )
        for model in RESOURCES
    }
