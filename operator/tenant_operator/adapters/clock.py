"""The clocks of the machine."""

import time
from datetime import UTC, datetime


class SystemClock:
    """Reads the wall clock, which may be set, and the monotonic one, which never is."""

    def now(self) -> datetime:
        """The current time, timezone-aware, UTC."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()
