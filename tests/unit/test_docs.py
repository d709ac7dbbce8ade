"""The pages of docs/: what is generated is whole and up to date, and every link leads somewhere."""

import ast
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml

from devcluster.platform import ROOT
from tenant_operator.api import names
from tenant_operator.api.conditions import ConditionType, Reason
from tenant_operator.api.fields import ApiModel
from tenant_operator.api.names import ActivityName
from tenant_operator.api.resource import Definition, Resource
from tenant_operator.api.states import TenantState
from tools.docs import api_reference, docstrings, pictures
from tools.docs.pages import PAGES

REFERENCE = PAGES["reference.md"]()
ALL_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TELLERS = [
    ROOT / "operator/tenant_operator/tenants" / name
    for name in ("health.py", "notices.py", "reconciler.py", "repair.py", "rollout.py", "upkeep.py")
]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_VALIDATIONS = "x-kubernetes-validations"


def crds() -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and schema of each CustomResourceDefinition, as users apply them."""
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        yield spec["names"]["kind"], spec["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema with its path."""
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", value)
    if "items" in schema:
        yield from nodes(f"{path}[]", schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(f"{path}.*", schema["additionalProperties"])


PARTS = [
    (path, node)
    for kind, schema in crds()
    for part in ("spec", "status")
    for path, node in nodes(f"{kind}.{part}", schema["properties"][part])
]
OBJECTS = {path: node["properties"] for path, node in PARTS if "properties" in node}


def section(heading: str) -> str:
    """What stands under a heading, up to the next one."""
    _, found, rest = REFERENCE.partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_column(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_as_it_is_generated(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run `make generate`"


@pytest.mark.parametrize("path", OBJECTS)
def test_every_field_of_the_crds_has_a_row(path: str) -> None:
    of_conditions = path.endswith(".status.conditions[]")
    heading = "### Fields of a condition" if of_conditions else f"### `{path}`"

    assert first_column(section(heading)) == list(OBJECTS[path])


def test_everything_that_must_be_given_is_marked() -> None:
    required = [
        (path, name)
        for path, node in PARTS
        if not path.endswith(".status.conditions[]")
        for name in node.get("required", ())
    ]

    assert required
    for path, name in required:
        assert re.search(rf"^\| `{name}` \|.*\| \*\*required\*\* \|", section(f"### `{path}`"), re.MULTILINE), path


def test_every_rule_is_told_with_its_message() -> None:
    rules = [rule for _, schema in crds() for _, node in nodes("", schema) for rule in node.get(_VALIDATIONS, ())]
    told = "\n".join(re.findall(r"^- .*$", REFERENCE, flags=re.MULTILINE))

    assert rules
    for rule in rules:
        if "message" in rule:
            assert rule["message"] in told
        else:
            literals = re.split(r'" \+ .*? \+ "', rule["messageExpression"])
            for literal in literals:
                assert literal.strip('"') in told


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("## Conditions", list(ConditionType)),
        ("### Reasons", list(Reason)),
        ("## Activities", list(ActivityName)),
        ("## Requests", list(names.Action)),
    ],
)
def test_every_value_is_told(heading: str, expected: list[str]) -> None:
    assert first_column(section(heading)) == expected


def test_every_name_that_clients_meet_is_told() -> None:
    met = {
        value
        for name, value in vars(names).items()
        if name.startswith(("ANNOTATION_", "LABEL_")) or name in {"FINALIZER", "FIELD_MANAGER"}
    }

    assert set(first_column(REFERENCE.partition("\n## Names\n")[2].partition("\n## Events\n")[0])) == met


def test_the_pictures_in_the_readme_are_those_of_the_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert pictures.insert(readme) == readme
    assert readme.count(pictures.BEGIN) == readme.count(pictures.END) == 1
    drawn = pictures.states()
    assert all(state.value in drawn for state in TenantState)
    assert "Provisioning --> Pending: cancel" in drawn
    assert "Failed --> Provisioning: retry" in drawn
    assert all(activity in pictures.saga() for activity in ActivityName)


def test_every_event_is_told() -> None:
    """The reasons are literals: the first argument of a Happening, or a variable called so."""
    posted: set[str] = set()
    for teller in TELLERS:
        for node in ast.walk(ast.parse(teller.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Happening"), args=[reason, *_]):
                    posted |= literals(reason)
                case ast.Assign(targets=[ast.Name(id="reason")], value=reason):
                    posted |= literals(reason)

    assert posted == api_reference.EVENTS.keys()


def literals(expression: ast.expr) -> set[str]:
    found = [each.value for each in ast.walk(expression) if isinstance(each, ast.Constant)]
    return {each for each in found if isinstance(each, str)}


class _Mute(ApiModel):
    """A spec that does not say what its field is."""

    field: str


class _Silent(Resource):
    """A kind that does not say what its field is."""

    definition: ClassVar = Definition("Silent", "silents", (), "Cluster", ())

    kind: Literal["Silent"] = "Silent"
    spec: _Mute
    status: _Mute


def test_a_field_without_a_docstring_stops_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_reference, "RESOURCES", (_Silent,))

    with pytest.raises(KeyError, match=r"Silent\.spec\.field has no docstring"):
        api_reference.page()


class _Told(Enum):
    SAID = "Said"
    """It is said."""
    UNSAID = "Unsaid"


def test_a_value_without_a_docstring_stops_the_generator() -> None:
    with pytest.raises(KeyError, match="_Told does not say what UNSAID means"):
        docstrings.of_members(_Told)


def prose_of(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What a forge makes of the headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose_of(page)):
        text = _LINK.sub(lambda link: link[0][1:].partition("]")[0], heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = sum(each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each) is not None for each in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_CODE.sub("", prose_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, fragment = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)

    assert not broken


def test_every_promise_of_the_security_page_is_held_by_a_test() -> None:
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+)`", page))
    files = set(re.findall(r"`(tests/\S+\.py)`", page))
    assert named and files
    assert {name for name in named if not any(f"def {name}(" in source for source in sources.values())} == set()
    assert {file for file in files if not (ROOT / file).is_file()} == set()
