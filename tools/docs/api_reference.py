"""The text of docs/reference.md: every field, condition, annotation, Event and exit code, as clients meet them."""

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

from tenant_operator.__main__ import app
from tenant_operator.api import names
from tenant_operator.api.conditions import ConditionType, Reason
from tenant_operator.api.crds import RESOURCES
from tenant_operator.api.duration import format_duration
from tenant_operator.api.egress import Protocol
from tenant_operator.api.meta import ConditionStatus
from tenant_operator.api.names import API_VERSION, CATEGORY, Action, ActivityName
from tenant_operator.api.organization import MemberKind, MemberRole
from tenant_operator.api.resource import Definition, Resource
from tenant_operator.api.schema import structural_schema
from tenant_operator.api.states import (
    ActionOutcome,
    ActivityState,
    AllocationState,
    DesiredState,
    Direction,
    RunKind,
    RunOutcome,
    RunReason,
    TenantState,
)
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.steps import provisioning_steps
from tools.docs import docstrings
from tools.docs.markdown import anchor, code, prose, table
from tools.docs.schema_words import Field, fields, name_of, sections, violations

_VALUES: Final[tuple[type[Enum], ...]] = (
    DesiredState,
    TenantState,
    RunKind,
    Direction,
    RunReason,
    RunOutcome,
    ActivityState,
    AllocationState,
    ActionOutcome,
    MemberKind,
    MemberRole,
    Protocol,
    ConditionStatus,
)
"""The enumerations that fields take their values from."""

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "Annotations of a Tenant": ("ANNOTATION_ACTION", "ANNOTATION_REQUEST", "ANNOTATION_REQUESTED_BY"),
    "Annotations of pods": ("ANNOTATION_CREDENTIALS",),
    "Annotations of a tenant's namespace": ("ANNOTATION_RECORD", "ANNOTATION_ATTEMPT", "ANNOTATION_SERVED"),
    "Labels of what the operator makes": (
        "LABEL_MANAGED_BY",
        "LABEL_TENANT_UID",
        "LABEL_TENANT",
        "LABEL_ORGANIZATION",
    ),
    "Finalizer and field manager": ("FINALIZER", "FIELD_MANAGER"),
}

EVENTS: Final[Mapping[str, str]] = {
    "ProvisioningStarted": "An attempt begins.",
    "StepCompleted": "An activity is complete.",
    "StepRetrying": "A try of an activity failed; another one is due.",
    "StepFailed": "An activity failed for good, or was out of time.",
    "Active": "The route is open.",
    "RollingBack": "The run turns back; the message says why.",
    "StepCompensated": "An activity is undone.",
    "ReleaseRetrying": "A try to undo an activity failed; another one is due.",
    "ReleaseStalled": "The tries to undo an activity are used up; it goes on slowly.",
    "Failed": "The attempt failed, and all was rolled back.",
    "StructuralCause": "Three attempts or more failed at the same activity.",
    "Cancelled": "The run was cancelled, and all was rolled back.",
    "DecommissioningStarted": "The release begins.",
    "Decommissioned": "Everything is released.",
    "Adopted": "A tenant that serves, and of which its status did not tell, is taken over as it is.",
    "RemainsFound": "At the end of a release there was more than the status had told: that is released, too.",
    "StatusLost": "The status does not tell what there is, and that is not taken over by itself; the message says why.",
    "WriteRefused": "The API server does not take what is to be written down, and so nothing is done; the message says "
    "why.",
    "RunTakenOver": "Another life of the operator goes on with the run.",
    "RequestAccepted": "A one-shot request was accepted.",
    "RequestRefused": "A one-shot request was refused; the message says why.",
    "HistoryReset": "The run and its history were forgotten.",
    "Suspended": "The route was closed.",
    "Resumed": "The route was opened again.",
    "RollingOut": "A changed plan is being rolled out; the message says what it waits for.",
    "RolledOut": "The changed plan is rolled out.",
    "PlanChanged": "A tenant that serves goes over to another plan, in place.",
    "DriftCorrected": "What somebody else changed was put right: the object, the fields, and who had set them.",
    "Repaired": "What was gone or damaged was made again.",
    "ResourcesLost": "What cannot be made again without loss is gone; the message says what a person can do.",
    "ResourcesFound": "What was lost is there again, and fits.",
    "Degraded": "Nobody answers: no pod of the workload that takes the traffic is available; the message says why.",
    "Recovered": "Somebody answers again.",
    "WorkloadsDegraded": "Pods are missing, and the tenant serves, or is paused; the message says which and why.",
    "WorkloadsRecovered": "Every pod is available again.",
    "UpkeepFailed": "A suspension, a resumption, a rollout or a correction met an error; it is tried again.",
    "UpkeepRecovered": "What UpkeepFailed told is no longer so.",
}
"""The Events on Tenants, by reason."""

