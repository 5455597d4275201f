"""Turns that are armed: a heap by monotonic time, and one timer for the first of them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from monitor.alarm import Alarm
from monitor.clock import Clock
from monitor.probing.report import Turn
from monitor.scheduling.due import DueSlot

_BLUNT_SECONDS = 1e-6  # a timer may ring a hair early


class Armed(NamedTuple):
    at: float  # monotonic
    order: int  # no two are alike: nothing behind it is ever compared
    generation: int
    due: DueSlot
    recheck: Turn | None  # None = a scheduled slot; a turn that is recovered is told by itself


class Agenda:
    """Calls `fall_due(armed)`, which must not raise, for each turn when its time has come, in order of time. Use from
    one loop."""

    def __init__(self, clock: Clock, fall_due: Callable[[Armed], None]) -> None:
        self._clock = clock
        self._fall_due = fall_due
        self._armed: list[Armed] = []
        self._orders = itertools.count()
        self._alarm = Alarm(clock, self._ring)

    def arm(self, at: float, generation: int, due: DueSlot, recheck: Turn | None = None) -> None:
        """For `at` (monotonic seconds); at the loop's next turn if that is past."""
        armed = Armed(at, next(self._orders), generation, due, recheck)
        heapq.heappush(self._armed, armed)
        if self._armed[0] is armed:
            self._alarm.set(at)

    def is_overdue(self, by: float) -> bool:
        """Whether a turn was to fall due at `by` or before, and did not."""
        return bool(self._armed) and self._armed[0].at <= by

    def __iter__(self) -> Iterator[Armed]:
        """Every armed turn, in no order."""
        return iter(self._armed)

    def cancel(self) -> None:
        """Nothing falls due any more."""
        self._alarm.cancel()

    def _ring(self) -> None:
        now = self._clock.monotonic() + _BLUNT_SECONDS
        while self._armed and self._armed[0].at <= now:
            self._fall_due(heapq.heappop(self._armed))
        if self._armed:
            self._alarm.set(self._armed[0].at)
