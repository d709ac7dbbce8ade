"""Free loopback ports that other programs are unlikely to take between our choice and our use."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WIDTH = 12_000


def is_free(port: int) -> bool:
    """Whether nothing listens on the loopback ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose(count: int) -> list[int]:
    """``count`` different free ports.

    They lie below the range from which the kernel takes ports for outgoing connections: a port chosen there
    could be lost to the next connection that anyone on the machine makes.
    """
    top = int(_RANGE_FILE.read_text().split()[0])
    lowest = max(1025, top - _WIDTH)
    chosen: list[int] = []
    for port in random.sample(range(lowest, top), top - lowest):
        if is_free(port):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise RuntimeError(f"fewer than {count} free ports between {lowest} and {top}")
