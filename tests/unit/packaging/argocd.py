"""The files that the product brings for Argo CD."""

from pathlib import Path
from typing import Any

import yaml

from devcluster.platform import ROOT

ARGOCD = ROOT / "manifests" / "argocd"
CUSTOMIZATIONS = ARGOCD / "resource_customizations" / "intelliauth.io"
HEALTH = {kind: (CUSTOMIZATIONS / kind / "health.lua").read_text() for kind in ("Organization", "Plan", "Tenant")}
DISCOVERY = (CUSTOMIZATIONS / "Tenant" / "actions" / "discovery.lua").read_text()
ACTIONS = {path.parent.name: path.read_text() for path in sorted(CUSTOMIZATIONS.glob("Tenant/actions/*/action.lua"))}


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))
