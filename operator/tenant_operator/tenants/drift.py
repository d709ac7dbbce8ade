"""Tells when somebody else has changed or deleted what a tenant is made of. Pure but for what it has seen."""

from typing import Any, Final

from tenant_operator.api.names import FIELD_MANAGER, WatchEvent

_ANOTHER: Final = "another hand"


class DriftWatch:
    """Remembers the generation of each child: a growing one that this operator did not cause is drift."""

    def __init__(self) -> None:
        self._generations: dict[str, int] = {}

    def forget(self, body: dict[str, Any]) -> None:
        """The object is no tenant's, or no longer: what is not watched over is not remembered."""
        self._generations.pop(str(body["metadata"]["uid"]), None)

    def is_drift(self, event: str | None, body: dict[str, Any]) -> bool:
        """Whether the watch event tells of a deletion, or of a change of the spec by someone else."""
        metadata = body["metadata"]
        uid, generation = str(metadata["uid"]), int(metadata.get("generation") or 0)
        if event == WatchEvent.DELETED:
            self._generations.pop(uid, None)
            return True
        known = self._generations.get(uid)
        self._generations[uid] = generation
        return known is not None and generation > known and _last_hand(metadata) != FIELD_MANAGER


def _last_hand(metadata: dict[str, Any]) -> str:
    """Who wrote to the object last, its status aside; another's write in the same second counts as last, and so does
    one without a time (scaling leaves one; the next apply takes over what it owns, and it is gone)."""
    writes = [each for each in metadata.get("managedFields") or () if each.get("subresource") != "status"]
    latest = max((str(each.get("time", "")) for each in writes), default="")
    hands = {str(each.get("manager")) for each in writes if each.get("time", latest) == latest}
    return FIELD_MANAGER if hands <= {FIELD_MANAGER} else _ANOTHER
