"""Due probes without a free place: round robin over providers, and within one the endpoint that was unserved longest.

Not plain first-in first-out: phases are fixed, so under a standing overload the same endpoints would expire just before
each free place for ever. By the time of their last probe everyone gets a turn. Pure.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from monitor.probing.report import Turn


class Waiter(msgspec.Struct, eq=False):
    turn: Turn
    armed_at: float  # monotonic: when it should have begun
    expires_at: float  # monotonic: when its slot ends
    gone: bool = False


class WaitingRoom:
    """At most one scheduled turn and one recheck per lane wait here. Use from one task."""

    def __init__(self) -> None:
        self._order = itertools.count()
        self._queues: OrderedDict[str, list[tuple[float, int, Waiter]]] = OrderedDict()  # by provider; next first
        self._expiries: list[tuple[float, int, Waiter]] = []
        self._by_lane: dict[tuple[str, bool], Waiter] = {}
        self._waiting_by_provider: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_lane)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._by_lane.values())

    def waits(self, provider: str) -> bool:
        """Whether anybody waits for a place at `provider`."""
        return self._waiting_by_provider.get(provider, 0) > 0

    def enter(self, waiter: Waiter, last_began_at: float | None) -> Waiter | None:
        """Let `waiter` wait; `last_began_at` is when its lane was last served (monotonic, None = never). Returns
        the one of the same lane and sort that it replaces."""
        provider = waiter.turn.endpoint.provider
        key = _key(waiter)
        replaced = self._by_lane.get(key)
        if replaced is not None:
            self._discard(replaced)
        self._by_lane[key] = waiter
        self._waiting_by_provider[provider] = self._waiting_by_provider.get(provider, 0) + 1
        rank = -math.inf if last_began_at is None else last_began_at
        heapq.heappush(self._queues.setdefault(provider, []), (rank, next(self._order), waiter))
        heapq.heappush(self._expiries, (waiter.expires_at, next(self._order), waiter))
        return replaced

    def take(self, has_place: Callable[[str], bool]) -> Waiter | None:
        """The next one whose provider has a place; None if there is none."""
        for provider in list(self._queues):
            queue = self._queues[provider]
            while queue and queue[0][2].gone:
                heapq.heappop(queue)
            if not queue:
                del self._queues[provider]
            elif has_place(provider):
                waiter = heapq.heappop(queue)[2]
                self._queues.move_to_end(provider)
                self._discard(waiter)
                return waiter
        return None

    def expire(self, monotonic: float) -> list[Waiter]:
        """Those whose slot is over; they wait no longer."""
        expired: list[Waiter] = []
        while self._expiries and (self._expiries[0][2].gone or self._expiries[0][0] <= monotonic):
            waiter = heapq.heappop(self._expiries)[2]
            if not waiter.gone:
                self._discard(waiter)
                expired.append(waiter)
        return expired

    def remove(self, lane: str) -> list[Waiter]:
        """Those of one lane."""
        waiters = [self._by_lane[key] for key in ((lane, False), (lane, True)) if key in self._by_lane]
        for waiter in waiters:
            self._discard(waiter)
        return waiters

    def clear(self) -> list[Waiter]:
        """Everybody."""
        waiters = list(self._by_lane.values())
        for waiter in waiters:
            self._discard(waiter)
        self._queues.clear()
        self._expiries.clear()
        return waiters

    def _discard(self, waiter: Waiter) -> None:
        waiter.gone = True
        del self._by_lane[_key(waiter)]
        self._waiting_by_provider[waiter.turn.endpoint.provider] -= 1


def _key(waiter: Waiter) -> tuple[str, bool]:
    return waiter.turn.lane, waiter.turn.recheck > 0
