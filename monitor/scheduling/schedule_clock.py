"""The clock that slots go by: UTC, advanced on the monotonic clock and slewed toward the wall.

A wall step would otherwise be a burst (forward: many slots due at once) or a hole (backward: none due for an hour).
"""

from __future__ import annotations

from collections.abc import Callable

from monitor.clock import Clock

FOLD_SECONDS = 0.05  # what NTP's own slewing and our reading jitter amount to: taken over at once
SLEW_RATIO = 0.01  # 10 ms per second: an interval of 60 s is never off by more than 0.6 s
# A last slot further ahead than this was numbered by a wall clock that was plainly wrong; it binds nobody.
TRUSTED_AHEAD_SECONDS = 86400.0
_SLEPT_SECONDS = 0.1  # reading two clocks takes microseconds; a machine that slept was away for longer


class ScheduleClock:
    """UTC without steps. `utc_now` and `monotonic_at` never differ in rate by more than 1 % from real time.

    `last_due_at` is when the last slot already used fell due (UTC seconds; None = none): the schedule starts no
    earlier, so that no slot is used twice after a restart that follows a backward step. `suspended_seconds` tells how
    long the machine has slept: the monotonic clock stands still then, and the slots slept through are past.
    Not thread-safe.
    """

    def __init__(
        self,
        clock: Clock,
        last_due_at: float | None = None,
        suspended_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._clock = clock
        self._suspended_seconds = suspended_seconds
        self._slept = suspended_seconds()
        self._monotonic = clock.monotonic()
        self._utc = clock.now()
        if last_due_at is not None and self._utc < last_due_at <= self._utc + TRUSTED_AHEAD_SECONDS:
            self._utc = last_due_at

    def utc_now(self) -> float:
        """UTC seconds on the schedule. Goes back by 50 ms at most, never forward by a jump but after a suspension."""
        monotonic = self._clock.monotonic()
        elapsed = monotonic - self._monotonic
        slept = self._suspended_seconds()
        if abs(slept - self._slept) > _SLEPT_SECONDS:
            self._utc += max(slept - self._slept, 0.0)
            self._slept = slept
        self._utc += elapsed
        self._monotonic = monotonic
        ahead = self._clock.now() - self._utc
        if abs(ahead) <= FOLD_SECONDS:
            self._utc += ahead
        else:
            slew = SLEW_RATIO * elapsed
            self._utc += min(max(ahead, -slew), slew)
        return self._utc

    def monotonic_at(self, utc: float) -> float:
        """When, on the monotonic clock, the schedule will show `utc` if nothing steps. In the past for a past `utc`."""
        return self._monotonic + (utc - self._utc)

    @property
    def latest(self) -> float:
        """UTC seconds on the schedule when `utc_now` was last asked."""
        return self._utc

    @property
    def ahead_of_wall_seconds(self) -> float:
        """How far the schedule is ahead of the wall (negative: behind): what is still to be slewed away."""
        return self._utc + (self._clock.monotonic() - self._monotonic) - self._clock.now()
