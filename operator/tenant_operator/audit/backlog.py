"""When the audit sink holds a tenant up, and how the tenant says it: the sink comes first, so that no event is lost."""

from typing import Final

from tenant_operator.audit.courier import SinkTrouble
from tenant_operator.text import cut

BACKPRESSURE: Final = 100
"""Events in an outbox above which no further step is begun."""

_CAUSE_LENGTH: Final = 500


def backlog(trouble: SinkTrouble, *, is_full: bool) -> str:
    """In words for people: what waits, why and since when, and what to do. The same as long as the cause is."""
    if is_full:
        held = f"nothing further is begun: more than {BACKPRESSURE} audit events of this tenant wait for the audit sink"
    else:
        held = "everything is released; the record is kept until the audit sink has its last events"
    return (
        f"{held}, which has failed since {trouble.since:%Y-%m-%d %H:%M:%S} UTC: {cut(trouble.cause, _CAUSE_LENGTH)}. "
        "Next: see to the sink (setting TENANT_OPERATOR_AUDIT_LOG); it is tried again at least every 30 s, and the "
        "rest follows by itself"
    )
