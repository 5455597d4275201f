"""When one probe's patience ends, what it has then come to, and the one timer that says so."""

from __future__ import annotations

import asyncio

from monitor.clock import Clock
from monitor.outcome import Outcome
from monitor.probing.transport import Wire


class Deadline:
    """`at` (monotonic seconds) and `outcome` may be set as they are where it only moves away, as a stream does often:
    the timer stays, and looks again when it rings. While a connection is awaited, `timeout` is cut short; from then on
    the `wire` is woken, and its reader looks. Use from one loop."""

    __slots__ = ("_clock", "_timer", "_timer_at", "at", "outcome", "timeout", "wire")

    def __init__(self, clock: Clock) -> None:
        self.at = 0.0
        self.outcome = Outcome.TIMEOUT_CONNECT
        self.timeout: asyncio.Timeout | None = None
        self.wire: Wire | None = None
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def has_timed_out(self) -> bool:
        """Whether it was ours, of all timeouts, that ended the waiting for a connection."""
        return self.timeout is not None and self.timeout.expired()

    def arm(self, at: float, outcome: Outcome) -> None:
        self.at, self.outcome = at, outcome
        self.look_at(at)

    def look_at(self, at: float) -> None:
        """Look at this time at the latest."""
        at = min(at, self.at)
        if self._timer is None or at < self._timer_at:
            self._set_timer(at)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.timeout = None

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        # The loop's time base may be another than the clock's, so it is told the span.
        span = max(at - self._clock.monotonic(), 0.0)
        self._timer = asyncio.get_running_loop().call_later(span, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._clock.monotonic() < self._timer_at:
            self._set_timer(self._timer_at)
        elif self.timeout is None:
            if self.wire is not None:
                self.wire.wake()
        elif self._clock.monotonic() < self.at:
            self._set_timer(self.at)
        else:
            # What this turn of the loop has read may be the headers: their reader comes first.
            asyncio.get_running_loop().call_soon(self._give_up)

    def _give_up(self) -> None:
        if self._clock.monotonic() < self.at:  # the connection came about in this very turn
            self.look_at(self.at)
        elif self.timeout is not None:
            self.timeout.reschedule(asyncio.get_running_loop().time())
        elif self.wire is not None:
            self.wire.wake()
