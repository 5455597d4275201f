"""What the probing tests share: no blocking call on the loop, and a stamped socket with whom it talks to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from blocking_calls import refused_in

from monitor.clock import SystemClock
from monitor.probing.stamps import StampedSocket


@pytest.fixture(autouse=True)
def _no_blocking_calls_on_the_loop() -> Iterator[None]:
    with refused_in("monitor"):
        yield


@pytest.fixture
def pair() -> Iterator[tuple[StampedSocket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = StampedSocket(SystemClock(), socket.AF_INET, socket.SOCK_STREAM, 0)
        left.connect(listener.getsockname())
        right, _ = listener.accept()
    left.setblocking(False)
    with left, right:
        yield left, right
