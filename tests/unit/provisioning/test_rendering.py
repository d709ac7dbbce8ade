"""A value lands as exactly one scalar, an object where it belongs, and what is wrong is said where it is wrong."""

import json
import string
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import DictLoader

from tenant_operator.api.plan import Plan, Readiness
from tenant_operator.catalog import plans
from tenant_operator.ports import Manifest
from tenant_operator.provisioning import manifests, rendering
from tenant_operator.provisioning.naming import Names
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.rendering import Templates, render_value, yaml_flow
from tenant_operator.saga.errors import Rejected

NAMES = Names("banking", "cymmetri", "cymmetri", "uid-1", "tenants.example")
VALUES = manifests.template_values(NAMES)
NASTY = (
    "",
    "a\nkind: Secret",
    "---\nkind: Secret",
    '"',
    "'",
    "\\",
    "# no comment",
    "yes",
    "null",
    "012",
    "1e3",
    "2026-01-01",
    "*alias",
    "&anchor",
    "!!python/object:os.system",
    "{a: 1}",
    "\x7f\x85\u2028\ufeff\x00\U0001f600",
)


def nasty_text() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(NASTY), st.text())


def a_config_map(**values: str) -> str:
    lines = "".join(f"  {name}: {value}\n" for name, value in values.items())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata:\n{lines}"


def render(text: str, **values: object) -> list[Manifest]:
    return Templates(DictLoader({"settings.yaml.j2": text})).render("settings.yaml.j2", NAMES, values)


def refusal(text: str, **values: object) -> str:
    with pytest.raises(Rejected) as refused:
        render(text, **values)
    return refused.value.message


@given(nasty_text())
def test_text_comes_out_as_exactly_that_text(value: str) -> None:
    (manifest,) = render(a_config_map(a="{{ value }}", b="untouched"), value=value)

    assert manifest["data"] == {"a": value, "b": "untouched"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | nasty_text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
        max_leaves=10,
    )
)
@example({"a: b": ["---\n", {"'": None}]})
def test_any_value_comes_out_as_itself_and_on_one_line(value: object) -> None:
    text = yaml_flow(value)

    assert text.isascii()
    assert "\n" not in text
    assert yaml.safe_load(text) == value


@given(nasty_text())
def test_a_value_that_passes_a_filter_or_a_concatenation_is_quoted_too(value: str) -> None:
    (manifest,) = render(a_config_map(a="{{ value | upper }}", b="{{ 'x' ~ value }}"), value=value)

    assert manifest["data"] == {"a": value.upper(), "b": "x" + value}


def a_plan(env: str, argument: str, annotation: str, name: str = "FOO") -> Plan:
    return Plan.model_validate(
        {
            "metadata": {"name": "starter"},
            "spec": {
                "workloads": [
                    {
                        "name": "auth",
                        "image": "auth:1",
                        "replicas": 2,
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "env": [{"name": name, "value": env}],
                        "args": [argument],
                        "annotations": {"note": annotation},
                    }
                ]
            },
        }
    )


def without_markup(text: str) -> str:
    return text.replace("{", "(")


@given(nasty_text().map(without_markup), nasty_text(), nasty_text())
def test_nothing_in_a_plan_changes_the_structure_of_its_workloads(env: str, argument: str, annotation: str) -> None:
    plain = manifests.workloads(NAMES, a_plan("env", "argument", "annotation"))
    deployment, *others = manifests.workloads(NAMES, a_plan(env, argument, annotation))

    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["env"][-1] == {"name": "FOO", "value": env}
    assert container["args"] == [argument]
    assert template["metadata"]["annotations"] == {"note": annotation}
    container["env"][-1]["value"], container["args"] = "env", ["argument"]
    template["metadata"]["annotations"] = {"note": "annotation"}
    assert [deployment, *others] == plain


def test_objects_are_labelled_and_placed() -> None:
    (manifest,) = render(a_config_map(a="x"))

    assert manifest["metadata"] == {"name": "settings", "namespace": NAMES.namespace, "labels": NAMES.labels()}


def test_a_template_cannot_claim_an_object_for_another_tenant() -> None:
    labels = "{intelliauth.io/tenant-uid: other, mine: kept}"
    (manifest,) = render(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, labels: {labels}}}")

    assert manifest["metadata"]["labels"] == {**NAMES.labels(), "mine": "kept"}


@pytest.mark.parametrize("kind", ["ClusterRole", "Namespace", "Secret", "RoleBinding", "Pod", "List"])
def test_a_kind_that_a_tenant_may_not_have_is_refused(kind: str) -> None:
    message = refusal(f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: settings}}")

    assert message == f"template settings.yaml.j2: {kind} settings is of a kind that a tenant may not have"


def test_another_namespace_is_refused() -> None:
    message = refusal("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: kube-system}")

    assert message == (
        f"template settings.yaml.j2: ConfigMap settings must be in namespace {NAMES.namespace}, not in kube-system"
    )


def test_a_namespace_that_is_not_the_tenants_is_refused() -> None:
    templates = Templates(DictLoader({"n": "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}"}))

    with pytest.raises(Rejected, match="Namespace kube-system is not the tenant's"):
        templates.render("n", NAMES, {}, outside={"Namespace": None})


