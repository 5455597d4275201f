"""Large buffers go back to the system, and the collector is called seldom enough."""

from __future__ import annotations

import subprocess
import sys
import weakref

import pytest

from monitor.clock import FakeClock
from monitor.memory import LOOK_SECONDS, Garbage

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


class Blocks:
    """What is allocated, as a test has it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> int:
        return self.count


class Knot:
    """Refers to itself: only a look finds that nobody else does."""

    def __init__(self) -> None:
        self.itself = self


def test_a_service_that_needs_no_more_memory_is_never_looked_through_as_a_whole() -> None:
    clock, blocks = HandClock(), Blocks(1000)
    garbage = Garbage(clock, blocks)
    for count in (4000, 4800, 3900, 4700, 4000) * 5:
        clock.pass_by(LOOK_SECONDS)
        blocks.count = count
        assert not garbage.collect()


def test_memory_that_has_grown_is_looked_through_and_an_hour_later_at_the_soonest_again() -> None:
    clock, blocks = HandClock(), Blocks(1000)
    garbage = Garbage(clock, blocks)
    clock.pass_by(LOOK_SECONDS)
    assert not garbage.collect()  # what the first hour has brought is what there is
    knot = weakref.ref(Knot())
    blocks.count = 1300
    clock.pass_by(LOOK_SECONDS - 1)
    assert not garbage.collect()
    clock.pass_by(1)
    assert garbage.collect()
    assert knot() is None
    clock.pass_by(LOOK_SECONDS)
    assert not garbage.collect()  # it was no garbage: that many it is now
    blocks.count = 1700
    clock.pass_by(LOOK_SECONDS)
    assert garbage.collect()
