"""When one probe's patience ends, what it has then come to, and who is told of it then."""

from __future__ import annotations

import asyncio

from monitor.clock import Clock
from monitor.lookout import Lookout
from monitor.outcome import Outcome
from monitor.probing.transport import Wire


class Deadline:
    """`at` (monotonic seconds) and `outcome` may be set as they are where it only moves away, as a stream does often:
    it is looked at when it was to be, and again. While a connection is awaited, `timeout` is cut short; from then on
    the `wire` is woken, and its reader looks. Use from one loop."""

    __slots__ = ("_clock", "_lookout", "at", "listed_at", "look_at", "outcome", "timeout", "wire")

    def __init__(self, clock: Clock, lookout: Lookout) -> None:
        self.at = 0.0
        self.outcome = Outcome.TIMEOUT_CONNECT
        self.timeout: asyncio.Timeout | None = None
        self.wire: Wire | None = None
        self.look_at: float | None = None
        self.listed_at: float | None = None
        self._clock = clock
        self._lookout = lookout

    @property
    def has_timed_out(self) -> bool:
        """Whether it was ours, of all timeouts, that ended the waiting for a connection."""
        return self.timeout is not None and self.timeout.expired()

    def arm(self, at: float, outcome: Outcome) -> None:
        self.at, self.outcome = at, outcome
        self.look_by(at)

    def look_by(self, at: float) -> None:
        """Look at this time at the latest."""
        at = min(at, self.at)
        if self.look_at is None or at < self.look_at:
            self._lookout.watch(self, at)

    def disarm(self) -> None:
        # Its entry may outlive the probe.
        self.look_at = self.timeout = self.wire = None

    def look(self, now: float) -> None:
        self.look_at = None
        if self.timeout is None:
            if self.wire is not None:
                self.wire.wake()
        elif now < self.at:
            self.look_by(self.at)
        else:
            # What came in time may lie in the kernel still. A loop looks before it rings, and who reads comes first.
            running = asyncio.get_running_loop()
            running.call_later(0.0, running.call_soon, self._give_up)

    def _give_up(self) -> None:
        if self._clock.monotonic() < self.at:  # the connection came about meanwhile
            self.look_by(self.at)
        elif self.timeout is not None:
            self.timeout.reschedule(asyncio.get_running_loop().time())
        elif self.wire is not None:
            self.wire.wake()
