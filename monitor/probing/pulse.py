"""Whether our own event loop is late, and whether the wall clock has been set: told by a beat while probes run."""

from __future__ import annotations

import asyncio
from collections import deque

from monitor.clock import Clock

BEAT_SECONDS = 0.005
# From which pause on the loop counts as late: two beats and some noise.
LATE_SECONDS = 3 * BEAT_SECONDS
# NTP slews 3 us in a beat at most: what is more was set.
_STEP_SECONDS = 0.0001
# Two clocks that are read one after the other tell their difference only if nothing came between.
_TOGETHER_SECONDS = 0.00001
_KEPT_STALLS = 64
# What is remembered as a stall: far below what could change a probe's class.
_STALL_SECONDS = 0.05


class Pulse:
    """Beats between `begin` and `end`, which may nest. Stamps are monotonic seconds. Use from one loop.

    The loop looks at its sockets before it runs its timers. So whatever is read now came after `before_last`: had it
    come before that beat, it would have been read by the next one."""

    def __init__(self, clock: Clock) -> None:
        self.before_last = 0.0
        self._clock = clock
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._offset = self._last_offset = 0.0  # wall minus monotonic, at `before_last` and at the last beat
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_KEPT_STALLS)  # (end, seconds)

    def begin(self) -> None:
        self._users += 1
        if self._timer is None:
            self._last = self.before_last = self._clock.monotonic()
            self._last_offset = self._offset = wall_offset(self._clock)
            self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def end(self) -> None:
        self._users -= 1
        if not self._users and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_late(self, now: float) -> bool:
        """Whether what is read at `now` may have lain there for a while, unread because the loop was busy."""
        return now - self.before_last > LATE_SECONDS

    def offset(self, now: float) -> float | None:
        """Wall minus monotonic time, the latter being `now`; None if the wall clock was set since `before_last`."""
        if abs(self._last_offset - self._offset) > _STEP_SECONDS:
            return None
        if abs(self._clock.now() - now - self._last_offset) > _STEP_SECONDS:
            # Set just now, or we were put off the processor between the two readings.
            return self._last_offset if abs(wall_offset(self._clock) - self._last_offset) <= _STEP_SECONDS else None
        return self._last_offset

    def worst_since(self, since: float) -> float:
        """The longest stall, in seconds, that ended after `since`; 0 without one."""
        now = self._clock.monotonic()
        stalls = [seconds for end, seconds in self._stalls if end > since]
        current = now - self._last - BEAT_SECONDS
        return max(*stalls, current, 0.0) if current > _STALL_SECONDS else max(stalls, default=0.0)

    def _beat(self) -> None:
        now = self._clock.monotonic()
        late = now - self._last - BEAT_SECONDS
        if late > _STALL_SECONDS:
            self._stalls.append((now, late))
        self.before_last, self._last = self._last, now
        self._offset, self._last_offset = self._last_offset, wall_offset(self._clock)
        self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)


def wall_offset(clock: Clock) -> float:
    """Wall minus monotonic time at this moment, seconds."""
    closest = float("inf")
    offset = 0.0
    for _ in range(5):
        before, wall, after = clock.monotonic(), clock.now(), clock.monotonic()
        if after - before < closest:
            closest, offset = after - before, wall - (before + after) / 2
        if closest < _TOGETHER_SECONDS:
            break
    return offset
