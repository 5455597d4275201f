"""Which thread of this process the kernel runs first when several want one core: the loop's.

Linux gives whoever has the shorter slice the core as soon as it wakes, at the same share of the time for all. With
equal slices the loop waits for the tick of the clock (4 ms) behind a thread that compresses or commits. Kernels before
6.12, and others, leave everything as it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Iterable

FIRST_SLICE_NS = 100_000  # the shortest that the kernel takes
# Its own. A longer one would let other processes go before a thread that has the interpreter's lock, and the loop wait.
USUAL_SLICE_NS = 0

# linux/sched/types.h: size, policy, flags, nice, priority, runtime (the slice), deadline, period, utilization's bounds.
_ATTRIBUTES = struct.Struct("@IIQiIQQQII")
# asm/unistd.h; the C library has no function for it before glibc 2.41.
_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
_CURRENT = 0


def go_first() -> bool:
    """The calling thread; those that it starts have the same until `stand_back` sees them. Whether it could be said."""
    return _set_slice(_CURRENT, FIRST_SLICE_NS)


class Others:
    """The threads beside the loop's, which have its slice from it when they are started."""

    def __init__(self) -> None:
        self._seen: frozenset[int] = frozenset()

    def stand_back(self, threads: Iterable[threading.Thread]) -> int:
        """Those that are new since the last call, the calling one left out; how many were told."""
        there = frozenset([each.native_id for each in threads if each.native_id is not None])
        new, self._seen = there - self._seen - {threading.get_native_id()}, there
        return sum(_set_slice(thread, USUAL_SLICE_NS) for thread in new)


def _set_slice(thread: int, slice_ns: int) -> bool:
    """Priority and policy stay as they are; one that is no ordinary thread is left alone."""
    number = _SET_ATTRIBUTES.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    try:
        if os.sched_getscheduler(thread) != os.SCHED_OTHER:
            return False
        nice = os.getpriority(os.PRIO_PROCESS, thread)
    except OSError:  # it has ended
        return False
    told = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, thread, told, 0) == 0)
