from __future__ import annotations

from monitor.alarm import Alarm
from monitor.clock import FakeClock


class Rings:
    def __init__(self) -> None:
        self.clock = FakeClock(monotonic=100.0)
        self.at: list[float] = []
        self.alarm = Alarm(self.clock, lambda: self.at.append(self.clock.monotonic()))


async def test_it_rings_once_at_the_earliest_of_its_times() -> None:
    rings = Rings()
    for at in (105.0, 103.0, 104.0):
        rings.alarm.set(at)
    await rings.clock.advance(60)
    assert rings.at == [103.0]


async def test_a_time_that_is_past_rings_at_the_loops_next_turn() -> None:
    rings = Rings()
    rings.alarm.set(99.0)
    assert rings.at == []
    await rings.clock.advance(0)
    assert rings.at == [100.0]


async def test_it_can_be_set_anew_by_its_own_ring() -> None:
    clock = FakeClock(monotonic=100.0)
    at: list[float] = []

    def ring() -> None:
        at.append(clock.monotonic())
        if len(at) < 3:
            alarm.set(clock.monotonic() + 1)

    alarm = Alarm(clock, ring)
    alarm.set(101.0)
    await clock.advance(60)
    assert at == [101.0, 102.0, 103.0]


async def test_one_that_is_cancelled_is_silent() -> None:
    rings = Rings()
    rings.alarm.set(101.0)
    rings.alarm.cancel()
    await rings.clock.advance(60)
    assert rings.at == []
