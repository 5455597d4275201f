"""One timer for many whose time moves away before it comes: few of them live to see it."""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import Protocol

from monitor.alarm import Alarm
from monitor.clock import Clock

_TIDIED_AT_ONCE = 2  # an entry is put off once and dropped once

log = logging.getLogger(__name__)


class Watched(Protocol):
    """`look_at` (monotonic seconds) is when it is to be looked at, None if not at all. It may be set as it is where it
    moves away or becomes None. `listed_at` is the lookout's own, and None at first."""

    look_at: float | None
    listed_at: float | None

    def look(self, now: float) -> None:
        """Its time has come, and is to be set anew."""


class Lookout:
    """Looks at each of the watched when its time has come, in order of time. Use from one loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orders = itertools.count()
        # (time, order, who). An entry may be earlier than what is now wanted: then it is put off, or dropped.
        self._entries: list[tuple[float, int, Watched]] = []
        self._alarm = Alarm(clock, self._ring)

    def __len__(self) -> int:
        return len(self._entries)

    def watch(self, one: Watched, at: float) -> None:
        """Look at it then, unless its `look_at` says otherwise by then."""
        one.look_at = at
        if one.listed_at is None or at < one.listed_at:
            one.listed_at = at
            heapq.heappush(self._entries, (at, next(self._orders), one))
            for _ in range(_TIDIED_AT_ONCE):
                if not self._tidy():
                    break
            self._alarm.set(self._entries[0][0])

    def close(self) -> None:
        self._entries.clear()
        self._alarm.cancel()

    def _tidy(self) -> bool:
        """Drop or put off the first entry; False if it is as it should be."""
        if not self._entries:
            return False
        at, order, one = self._entries[0]
        if one.listed_at != at:  # an earlier entry took this one's place
            heapq.heappop(self._entries)
        elif one.look_at is None:
            one.listed_at = None
            heapq.heappop(self._entries)
        elif one.look_at > at:
            one.listed_at = one.look_at
            heapq.heapreplace(self._entries, (one.look_at, order, one))
        else:
            return False
        return True

    def _ring(self) -> None:
        now = self._clock.monotonic()
        while self._tidy() or self._look_at_first(now):
            pass
        if self._entries:
            self._alarm.set(self._entries[0][0])

    def _look_at_first(self, now: float) -> bool:
        if not self._entries or self._entries[0][0] > now:
            return False
        one = self._entries[0][2]
        try:
            one.look(now)
        except Exception:
            one.look_at = None  # the others' turn must come
            log.exception("not looked into what=%s", type(one).__name__)
        return True