_EXIT_CODES: Final[Mapping[int, str]] = {
    0: "It was told to end (SIGTERM, SIGINT), and has.",
    1: "An error that nobody foresaw; the log has it. Of `orphans`: something does not fit, or was not released.",
    2: "The command or a setting is wrong, a setting is missing, it cannot log in to a cluster, or the webhook's "
    "certificate cannot be used, or a port is taken. Standard error says which.",
}

_HEAD: Final = f"""\
<!-- Generated from the models of the API: run `make generate`, do not edit. -->
# API reference

All kinds are of `{API_VERSION}` and in the category `{CATEGORY}`: `kubectl get {CATEGORY} -A` lists the objects of
all three. `kubectl explain tenant.status.run` tells of a field what this page does.

A field that is not marked as required may be left out. `[]` stands for each item of a list, `.*` for each value of a
map. Times are in UTC; durations are written like `90s`, `5m`, `1h30m` or `500ms`, quantities as everywhere in
Kubernetes (`500m`, `4Gi`). What the API server refuses beyond types and limits stands under the table, with the message
that it answers.
"""


def page() -> str:
    """The text of the page. KeyError if a field, a value or a name has no docstring, or a schema no words."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    chapters = {
        **{model.definition.kind: list(_kind(model)) for model in RESOURCES},
        "Conditions": list(_conditions()),
        "Values": list(_values()),
        "Activities": list(_activities()),
        "Requests": list(_requests()),
        "Names": list(_names()),
        "Events": list(_events()),
        "Command line": list(_command_line()),
    }
    yield _HEAD
    yield from (f"- [{heading}](#{anchor(heading)})" for heading in chapters)
    for heading, content in chapters.items():
        yield from ("", f"## {heading}", "", *content)


def _kind(model: type[Resource]) -> Iterator[str]:
    definition, schema = model.definition, structural_schema(model)
    yield prose(schema["description"])
    yield ""
    yield from (f"- **{what}:** {text}" for what, text in _facts(definition, schema))
    for part in ("spec", "status"):
        for path, section in sections(f"{definition.kind}.{part}", schema["properties"][part]):
            refused = violations(section)
            if path == f"{definition.kind}.spec":
                refused = [*violations(schema), *refused]
            yield from ("", f"### {code(path)}", "")
            yield from ([prose(section["description"]), ""] if "description" in section else [])
            yield from _table_of_fields(path, section)
            yield from _refusals(refused)


def _facts(definition: Definition, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name = schema["properties"]["metadata"]["properties"]["name"]
    yield "Scope", "in a namespace" if definition.scope == "Namespaced" else "cluster-wide"
    yield "Names for kubectl", ", ".join(map(code, (definition.singular, definition.plural, *definition.short_names)))
    yield "Name", f"at most {name['maxLength']} characters"
    shown = [column.name for column in definition.columns if column.priority == 0]
    more = [column.name for column in definition.columns if column.priority > 0]
    yield "Columns", f"{', '.join(shown)}; with `-o wide` also {', '.join(more)}"


def _table_of_fields(path: str, section: Mapping[str, Any]) -> Iterator[str]:
    return table(("Field", "Type", "Default", "Meaning"), (_row(path, field) for field in fields(section)))


def _row(path: str, field: Field) -> tuple[str, str, str, str]:
    if not field.description:
        raise KeyError(f"{path}.{field.name} has no docstring")
    default = "**required**" if field.required else code(field.default) if field.default else ""
    meaning = " ".join((prose(field.description), *filter(None, (field.limits,))))
    return code(field.name), _type(path, field), default, meaning


def _type(path: str, field: Field) -> str:
    """The type in words, linked to where its parts or its values are told."""
    if field.name == "conditions":
        return f"list of [conditions](#{anchor('Conditions')})"
    if field.options:
        return f"[one of](#{anchor(_heading(_enumeration(field.options)))}) {', '.join(map(code, field.options))}"
    if field.part:
        return field.type.format(f"[object](#{anchor(path + '.' + field.part)})")
    return field.type


def _enumeration(options: Iterable[str]) -> type[Enum]:
    found = [each for each in _VALUES if [str(member.value) for member in each] == list(options)]
    if len(found) != 1:
        raise KeyError(f"no enumeration, or more than one, has the values {', '.join(options)}")
    return found[0]


def _heading(enumeration: type[Enum]) -> str:
    """DesiredState as a heading: Desired state."""
    return name_of(enumeration.__name__)


def _refusals(messages: Iterable[tuple[str, str]]) -> Iterator[str]:
    lines = [f"- {code(place)}: {prose(message)}" if place else f"- {prose(message)}" for place, message in messages]
    yield from ("", "Refused with:", "", *lines) if lines else ()


def _conditions() -> Iterator[str]:
    status = structural_schema(RESOURCES[0])["properties"]["status"]
    condition = status["properties"]["conditions"]["items"]
    yield "Of Organizations and Plans there are Ready, Reconciling and Stalled; Tenants have all of these."
    yield ""
    yield from _meanings("Type", docstrings.of_members(ConditionType))
    yield from ("", "### Fields of a condition", "")
    yield from _table_of_fields("Condition", condition)
    yield from ("", "### Reasons", "")
    yield from _meanings("Reason", docstrings.of_members(Reason))


def _values() -> Iterator[str]:
    for number, enumeration in enumerate(_VALUES):
        yield from ([""] if number else [])
        yield from (f"### {_heading(enumeration)}", "", prose(enumeration.__doc__ or ""), "")
        yield from _meanings("Value", docstrings.of_members(enumeration))


def _activities() -> Iterator[str]:
    meanings = docstrings.of_members(ActivityName)
    yield "What a Tenant's timeline lists, in this order. The time is for all tries together; a Plan or the operator's"
    yield "[configuration](configuration.md#provisioning) can say otherwise."
    yield ""
    yield from table(
        ("Activity", "Phase", "Time", "Tries", "Meaning"),
        (
            (
                code(each.name),
                each.phase,
                code(format_duration(each.timeout)),
                str(each.retry.max_tries),
                prose(meanings[each.name]),
            )
            for each in provisioning_steps(Options(), ())
        ),
    )


def _requests() -> Iterator[str]:
    yield f"The values of the annotation {code(names.ANNOTATION_ACTION)}:"
    yield ""
    yield from _meanings("Request", docstrings.of_members(Action))


def _names() -> Iterator[str]:
    meanings = docstrings.of_constants(names)
    for number, (heading, constants) in enumerate(_NAMES.items()):
        yield from ([""] if number else [])
        yield from (f"### {heading}", "")
        yield from _meanings("Name", {getattr(names, constant): meanings[constant] for constant in constants})


def _events() -> Iterator[str]:
    yield "On Tenants, from the reporting controller `tenant-operator`; `kubectl describe` shows them."
    yield ""
    yield from _meanings("Reason", EVENTS)


def _command_line() -> Iterator[str]:
    commands = {
        f"tenant-operator {command.callback.__name__}": command.callback.__doc__ or ""
        for command in app.registered_commands
        if command.callback is not None
    }
    yield from _meanings("Command", commands)
    yield ""
    yield from table(("Exit code", "Meaning"), ((str(code_), prose(text)) for code_, text in _EXIT_CODES.items()))


def _meanings(what: str, texts: Mapping[str, str]) -> Iterator[str]:
    return table((what, "Meaning"), ((code(name), prose(text)) for name, text in texts.items()))
