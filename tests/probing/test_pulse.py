from __future__ import annotations

import asyncio
import time

import pytest

from monitor.clock import SystemClock
from monitor.probing.pulse import Pulse

pytestmark = pytest.mark.timed


async def turns(count: int = 2) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_pulse_tells_a_loop_that_slept_from_one_that_waited() -> None:
    clock = SystemClock()
    pulse = Pulse(clock)
    pulse.begin()
    begun = clock.monotonic()
    time.sleep(0.06)
    await turns()
    now = clock.monotonic()
    assert pulse.is_late(now)
    assert pulse.before_last <= begun + 0.02
    pulse.end()
    pulse.begin()
    assert not pulse.is_late(clock.monotonic())
    pulse.end()


async def test_the_worst_stall_is_that_of_the_span_asked_for() -> None:
    clock = SystemClock()
    pulse = Pulse(clock)
    pulse.begin()
    before = clock.monotonic()
    time.sleep(0.15)
    await turns(4)
    after = clock.monotonic()
    time.sleep(0.08)
    await turns(4)
    later = clock.monotonic()
    # A busy machine sleeps longer, and not at all shorter.
    assert 0.13 <= pulse.worst_since(before) <= max(after - before, later - after) + 0.02
    assert 0.06 <= pulse.worst_since(after) <= later - after + 0.02
    # One that goes on has not been met by a beat yet.
    ongoing = clock.monotonic()
    time.sleep(0.3)
    assert pulse.worst_since(ongoing) >= 0.28
    pulse.end()


async def test_the_beat_runs_while_somebody_needs_it_and_no_longer() -> None:
    pulse = Pulse(SystemClock())
    pulse.begin()
    pulse.begin()
    pulse.end()
    assert pulse._timer is not None
    pulse.end()
    assert pulse._timer is None
