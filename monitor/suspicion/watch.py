"""Follows the probes under way: tells of their connections, and looks into those of which nothing comes any more."""

from __future__ import annotations

from typing import Protocol

from monitor.clock import Clock
from monitor.lookout import Lookout
from monitor.suspicion.places import Known

# A connect that takes so long is looked into while it is still trying: a short outage is over when it times out.
STUCK_SECONDS = 2.0
# So is a stream, where no sign of life came from anybody for so long: all may have been cut in their middle.
SILENT_SECONDS = 5.0
_LEAST_SECONDS = 1.0  # between two looks at one stream


class Watcher(Protocol):
    clock: Clock

    def known(self, host: str, port: int) -> Known: ...

    def life(self, known: Known, at: float) -> None: ...

    def stuck(self, known: Known, begun_at: float) -> None: ...

    def silent(self, known: Known, since: float) -> float:
        """Nothing is known of a stream since then. When somebody was last seen alive."""


class ProbeWatch:
    """One probe. `look_at` is when it is to be looked into, None while and after there is nothing to look into."""

    __slots__ = ("_begun_at", "_is_connected", "_known", "_lookout", "_watcher", "listed_at", "look_at")

    def __init__(self, watcher: Watcher, lookout: Lookout) -> None:
        self._watcher = watcher
        self._lookout = lookout
        self._known: Known | None = None
        self._begun_at = 0.0
        self._is_connected = False
        self.listed_at: float | None = None
        self.look_at: float | None = None

    def sent(self, host: str, port: int) -> None:
        if host:
            self._known = self._watcher.known(host, port)
            self._begun_at = self._watcher.clock.monotonic()
            self._lookout.watch(self, self._begun_at + STUCK_SECONDS)

    def connected(self, at: float) -> None:
        if self._known is not None:
            self._is_connected = True
            self._lookout.watch(self, self._watcher.clock.monotonic() + SILENT_SECONDS)
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
