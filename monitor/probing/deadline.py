"""When one probe's patience ends, what it has then come to, and who is told of it then."""

from __future__ import annotations

import asyncio
from typing import Any

from monitor.clock import Clock
from monitor.lookout import Lookout
from monitor.outcome import Outcome
from monitor.probing.transport import Wire

# Who awaits a cancelled task of its own may swallow our cancellation, as aiohttp's race between addresses does in the
# turns in which it ends: so it is made again.
_AGAIN_SECONDS = 0.05


class Deadline:
    """`at` (monotonic seconds) and `outcome` may be set as they are where it only moves away, as a stream does often:
    it is looked at when it was to be, and again. From `begin` to `connected` its task is cancelled, as asyncio.timeout
    would; from then on the `wire` is woken, and its reader looks. Use from one loop."""

    __slots__ = (
        "_cancelled_before", "_clock", "_has_cancelled", "_lookout", "_task", "_wire", "at", "listed_at", "look_at",
        "outcome",
    )  # fmt: skip

    def __init__(self, clock: Clock, lookout: Lookout) -> None:
        self.at = 0.0
        self.outcome = Outcome.TIMEOUT_CONNECT
        self.look_at: float | None = None
        self.listed_at: float | None = None
        self._clock = clock
        self._lookout = lookout
        self._task: asyncio.Task[Any] | None = None  # awaits a connection
        self._cancelled_before = 0
        self._has_cancelled = False
        self._wire: Wire | None = None

    def begin(self) -> None:
        """In the task that is to await a connection."""
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelled_before = self._task.cancelling()

    def connected(self, wire: Wire) -> None:
        if self._has_cancelled:
            self.takes_back()
        self._task, self._wire = None, wire

    def takes_back(self) -> bool:
        """Whether the wait was cancelled by the deadline, and by nobody else: then it is as if it had not been."""
        if not self._has_cancelled or self._task is None:
            return False
        self._has_cancelled = False
        return self._task.uncancel() <= self._cancelled_before

    def arm(self, at: float, outcome: Outcome) -> None:
        self.at, self.outcome = at, outcome
        self.look_by(at)

    def look_by(self, at: float) -> None:
        """Look at this time at the latest."""
        at = min(at, self.at)
        if self.look_at is None or at < self.look_at:
            self._lookout.watch(self, at)

    def disarm(self) -> None:
        self.takes_back()
        # Its entry may outlive the probe.
        self.look_at = self._task = self._wire = None

    def look(self, now: float) -> None:
        self.look_at = None
        if self._task is None:
            if self._wire is not None:
                self._wire.wake()
        elif now < self.at:
            self.look_by(self.at)
        else:
            # What came in time may lie in the kernel still. A loop looks before it rings, and who reads comes first.
            running = asyncio.get_running_loop()
            running.call_later(0.0, running.call_soon, self._give_up)

    def _give_up(self) -> None:
        now = self._clock.monotonic()
        if now < self.at:  # the connection came about meanwhile
            self.look_by(self.at)
        elif self._task is not None:
            if self._has_cancelled:  # swallowed, or not heard yet: it counts once
                self._task.uncancel()
            self._has_cancelled = True
            self._task.cancel()
            self._lookout.watch(self, now + _AGAIN_SECONDS)
        elif self._wire is not None:
            self._wire.wake()
