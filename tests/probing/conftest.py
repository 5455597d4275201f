"""What the probing tests share: no blocking call on the loop, and a kernel that stamps from the first test on."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

from monitor.probing import arrivals


@pytest.fixture(autouse=True)
def _no_blocking_calls_on_the_loop() -> Iterator[None]:
    with blockbuster_ctx("monitor"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _the_kernel_stamps() -> Iterator[None]:
    """It begins to a moment after the first socket has asked for it, and a test's first read may be sooner."""
    keeper = arrivals.stamp_keeper()
    if keeper is None:
        yield
        return
    with keeper, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, arrivals.SO_TIMESTAMPNS, 1)
        probe.bind(("127.0.0.1", 0))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            probe.sendto(b"x", probe.getsockname())
            if probe.recvmsg(1, 64)[1]:
                break
        yield
