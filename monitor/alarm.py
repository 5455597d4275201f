"""One timer over the Clock for whoever waits for the first of many times."""

from __future__ import annotations

from collections.abc import Callable

from monitor.clock import Clock, Timer


class Alarm:
    """Calls `ring()` once, at the earliest of the times it was set to. Needs a running loop; use from that loop."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._at = 0.0
        self._timer: Timer | None = None

    def set(self, at: float) -> None:
        """Ring at `at` (monotonic seconds; at the loop's next turn if it is past), unless it rings sooner anyway."""
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = self._clock.call_at(at, self._rung)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rung(self) -> None:
        self._timer = None  # before the ring, which may set it anew
        self._ring()
