"""Ports to be used a moment later, or again and again, by this process or another."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_chance = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """One that is free now, and that the kernel gives to nobody who asks for any: as it does with those of its own
    range, to another test within the second."""
    try:
        below = int(_RANGE.read_text().split()[0])
    except OSError:
        below = 0
    for _ in range(100):
        port = _chance.randrange(_LOWEST, below) if below > 2 * _LOWEST else 0
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind((host, port))
            return int(tried.getsockname()[1])
    raise OSError(f"no port is free at {host}")
