"""The pictures in the README, drawn from what the code does: the steps of the saga, and the states of a Tenant."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Any, Final

from tenant_operator.api.names import ANNOTATION_REQUEST, Action
from tenant_operator.api.states import DesiredState, TenantState
from tenant_operator.api.tenant import Tenant
from tenant_operator.api.tenant_status import TenantStatus
from tenant_operator.provisioning.options import Options
from tenant_operator.provisioning.steps import provisioning_steps
from tenant_operator.saga.decide import Act, Undo, fold, settle
from tenant_operator.saga.evolve import Worker
from tenant_operator.saga.facts import (
    ActivityCompleted,
    ActivityFailed,
    CompensationCompleted,
    Fact,
    RunReversed,
    RunStarted,
)
from tenant_operator.saga.model import Kind, Saga
from tenant_operator.saga.sight import Moment
from tenant_operator.saga.step import RetryPolicy, Step
from tenant_operator.tenants.lifecycle import demand, state_of

BEGIN: Final = "<!-- drawn by tools/docs/pictures.py: run `make generate`, do not edit -->"
END: Final = "<!-- end of what is drawn -->"

_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_MOMENT: Final = Moment(_NOW, 0.0)
_WORKER: Final = Worker("worker", 0, _NOW)
_ACTIVITIES: Final = provisioning_steps(Options(), ())
_STEPS: Final[Mapping[str, Step]] = {
    each.name: Step(each.name, each.phase, each.timeout, RetryPolicy(), compensates=each.compensates)
    for each in _ACTIVITIES
}


def pictures() -> str:
    """Both, as Mermaid diagrams in Markdown."""
    return f"```mermaid\n{saga()}\n```\n\n```mermaid\n{states()}\n```"


def insert(page: str) -> str:
    """The page with the pictures as they are now, between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{pictures()}\n{END}{after}"


def saga() -> str:
    """The phases in their order, each with its activities."""
    lines, names = ["flowchart LR"], []
    for phase, activities in groupby(_ACTIVITIES, key=lambda each: str(each.phase)):
        listed = "<br>".join(each.name for each in activities)
        lines.append(f'  {phase}["<b>{phase}</b><br>{listed}"]')
        names.append(phase)
    lines.append(f"  {' --> '.join(names)}")
    lines += [f"  {later} -. undo .-> {earlier}" for earlier, later in pairwise(names[:-1])]
    return "\n".join(lines)


def states() -> str:
    """Each state, and what leads from it to another one."""
    lines = ["stateDiagram-v2", f"  [*] --> {TenantState.PENDING}"]
    causes: dict[tuple[TenantState, TenantState], list[str]] = {}
    for before, after, cause in _transitions():
        told = causes.setdefault((before, after), [])
        if cause not in told:
            told.append(cause)
    lines += [f"  {before} --> {after}: {', '.join(told)}" for (before, after), told in causes.items()]
    return "\n".join([*lines, f"  {TenantState.DECOMMISSIONED} --> [*]: deleted"])


def _transitions() -> Iterator[tuple[TenantState, TenantState, str]]:
    new = Saga()
    provisioning = _begun(new, Kind.PROVISION)
    active = _ended(provisioning)
    failed = _ended(fold(provisioning, [ActivityFailed(_first(provisioning), "no", False)], _STEPS, _NOW, _WORKER))
    cancelled = _ended(fold(provisioning, [RunReversed("Cancelled", None)], _STEPS, _NOW, _WORKER))
    releasing = _begun(active, Kind.RELEASE)
    released = _ended(releasing)
    serving, paused = (state_of(active, suspended=each) for each in (False, True))
    leaving = state_of(releasing, suspended=False)
    yield state_of(provisioning, suspended=False), serving, "every step completed"
    yield state_of(provisioning, suspended=False), state_of(failed, suspended=False), "a step failed, all undone"
    for before in (new, cancelled, provisioning, active, failed, released):
        yield from _asked(before, cancelled)
    yield serving, paused, "suspended"
    yield paused, serving, "resumed"
    yield paused, leaving, "decommissioned"
    yield leaving, state_of(released, suspended=False), "all released"


def _asked(before: Saga, cancelled: Saga) -> Iterator[tuple[TenantState, TenantState, str]]:
    """Where each request and each intent leads; a run that turns back is followed to its end, `cancelled`."""
    state = state_of(before, suspended=False)
    asks: list[tuple[str, Tenant]] = [(str(action), _tenant(state, request=action)) for action in Action]
    asks.append(("decommissioned", _tenant(state, desired=DesiredState.DECOMMISSIONED)))
    asks.append(("made anew" if state is TenantState.DECOMMISSIONED else "created", _tenant(state)))
    for cause, tenant in asks:
        facts = demand(tenant, before, lambda: "run", held=True)
        after = fold(before, facts, _STEPS, _NOW, _WORKER)
        if any(isinstance(fact, RunReversed) for fact in facts):
            after = cancelled
            if cause == "decommissioned":
                after = _ended(_begun(after, Kind.RELEASE))
        reached = state_of(after, suspended=False)
        if reached is TenantState.DECOMMISSIONING and state is TenantState.PENDING:
            reached = state_of(_ended(after), suspended=False)  # nothing is held
        if reached is not state:
            yield state, reached, cause


def _tenant(state: TenantState, *, desired: DesiredState = DesiredState.ACTIVE, request: str | None = None) -> Tenant:
    asked = {"id": "1", "action": request, "requestedBy": None, "requestedAt": _NOW.isoformat()}
    metadata: dict[str, Any] = {"name": "any", "namespace": "any", "uid": "any", "annotations": {}}
    if request is not None:
        metadata["annotations"][ANNOTATION_REQUEST] = json.dumps(asked)
    spec = {"organization": "any", "plan": "any", "admin": {"email": "any@example.com"}, "desiredState": desired}
    return Tenant.model_validate({"metadata": metadata, "spec": spec, "status": TenantStatus(state=state).to_wire()})


def _first(saga: Saga) -> str:
    return saga.timeline[0].activity


def _begun(saga: Saga, kind: Kind) -> Saga:
    return fold(saga, [RunStarted("run", kind, "Created", None)], _STEPS, _NOW, _WORKER)


def _ended(saga: Saga) -> Saga:
    """The saga once its run is over, where everything goes well from now on."""
    while True:
        saga, _, decision = settle(saga, _STEPS, None, _MOMENT, _WORKER)
        fact: Fact
        match decision:
            case Act(activity):
                fact = ActivityCompleted(activity, "done")
            case Undo(activity):
                fact = CompensationCompleted(activity, "done")
            case _:
                return saga
        saga = fold(saga, [fact], _STEPS, _NOW, _WORKER)
