"""The places that probes go to, and when each was last seen alive. Memory only; stamps are monotonic seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.probing.resolver import host_key
from monitor.suspicion.judge import Place, Sign

_NEVER = float("-inf")
# How long before the newest sign of life a place must have been well for its silence now to tell anything; endpoints
# that are asked seldom get three intervals.
_RECENT_SECONDS = 3600.0


@dataclass(slots=True, eq=False)
class Known:
    """One host and port. `failed_at`: when it last failed by its own fault, as far as a connect could show it."""

    place: Place
    port: int
    interval_seconds: float = 0.0
    is_canary: bool = False
    alive_at: float = _NEVER
    failed_at: float = _NEVER
    noted_at: float = _NEVER

    def was_well(self, newest: float) -> bool:
        if self.alive_at == _NEVER:
            return self.is_canary and self.failed_at == _NEVER  # the operator's word
        recent = max(_RECENT_SECONDS, 3 * self.interval_seconds)
        return self.alive_at > self.failed_at and self.alive_at >= newest - recent


class Places:
    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Known] = OrderedDict()  # the last seen alive at the end
        self.newest = _NEVER  # sign of life, of any place

    def get(self, host: str, port: int) -> Known:
        key = (host_key(host), port)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Known(Place(key[0]), port)
            self._known.move_to_end(key, last=False)
        return known

    def alive(self, known: Known, at: float, now: float) -> None:
        """A sign of life from `at`, noted `now`."""
        if at > known.alive_at:
            known.alive_at = at
        if at > self.newest:
            self.newest = at
        known.noted_at = now
        self._known.move_to_end((known.place.host, known.port))

    def failed(self, known: Known, at: float) -> None:
        known.failed_at = max(known.failed_at, at)

    def signs_since(self, since: float) -> Iterator[Sign]:
        """The last sign of each place that has one since then, roughly the newest first."""
        for known in reversed(self._known.values()):
            if known.noted_at < since:
                return  # noted in order of time, and never before it was
            if known.alive_at >= since:
                yield Sign(known.place, known.alive_at)

    def to_ask(self, most: int) -> list[Known]:
        """Places whose silence would be news: canaries, then the last seen alive first."""
        well = [known for known in reversed(self._known.values()) if known.was_well(self.newest)]
        return sorted(well, key=lambda known: not known.is_canary)[:most]

    def canaries(self) -> list[Known]:
        return [known for known in self._known.values() if known.is_canary]

    def set_canaries(self, wanted: tuple[tuple[str, int], ...]) -> None:
        for known in self._known.values():
            known.is_canary = False
        for host, port in wanted:
            self.get(host, port).is_canary = True