@pytest.mark.parametrize("text", ["just text", "- a list", "apiVersion: v1\nkind: ConfigMap", "kind: ConfigMap"])
def test_what_is_no_object_is_refused(text: str) -> None:
    assert refusal(text).startswith("template settings.yaml.j2: an object without apiVersion, kind and metadata.name")


def test_an_undefined_name_is_told_with_its_line() -> None:
    assert refusal("a: 1\nb: 2\nc: {{ hostt }}") == "template settings.yaml.j2, line 3: 'hostt' is undefined"


def test_an_undefined_attribute_is_told_with_its_line() -> None:
    message = refusal("a: 1\nb: {{ plan.colour }}", plan={"name": "starter"})

    assert message.startswith("template settings.yaml.j2, line 2: ")
    assert "colour" in message


def test_a_broken_template_is_told_with_its_line() -> None:
    assert refusal("a: 1\n{% if %}").startswith("template settings.yaml.j2, line 2: ")


def test_a_missing_template_is_told() -> None:
    with pytest.raises(Rejected, match="there is no template other"):
        Templates(DictLoader({})).render("other", NAMES, {})


def test_what_is_not_yaml_is_told() -> None:
    assert "not YAML" in refusal("a: [1")


def test_a_value_that_no_manifest_can_hold_is_told_with_its_line() -> None:
    assert refusal("a: 1\nb: {{ value }}", value=object()) == (
        "template settings.yaml.j2, line 2: a object cannot be a value of a manifest"
    )


@pytest.mark.parametrize("text", ["{{ ''.__class__.__mro__ }}", "{{ value.append('x') }}"])
def test_a_template_stays_in_its_sandbox(text: str) -> None:
    assert refusal(text, value=["a"]).startswith("template settings.yaml.j2, line 1: ")


def test_the_size_of_what_is_rendered_is_limited() -> None:
    endless = "{% for a in range(2000) %}{% for b in range(2000) %}" + "# filler\n" + "{% endfor %}{% endfor %}"

    assert refusal(endless) == f"template settings.yaml.j2: renders to more than {rendering.RENDERED_LIMIT} characters"


def test_the_number_of_objects_is_limited() -> None:
    many = "{% for n in range(201) %}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n{% endfor %}"

    assert "201 objects" in refusal(many)


@given(nasty_text().map(without_markup))
def test_a_value_of_a_plan_without_markup_is_left_as_it_is(text: str) -> None:
    assert render_value(text, VALUES, place="here") == text


def test_a_value_of_a_plan_may_speak_of_the_tenant() -> None:
    text = "https://auth.{{ namespace }}.svc/{{ slug | upper }}?url={{ url | urlencode }}\n"

    assert render_value(text, VALUES, place="here") == (
        "https://auth.tenant-banking-cymmetri.svc/BANKING?url=https%3A//banking-cymmetri.tenants.example\n"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ hostt }}", "'hostt' is undefined; known are host, namespace, organization, slug, url"),
        ("{{ host", "unexpected end of template"),
        ("{% for a in 'abc' %}{% endfor %}", "not 'for'"),
        ("{{ 'a' * 1000000000 }}", "not 'a'"),
        ("{{ host.__class__ }}", "not '.'"),
        ("{{ range(10) }}", "not '('"),
        ("{{ host | center(1000000000) }}", "not 'center'"),
        ("{{ host | replace('a', 'b') }}", "not 'replace'"),
        ("{{ host | trim('t') }}", "not '('"),
        ("{% include 'workloads.yaml.j2' %}", "not 'include'"),
        ("{% set a = 1 %}", "not 'set'"),
        ("{{ }}", "not '}}'"),
        ("{{ 'two' 'words' }}", "not 'two'"),
        ("{{ host url }}", "not 'url'"),
        ("{{ host | }}", "not '}}'"),
        ("{{ \x1b }}", "unexpected char '\\x1b'"),
    ],
)
def test_a_value_template_that_goes_beyond_its_means_is_refused(text: str, told: str) -> None:
    with pytest.raises(Rejected) as refused:
        render_value(text, VALUES, place="plan starter, workload auth, variable FOO")

    assert refused.value.message.startswith("plan starter, workload auth, variable FOO: ")
    assert told in refused.value.message


def test_a_value_template_may_have_comments_and_say_what_is_no_template() -> None:
    text = "{# of the tenant #}{{- host -}} {% raw %}{{ theirs }}{% endraw %} {{ slug | upper | lower }}"

    assert render_value(text, VALUES, place="here") == f"{NAMES.host}{{{{ theirs }}}} banking"


PARTS = ("{{", "}}", "{%", "%}", "{#", "#}", "(", ")", "[", "]", "{", "}", "|", "lower", "host", "not ", "-", "~", ".a")
STATEMENTS = ("{% if host %}", "{% endif %}", "{% for a in host %}", "{% endfor %}", "{% raw %}", "{% filter lower %}")
YAML = ("- ", "? ", ": ", "\n", " ", "&a ", "*a", "!!set ", "'", "2026-01-01", "1: ", ".inf", "kind: ", "metadata: ")


