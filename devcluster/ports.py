"""Free loopback ports that other programs are unlikely to take between our choice and our use."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WIDTH = 12_000
_ours: set[int] = set()


def is_free(port: int) -> bool:
    """Whether nothing listens on the loopback ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@cache
def _claims() -> int:
    """A file of this machine's user, open as long as this process lives."""
    return os.open(Path(tempfile.gettempdir()) / f"devcluster-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)


def _claim(port: int) -> bool:
    """Whether nobody else has chosen the port; from now on it is ours, until this process ends.

    Between our choice and our use nothing listens there: each byte of a file stands for a port, and is locked.
    """
    if port in _ours:
        return False
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _ours.add(port)
    return True


def choose(count: int) -> list[int]:
    """``count`` different free ports, which no other process chooses as long as this one lives.

    They lie below the range from which the kernel takes ports for outgoing connections: a port chosen there
    could be lost to the next connection that anyone on the machine makes.
    """
    top = int(_RANGE_FILE.read_text().split()[0])
    lowest = max(1025, top - _WIDTH)
    chosen: list[int] = []
    for port in random.sample(range(lowest, top), top - lowest):
        if is_free(port) and _claim(port):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise RuntimeError(f"fewer than {count} free ports between {lowest} and {top}")
