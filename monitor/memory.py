"""Memory that is not needed any more: when cycles are looked for, and what goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.clock import Clock

logger = logging.getLogger(__name__)

# By itself Python looks for cycles every few hundred objects: 4 % of the loop at 200 probes a second, and 50 ms at a
# time. A probe leaves next to none, so `Garbage` looks now and then; the thresholds are for what nobody foresaw.
GC_THRESHOLDS = (500_000, 1_000, 1_000)
LEAST_SECONDS = 60.0
# A look takes the loop for as long as there are objects to look at: it is to take no greater share of the time.
_MOST_SHARE = 1 / 20_000

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
    """Looks for cycles, every minute at most, and the less often the longer it takes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._not_before = clock.monotonic() + LEAST_SECONDS

    def collect(self) -> bool:
        """Whether it was time to look."""
        begun = self._clock.monotonic()
        if begun < self._not_before:
            return False
        found = gc.collect()
        taken = self._clock.monotonic() - begun
        self._not_before = begun + max(LEAST_SECONDS, taken / _MOST_SHARE)
        logger.debug("garbage objects=%d seconds=%.4f", found, taken)
        return True
