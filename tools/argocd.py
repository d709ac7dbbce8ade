"""Writes Argo CD's `argocd-cm.yaml` from the Lua in manifests/argocd: `python -m tools.argocd`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).resolve().parents[1] / "manifests" / "argocd"
HEADER: Final = """\
# Health checks and actions for Argo CD, made by `make generate` from resource_customizations/. It adds keys of its own
# to the ConfigMap that Argo CD has already, and leaves the others as they are:
#   kubectl patch configmap argocd-cm --namespace argocd --type merge --patch-file argocd-cm.yaml
"""


class _Dumper(yaml.SafeDumper):
    """Text of several lines is written as it is."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def config_map(customizations: Path) -> str:
    """The ConfigMap with what is in a folder of the layout of Argo CD's own `resource_customizations`."""
    data: dict[str, str] = {}
    for kind in sorted(customizations.glob("*/*")):
        name = f"{kind.parent.name}_{kind.name}"
        data[f"resource.customizations.health.{name}"] = (kind / "health.lua").read_text(encoding="utf-8")
        if (kind / "actions").is_dir():
            data[f"resource.customizations.actions.{name}"] = _dump(_actions(kind / "actions"))
    metadata = {"name": "argocd-cm", "namespace": "argocd", "labels": {"app.kubernetes.io/part-of": "argocd"}}
    return HEADER + _dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _actions(folder: Path) -> dict[str, Any]:
    return {
        "discovery.lua": (folder / "discovery.lua").read_text(encoding="utf-8"),
        "definitions": [
            {"name": path.parent.name, "action.lua": path.read_text(encoding="utf-8")}
            for path in sorted(folder.glob("*/action.lua"))
        ],
    }


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "argocd-cm.yaml"
    target.write_text(config_map(FOLDER / "resource_customizations"), encoding="utf-8")