def nested(parts: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Templates that somebody nested far too deeply, and bits of them."""
    deep = st.builds(
        lambda opened, depth, inside, closed: opened * depth + inside + closed * depth,
        *(st.sampled_from(parts), st.sampled_from([1, 2, 30, 500, 3000]), st.sampled_from(parts)),
        st.sampled_from(parts),
    )
    return st.lists(deep | st.sampled_from(parts) | st.text(string.printable, max_size=5), max_size=8).map("".join)


@settings(deadline=None)
@given(st.text(alphabet=string.printable, max_size=60).map(lambda text: "{{" + text) | nested(PARTS + STATEMENTS))
@example("{{ " + "(" * 1900 + "host" + ")" * 1900 + " }}")
@example("{{ host" + " | lower" * 500 + " }}")
@example("{{ " + "-" * 4000 + "1 }}")
@example("{{ " + "9" * 5000 + " }}")
@example("{% if host %}" * 300)
def test_any_value_template_renders_or_is_refused(text: str) -> None:
    try:
        rendered = render_value(text, VALUES, place="here")
    except Rejected as refused:
        assert refused.message.startswith("here: ")
    else:
        assert len(rendered) <= rendering.VALUE_LIMIT


@settings(deadline=None)
@given(nested(PARTS + STATEMENTS + YAML))
@example("{% if value %}" * 300)
@example("{% for a in 'x' %}" * 25 + "{% endfor %}" * 25)
@example("{% macro again(x) %}{{ again(x) }}{% endmacro %}{{ again(1) }}")
@example("{% include 'settings.yaml.j2' %}")
@example("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}")
@example("{{ cause() }}")
@example("a: " + "[" * 200_000)
@example("a: " + "{a: " * 100_000)
@example("- " * 300_000)
@example("? " * 300_000)
@example(a_config_map(a="&a [*a]"))
@example(a_config_map(a="2026-01-01"))
@example("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: [b]}")
@example("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: text}")
def test_any_template_renders_or_is_refused(text: str) -> None:
    def cause() -> None:
        raise AssertionError

    try:
        manifests = render(text, value={"a": 1}, host="h", cause=cause)
    except Rejected as refused:
        assert refused.message.startswith("template settings.yaml.j2")
        assert len(refused.message) < 2000
    else:
        assert json.loads(json.dumps(manifests, allow_nan=False)) == manifests


def test_a_value_that_is_nested_too_deeply_is_told_with_its_line() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]

    assert refusal("a: 1\nb: {{ value }}", value=deep) == "template settings.yaml.j2, line 2: it is nested too deeply"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("[" * 150 + "]" * 150, "what it renders to is nested more than 100 levels deep"),
        ("[" * 6000 + "]" * 6000, "what it renders to is nested more than 100 levels deep"),
        ("&a [*a]", "what it renders to is nested more than 100 levels deep"),
        ("2026-01-01", "datetime.date(2026, 1, 1) is no value that an object can have; quote it"),
        (".nan", "nan is no number that an object can have"),
        ("{1: a}", "the key 1 of an object is no text; quote it"),
    ],
)
def test_what_no_object_can_hold_is_refused(data: str, told: str) -> None:
    assert refusal(a_config_map(a=data)) == f"template settings.yaml.j2: {told}"


def test_references_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 10)]

    message = refusal(a_config_map() + "".join(f"  {line}\n" for line in lines))

    assert message == f"template settings.yaml.j2: an object of more than {rendering.SIZE_LIMIT} values"


@settings(deadline=None)
@given(nested(PARTS + STATEMENTS).filter(lambda text: "{{" in text or "{%" in text))
@example("{{ " + "(" * 1900 + "host" + ")" * 1900 + " }}")
def test_a_plan_with_any_value_template_is_told_what_is_wrong_with_it(text: str) -> None:
    plan = a_plan(text, "argument", "annotation")
    plan = plan.model_copy(update={"spec": plan.spec.model_copy(update={"readiness": Readiness(url=text)})})

    findings = plans.findings_of(plan, Options())

    for finding in findings:
        assert finding.message.startswith("plan starter, "), finding.message


def test_a_broken_variable_of_a_plan_is_named() -> None:
    with pytest.raises(Rejected, match="plan starter, workload auth, variable FOO: 'hostt' is undefined"):
        manifests.workloads(NAMES, a_plan("{{ hostt }}", "x", "y"))


def test_a_variable_of_a_plan_takes_the_place_of_the_platforms() -> None:
    deployment, *_ = manifests.workloads(NAMES, a_plan("mine", "x", "y", name="TENANT_URL"))
    env: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"][0]["env"]

    assert [each for each in env if each["name"] == "TENANT_URL"] == [{"name": "TENANT_URL", "value": "mine"}]


def test_the_credentials_are_named_and_never_shown() -> None:
    text = json.dumps(manifests.workloads(NAMES, a_plan("x", "x", "x")))

    assert '"secretKeyRef": {"name": "database-credentials", "key": "uri"}' in text
