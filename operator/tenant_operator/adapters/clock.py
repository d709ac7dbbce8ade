"""The clock of the machine."""

from datetime import UTC, datetime


class SystemClock:
    """Reads the wall clock."""

    def now(self) -> datetime:
        """The current time, timezone-aware, UTC."""
        return datetime.now(UTC)
