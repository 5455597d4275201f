"""Large buffers go back to the system, and the collector is called seldom enough."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from monitor.clock import FakeClock
from monitor.memory import LEAST_SECONDS, Garbage

# What glibc does by itself: the second buffer comes from the heap, since the first was given back.
_PAGES = """
from pathlib import Path
from monitor.memory import give_back

def heap_bytes():
    line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]"))
    first, _, last = line.split()[0].partition("-")
    return int(last, 16) - int(first, 16)

give_back()
before = heap_bytes()
for _ in range(3):
    page = bytes(16 << 20)
print(heap_bytes() - before)
"""


class HandClock(FakeClock):
    """Moves without a loop, so also in the middle of a collection."""

    def pass_by(self, seconds: float) -> None:
        self._monotonic += seconds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap is told by /proc")
def test_a_large_page_leaves_no_hole_in_the_heap() -> None:
    told = subprocess.run([sys.executable, "-c", _PAGES], capture_output=True, text=True, check=True, timeout=120)
    assert int(told.stdout) < 1 << 20


def test_garbage_is_looked_for_every_minute_at_most() -> None:
    clock = HandClock()
    garbage = Garbage(clock)
    assert not garbage.collect()
    clock.pass_by(LEAST_SECONDS)
    assert garbage.collect()
    clock.pass_by(LEAST_SECONDS - 1)
    assert not garbage.collect()
    clock.pass_by(1)
    assert garbage.collect()


def test_the_longer_a_look_takes_the_longer_is_the_pause_after_it() -> None:
    clock = HandClock()
    garbage = Garbage(clock)

    def takes_10_ms(phase: str, _info: dict[str, int]) -> None:
        if phase == "stop":
            clock.pass_by(0.01)

    gc.callbacks.append(takes_10_ms)
    try:
        clock.pass_by(LEAST_SECONDS)
        assert garbage.collect()
        clock.pass_by(190.0)
        assert not garbage.collect()
        clock.pass_by(10.0)
        assert garbage.collect()
    finally:
        gc.callbacks.remove(takes_10_ms)
