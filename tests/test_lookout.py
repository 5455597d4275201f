"""Who is looked at when: on a fake clock."""

from __future__ import annotations

from monitor.clock import FakeClock
from monitor.lookout import Lookout

START = 1_000.0


class One:
    def __init__(self, clock: FakeClock) -> None:
        self.look_at: float | None = None
        self.listed_at: float | None = None
        self.looked_at: list[float] = []
        self._clock = clock

    def look(self, now: float) -> None:
        assert now == self._clock.monotonic()
        self.look_at = None
        self.looked_at.append(now - START)


def many(clock: FakeClock, count: int) -> list[One]:
    return [One(clock) for _ in range(count)]


async def test_each_is_looked_at_once_at_its_time() -> None:
    clock = FakeClock(monotonic=START)
    lookout = Lookout(clock)
    ones = many(clock, 3)
    for one, seconds in zip(ones, (3.0, 1.0, 2.0), strict=True):
        lookout.watch(one, START + seconds)
    await clock.advance(60.0)
    assert [one.looked_at for one in ones] == [[3.0], [1.0], [2.0]]
    assert len(lookout) == 0


async def test_a_time_that_moves_is_kept_in_either_direction() -> None:
    clock = FakeClock(monotonic=START)
    lookout = Lookout(clock)
    away, near, off = ones = many(clock, 3)
    for one in ones:
        lookout.watch(one, START + 5.0)
    away.look_at = START + 9.0
    lookout.watch(near, START + 2.0)
    off.look_at = None
    await clock.advance(60.0)
    assert [one.looked_at for one in ones] == [[9.0], [2.0], []]
    assert len(lookout) == 0


async def test_one_that_is_looked_at_may_be_watched_again() -> None:
    clock = FakeClock(monotonic=START)
    lookout = Lookout(clock)
    (one,) = many(clock, 1)
    for _ in range(3):
        lookout.watch(one, clock.monotonic() + 1.0)
        lookout.watch(one, clock.monotonic() + 0.5)
        await clock.advance(2.0)
    assert one.looked_at == [0.5, 2.5, 4.5]
    assert len(lookout) == 0


async def test_whose_time_is_past_is_looked_at_at_the_next_turn() -> None:
    clock = FakeClock(monotonic=START)
    lookout = Lookout(clock)
    (one,) = many(clock, 1)
    lookout.watch(one, START - 1.0)
    await clock.advance(0.0)
    assert one.looked_at == [0.0]


async def test_after_its_close_nobody_is_looked_at() -> None:
    clock = FakeClock(monotonic=START)
    lookout = Lookout(clock)
    (one,) = many(clock, 1)
    lookout.watch(one, START + 1.0)
    lookout.close()
    await clock.advance(60.0)
    assert one.looked_at == []
