"""Waiting for what another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


def until(look: Callable[[], T], what: str, seconds: float = 30.0, tell: Callable[[], object] | None = None) -> T:
    """Look again and again until the answer is true; return it. AssertionError says that `what` never came, and what
    was last seen: the answer, or what `tell` has to tell."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s; last seen: {tell() if tell else seen!r}"
        time.sleep(_POLL_SECONDS)
    return seen
