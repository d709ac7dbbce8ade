"""Ending in good order when told to: by Ctrl-C, by a signal, or because the terminal is gone."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def raise_on_interrupts() -> None:
    """From now on each of the signals raises KeyboardInterrupt.

    SIGINT too: a shell starts its background jobs with that signal ignored.
    """
    for number in _SIGNALS:
        signal.signal(number, _interrupt)


def ignore_interrupts() -> None:
    """From now on none of the signals does anything: what is being cleaned up is cleaned up to the end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
