"""What the tools around the repository read is whole, and names what there is."""

import json
from pathlib import Path

import pytest
import yaml

from devcluster.platform import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("form", [form for form in FORMS if form.name != "config.yml"], ids=lambda path: path.stem)
def test_an_issue_form_asks_for_something(form: Path) -> None:
    asked = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= asked.keys()
    assert all(each["attributes"]["label"] for each in asked["body"])
    assert any(each.get("validations", {}).get("required") for each in asked["body"])


def test_the_workflow_runs_what_everybody_runs_with_no_rights() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    (cache,) = (step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/cache@"))
    assert "devcluster/binaries.py" in cache["key"]
    assert (ROOT / "devcluster" / "binaries.py").exists()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_hooks_and_devcontainer_use_the_tools_of_the_virtual_environment() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert all(hook["entry"].startswith(".venv/bin/") for hook in repository["hooks"])
    assert json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["postCreateCommand"] == "make install"
