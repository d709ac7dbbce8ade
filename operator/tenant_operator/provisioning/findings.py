"""What keeps a Plan or an Organization from being ready, and the conditions that say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tenant_operator.api.conditions import (
    Conditions,
    ConditionType,
    ConditionUpdate,
    Reason,
    remove_condition,
    set_condition,
)
from tenant_operator.api.meta import ConditionStatus


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. It `waits` if it ends once something else appears or answers; else a person must act."""

    reason: Reason
    message: str
    waits: bool = False


def judged(
    conditions: Conditions, findings: Sequence[Finding], *, fine: str, generation: int, now: datetime
) -> Conditions:
    """`conditions` with Ready, Reconciling and Stalled as the findings have them; `fine` is what Ready says if true.

    What a person must look at comes first, and makes the whole Stalled; what only waits makes it Reconciling.
    """

    ordered = sorted(findings, key=lambda finding: finding.waits)
    updates = _updates(ordered) if ordered else [_true(ConditionType.READY, Reason.RECONCILED, fine)]
    for absent in {ConditionType.RECONCILING, ConditionType.STALLED} - {update.type for update in updates}:
        conditions = remove_condition(conditions, absent)
    for update in updates:
        conditions = set_condition(conditions, update, generation=generation, now=now)
    return conditions


def _updates(findings: Sequence[Finding]) -> list[ConditionUpdate]:
    """What the conditions say of findings, the gravest first."""
    gravest = findings[0]
    message = "; ".join(finding.message for finding in findings)
    more = ConditionType.RECONCILING if gravest.waits else ConditionType.STALLED
    return [
        ConditionUpdate(ConditionType.READY, ConditionStatus.FALSE, gravest.reason, message),
        _true(more, gravest.reason, gravest.message),
    ]


def _true(type_: ConditionType, reason: Reason, message: str) -> ConditionUpdate:
    return ConditionUpdate(type_, ConditionStatus.TRUE, reason, message)
