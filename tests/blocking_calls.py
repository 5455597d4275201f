"""No blocking call on the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockbuster import BlockBuster, blockbuster_ctx


@contextmanager
def refused_in(module: str) -> Iterator[BlockBuster]:
    # The loop itself is below every call, the tests' own too, and pauses between two looks.
    with blockbuster_ctx(module, excluded_modules=["monitor.loop"]) as blockbuster:
        yield blockbuster
