"""One timer over the Clock, instead of a task per turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from monitor.clock import Clock


class Alarm:
    """Calls `ring()` once, at the earliest of the times it was set to. Needs a running loop; use from that loop."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._at = 0.0
        self._task: asyncio.Task[None] | None = None

    def set(self, at: float) -> None:
        """Ring at `at` (monotonic seconds; at the loop's next turn if it is past), unless it rings sooner anyway."""
        if self._task is not None:
            if self._at <= at:
                return
            self._task.cancel()
        self._at = at
        self._task = asyncio.create_task(self._wait(at), name="scheduling alarm")

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _wait(self, at: float) -> None:
        await self._clock.sleep(at - self._clock.monotonic())
        self._task = None  # before the ring, which may set it anew
        self._ring()
