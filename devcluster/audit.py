"""The reader of the audit feed that the operator writes as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_events(file: Path) -> list[dict[str, Any]]:
    """The events told so far, oldest first; none if there is no file yet. A line that is being written is left out."""
    if not file.exists():
        return []
    told = file.read_text()
    return [json.loads(line) for line in told[: told.rfind("\n") + 1].splitlines()]
