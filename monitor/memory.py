"""Memory that is not needed any more: when cycles are looked for, and what goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from monitor.clock import Clock

logger = logging.getLogger(__name__)

# By itself Python looks for cycles every few hundred objects: 4 % of the loop at 200 probes a second. With 10,000
# endpoints a look through everything keeps the loop for 200 ms, and one through what came in five seconds for 40 ms; a
# probe leaves next to nothing to be found. So `Garbage` looks where memory has grown, and thresholds are far off.
GC_THRESHOLDS = (2_000_000, 1_000, 1_000)
LOOK_SECONDS = 3600.0
GROWN = 1.25

# malloc.h. What is larger is mapped by itself and goes back when it is freed: by default glibc learns from each large
# buffer that is freed to keep all that are smaller, 32 MB at most, and a page of 60 MB leaves its holes in the heap.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_MAPPED_BYTES = 1 << 20
_ARENAS = 2  # by default eight a processor: each thread that compresses had one to itself


def give_back() -> None:
    """Let large buffers go back to the system when they are freed, and leave the collector to `Garbage`. Before
    anything is loaded; where there is no glibc the allocator is left as it is."""
    gc.set_threshold(*GC_THRESHOLDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


@contextmanager
def undisturbed() -> Iterator[None]:
    """For work that builds what stays, beside probes that a look through all of it would hold up: nothing is looked at
    before, and what is there at the end never is; nothing is frozen if it fails."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class Garbage:
    """Looks for cycles once an hour at most, and only if memory has grown by a quarter, as cycles that nobody finds
    would make it. `blocks` counts what is allocated."""

    def __init__(self, clock: Clock, blocks: Callable[[], int] = sys.getallocatedblocks) -> None:
        self._clock = clock
        self._blocks = blocks
        self._not_before = clock.monotonic() + LOOK_SECONDS
        self._fewest: int | None = None  # blocks that were there at any of these times since the last look

    def collect(self) -> bool:
        """Whether it was time to look."""
        begun = self._clock.monotonic()
        if begun < self._not_before:
            return False
        self._not_before = begun + LOOK_SECONDS
        there = self._blocks()
        # Within the first hour everything comes that stays: that is no growth.
        if self._fewest is None or there <= self._fewest * GROWN:
            self._fewest = there if self._fewest is None else min(there, self._fewest)
            return False
        found = gc.collect()
        self._fewest = self._blocks()
        logger.debug("garbage objects=%d seconds=%.4f", found, self._clock.monotonic() - begun)
        return True
