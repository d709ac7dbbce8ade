"""The CustomResourceDefinitions in `crds/` are what the models say, and are fit for the API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tenant_operator.api.crds import render_crds
from tools.crds import write_crds

CRDS = Path(__file__).parents[2] / "crds"
RENDERED = render_crds()


def test_the_folder_holds_exactly_the_rendered_files() -> None:
    assert {path.name for path in CRDS.glob("*.yaml")} == set(RENDERED)


@pytest.mark.parametrize("name", RENDERED)
def test_the_file_is_what_the_models_say(name: str) -> None:
    assert (CRDS / name).read_text(encoding="utf-8") == RENDERED[name], "run `make generate`"


def test_writing_creates_the_folder(tmp_path: Path) -> None:
    written = write_crds(tmp_path / "new")

    assert {path.name: path.read_text(encoding="utf-8") for path in written} == RENDERED


@pytest.mark.parametrize("name", RENDERED)
def test_the_schema_is_structural(name: str) -> None:
    forbidden = {"$ref", "$defs", "title", "const", "oneOf", "propertyNames", "nullable", "uniqueItems"}
    for path, node in _nodes(_schema(name)):
        assert not forbidden & node.keys(), path
        assert "type" in node or "x-kubernetes-int-or-string" in node, path


@pytest.mark.parametrize("name", RENDERED)
def test_nothing_is_unbounded(name: str) -> None:
    for path, node in _nodes(_schema(name)):
        if path in (".apiVersion", ".kind"):
            continue
        match node.get("type"):
            case "string":
                assert node.keys() & {"maxLength", "enum", "format"}, path
            case "array":
                assert "maxItems" in node, path
            case "object" if "additionalProperties" in node:
                assert "maxProperties" in node, path


def test_conditions_are_a_map_by_type() -> None:
    status = _schema("intelliauth.io_tenants.yaml")["properties"]["status"]["properties"]
    keys = {name: node.get("x-kubernetes-list-map-keys") for name, node in status.items()}

    assert keys["conditions"] == ["type"]


def test_the_spec_has_defaults_and_the_status_says_that_nobody_has_looked() -> None:
    root = _schema("intelliauth.io_tenants.yaml")["properties"]

    assert root["spec"]["properties"]["desiredState"]["default"] == "Active"
    assert [path for path, node in _nodes(root["status"]) if "default" in node] == [""]
    assert root["status"]["default"] == {"observedGeneration": -1}


def _schema(name: str) -> dict[str, Any]:
    (version,) = yaml.safe_load(RENDERED[name])["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def _nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from _nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from _nodes(node["additionalProperties"], f"{path}{{}}")
