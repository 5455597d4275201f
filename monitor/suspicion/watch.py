"""Follows the probes under way: tells of their connections, and looks into those of which nothing comes any more."""

from __future__ import annotations

import heapq
import itertools
import logging
from typing import Protocol

from monitor.alarm import Alarm
from monitor.clock import Clock
from monitor.suspicion.places import Known

# A connect that takes so long is looked into while it is still trying: a short outage is over when it times out.
STUCK_SECONDS = 2.0
# So is a stream, where no sign of life came from anybody for so long: all may have been cut in their middle.
SILENT_SECONDS = 5.0
_LEAST_SECONDS = 1.0  # between two looks at one stream
_TIDIED_AT_ONCE = 2  # a probe's entry is put off once and dropped once

log = logging.getLogger(__name__)


class Watcher(Protocol):
    clock: Clock

    def known(self, host: str, port: int) -> Known: ...

    def life(self, known: Known, at: float) -> None: ...

    def stuck(self, known: Known, begun_at: float) -> None: ...

    def silent(self, known: Known, since: float) -> float:
        """Nothing is known of a stream since then. When somebody was last seen alive."""


class Lookout:
    """When which probe is to be looked into, with one timer for all: few probes live to see it. Use from one loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._orders = itertools.count()
        # An entry may be earlier than what its watch now says (or that be None): then it is put off (or dropped).
        self._entries: list[tuple[float, int, ProbeWatch]] = []
        self._alarm = Alarm(clock, self._ring)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, watch: ProbeWatch, at: float) -> None:
        """`watch` is looked at then, or when `watch.look_at` says by then."""
        watch.is_listed = True
        heapq.heappush(self._entries, (at, next(self._orders), watch))
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
        at, order, watch = self._entries[0]
        if watch.look_at is None:
            watch.is_listed = False
            heapq.heappop(self._entries)
        elif watch.look_at > at:
            heapq.heapreplace(self._entries, (watch.look_at, order, watch))
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
        watch = self._entries[0][2]
        try:
            watch.look(now)
        except Exception:
            watch.end()  # the others' turn must come
            log.exception("self_suspect not looked into")
        return True


class ProbeWatch:
    """One probe. `look_at` is when it is to be looked into, None while and after there is nothing to look into."""

    __slots__ = ("_begun_at", "_is_connected", "_known", "_lookout", "_watcher", "is_listed", "look_at")

    def __init__(self, watcher: Watcher, lookout: Lookout) -> None:
        self._watcher = watcher
        self._lookout = lookout
        self._known: Known | None = None
        self._begun_at = 0.0
        self._is_connected = False
        self.is_listed = False
        self.look_at: float | None = None

    def sent(self, host: str, port: int) -> None:
        if host:
            self._known = self._watcher.known(host, port)
            self._begun_at = self._watcher.clock.monotonic()
            self._look_at(self._begun_at + STUCK_SECONDS)

    def connected(self, at: float) -> None:
        if self._known is not None:
            self._is_connected = True
            self._look_at(self._watcher.clock.monotonic() + SILENT_SECONDS)
            self._watcher.life(self._known, at)

    def end(self) -> None:
        self.look_at = None

    def look(self, now: float) -> None:
        assert self._known is not None
        if self._is_connected:
            newest = self._watcher.silent(self._known, now - SILENT_SECONDS)
            self.look_at = max(newest + SILENT_SECONDS, now + _LEAST_SECONDS)
        else:
            self.look_at = None
            self._watcher.stuck(self._known, self._begun_at)

    def _look_at(self, at: float) -> None:
        self.look_at = at
        if not self.is_listed:
            self._lookout.add(self, at)
