"""Who is due: a heap over the cadences of lanes, an endpoint's own or one of its other kinds of probe. Pure; UTC
seconds on the schedule clock come in as values.

Every slot leaves the queue exactly once, as due or as missed. Each step costs O(log n).
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from monitor.slot import Cadence

# How long after its time a slot that nobody looked at is still sent. A stall of ten seconds (this and the arming
# horizon) then loses no slot, and the burst that follows it is ten seconds' worth and no more.
GRACE_SECONDS = 5.0
# No window reaches further back: slots that passed before that, while no monitor ran, are not even counted.
LONGEST_ABSENCE_SECONDS = 30 * 86400.0


class DueSlot(msgspec.Struct, frozen=True, gc=False):
    lane: str
    slot: int
    due_at: float  # UTC seconds


class MissedSlots(NamedTuple):
    """Slots `first` to `last`, both included, that passed while nobody looked."""

    lane: str
    first: int
    last: int

    @property
    def slots(self) -> int:
        return self.last - self.first + 1


@dataclass(slots=True)
class _Place:
    cadence: Cadence
    generation: int
    slot: int  # the next one


class DueQueue:
    """The next slot of every lane. Use from one task."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._heap: list[tuple[int, int, str]] = []  # due in ms, generation, lane
        self._generations = itertools.count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, lane: str) -> bool:
        return lane in self._places

    def add(self, lane: str, cadence: Cadence, after: float) -> None:
        """From now on `lane` falls due at every slot strictly after `after`. Replaces its former cadence."""
        place = _Place(cadence, next(self._generations), cadence.slot_at(after) + 1)
        self._places[lane] = place
        self._push(lane, place)
        self._sweep()

    def remove(self, lane: str) -> None:
        """Nothing of `lane` falls due any more. No error if it is not there."""
        self._places.pop(lane, None)
        self._sweep()

    def cadence(self, lane: str) -> Cadence | None:
        place = self._places.get(lane)
        return None if place is None else place.cadence

    def pop_until(self, now: float, until: float) -> tuple[list[DueSlot], list[MissedSlots]]:
        """Every slot that falls due at `until` or before, in order of time, and those whose time is over.

        A slot is over when a later one of its lane is due at `now`, or after GRACE_SECONDS.
        """
        due: list[DueSlot] = []
        missed: list[MissedSlots] = []
        now_ms, until_ms = round(now * 1000), round(until * 1000)
        heap = self._heap
        while heap:
            due_ms, generation, lane = heap[0]
            place = self._places.get(lane)
            if place is None or place.generation != generation:
                heapq.heappop(heap)
                continue
            if due_ms > until_ms:
                break
            next_slot = place.slot + 1
            if due_ms < now_ms and (oldest := self._oldest(place, now)) > place.slot:
                missed.append(MissedSlots(lane, place.slot, oldest - 1))
                next_slot = oldest
            else:
                due.append(DueSlot(lane, place.slot, due_ms / 1000))
            place.slot = next_slot
            heapq.heapreplace(heap, (_due_ms(place), generation, lane))
        return due, missed

    @staticmethod
    def _oldest(place: _Place, now: float) -> int:
        """The first slot of a place whose time is not over."""
        oldest = max(place.cadence.slot_at(now), place.slot)
        return oldest if place.cadence.due_at(oldest) >= now - GRACE_SECONDS else oldest + 1

    def _push(self, lane: str, place: _Place) -> None:
        heapq.heappush(self._heap, (_due_ms(place), place.generation, lane))

    def _is_stale(self, entry: tuple[int, int, str]) -> bool:
        place = self._places.get(entry[2])
        return place is None or place.generation != entry[1]

    def _sweep(self) -> None:
        # Entries of removed lanes lie until their time comes; many reloads must not pile them up.
        if len(self._heap) > 2 * len(self._places) + 64:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)


def _due_ms(place: _Place) -> int:
    return place.slot * place.cadence.interval_ms + place.cadence.phase_ms
