"""Tells when somebody else has changed or deleted what a tenant is made of. Pure but for what it has seen."""

from typing import Any

from tenant_operator.api.names import WatchEvent
from tenant_operator.provisioning.field_owners import is_touched, last_write, own_fields

_Seen = tuple[int, str, str]
"""Of an object: which fields are ours (a hash), when we wrote to it last, and when others did."""


class DriftWatch:
    """Remembers for each object who owned what of it when it was seen last. What it suspects is to be looked at: that
    something is touched tells nothing of whether that is left to others."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def forget(self, body: dict[str, Any]) -> None:
        """The object is no tenant's, or no longer: what is not watched over is not remembered."""
        self._seen.pop(str(body["metadata"]["uid"]), None)

    def is_drift(self, event: str | None, body: dict[str, Any]) -> bool:
        """Whether the watch event tells of a deletion, or of a change by someone else: also of one that was made before
        the object was seen first, unless it took something away."""
        metadata = body["metadata"]
        uid, managed = str(metadata["uid"]), metadata.get("managedFields") or ()
        if event == WatchEvent.DELETED:
            self._seen.pop(uid, None)
            return True
        known = self._seen.get(uid)
        fields = hash(repr(own_fields(managed)))
        seen = self._seen[uid] = (fields, last_write(managed, own=True), last_write(managed, own=False))
        if known is None:
            return is_touched(managed)
        if seen == known:
            return False
        is_taken_away = seen[0] != known[0] and seen[1] == known[1]
        return is_taken_away or is_touched(managed)
