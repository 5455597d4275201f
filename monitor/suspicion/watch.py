"""Follows one probe while it is under way: tells of its connection, and looks into it when nothing comes any more."""

from __future__ import annotations

import asyncio
from typing import Protocol

from monitor.clock import Clock
from monitor.suspicion.places import Known

# A connect that takes so long is looked into while it is still trying: a short outage is over when it times out.
_STUCK_SECONDS = 2.0
# So is a stream, where no sign of life came from anybody for so long: all may have been cut in their middle.
_SILENT_SECONDS = 5.0


class Watcher(Protocol):
    clock: Clock

    def known(self, host: str, port: int) -> Known: ...

    def life(self, known: Known, at: float) -> None: ...

    def stuck(self, known: Known, begun_at: float) -> None: ...

    def silent(self, known: Known, since: float) -> float:
        """Nothing is known of a stream since then. When somebody was last seen alive."""


class ProbeWatch:
    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._known: Known | None = None
        self._timer: asyncio.TimerHandle | None = None

    def sent(self, host: str, port: int) -> None:
        if host:
            self._known = self._watcher.known(host, port)
            begun_at = self._watcher.clock.monotonic()
            self._timer = asyncio.get_running_loop().call_later(
                _STUCK_SECONDS, self._watcher.stuck, self._known, begun_at
            )

    def connected(self, at: float) -> None:
        self.end()
        if self._known is not None:
            self._watcher.life(self._known, at)
            self._look_again(_SILENT_SECONDS)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        assert self._known is not None
        now = self._watcher.clock.monotonic()
        newest = self._watcher.silent(self._known, now - _SILENT_SECONDS)
        self._look_again(max(newest + _SILENT_SECONDS - now, 1.0))
