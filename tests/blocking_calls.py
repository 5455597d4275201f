"""No blocking call on the loop, but for the loop's own pause between two looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockbuster import BlockBuster, blockbuster_ctx


@contextmanager
def refused_in(module: str) -> Iterator[BlockBuster]:
    with blockbuster_ctx(module) as blockbuster:
        blockbuster.functions["time.sleep"].can_block_in("monitor/loop.py", "select")
        yield blockbuster
