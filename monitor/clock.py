"""The one clock: wall time for stamps, monotonic time for spans, and sleep.

Wall time is UTC, in seconds since the epoch. Monotonic time has no meaning of its own and never steps.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What every room is handed instead of `time` and `asyncio.sleep`."""

    def now(self) -> float:
        """UTC, seconds since the epoch. May step in either direction."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; the running loop's own time base."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time. If not positive, once others have run: between two slices of work
        that is in no hurry."""
        ...

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        """Call once, from the running loop, at `at` (monotonic seconds); at the loop's next turn if that is past."""
        ...


class SystemClock:
    """The machine's clocks. `monotonic` is CLOCK_MONOTONIC, as asyncio's `loop.time()`."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        lull = getattr(asyncio.get_running_loop(), "lull", None) if seconds <= 0 else None
        await (asyncio.sleep(max(seconds, 0.0)) if lull is None else lull())

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_at(at, call)


class _FakeTimer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeClock:
    """A clock that a test moves by hand: `await clock.advance(60)` runs everything that falls due on the way."""

    def __init__(self, now: float = 1_700_000_000.0, monotonic: float = 1_000.0) -> None:
        self._now = now
        self._monotonic = monotonic
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.call_at(self._monotonic + seconds, lambda: None if woken.done() else woken.set_result(None))
        await woken

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        if at <= self._monotonic:
            return asyncio.get_running_loop().call_soon(call)
        timer = _FakeTimer(call)
        heapq.heappush(self._timers, (at, next(self._order), timer))
        return timer

    def step_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as an NTP step or an operator would."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        """Move both clocks forward, calling and waking who is due in order, and let their tasks run at each stop."""
        target = self._monotonic + seconds
        await self._settle()
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            self._now += max(due - self._monotonic, 0.0)
            self._monotonic = max(due, self._monotonic)
            if timer.call is not None:
                timer.call()
            await self._settle()
        self._now += target - self._monotonic
        self._monotonic = target
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def utc_text(at: float, timespec: str = "milliseconds") -> str:
    """RFC 3339 in UTC, `2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def suspended_seconds() -> float:
    """How long the machine has slept since it started: time that `monotonic` does not count. 0 where unknown."""
    return 0.0 if _BOOTTIME is None else time.clock_gettime(_BOOTTIME) - time.monotonic()


def denied_seconds() -> float:
    """How long this process's first thread, the loop's, was ready to run and others had the processor. 0 where unknown:
    see Documentation/scheduler/sched-stats.rst of Linux."""
    try:
        waited_ns = Path("/proc/self/schedstat").read_text().split()[1]
    except (OSError, IndexError):
        return 0.0
    return int(waited_ns) / 1e9
