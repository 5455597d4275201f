"""`slot.expected_slots` and `slot.next_due` of many series at once. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from monitor.health.dense import Indices
from monitor.health.sketch import Values
from monitor.slot import Era


class Cadences:
    """The eras of several series, in their order."""

    def __init__(self, eras: Sequence[Sequence[Era]]) -> None:
        rows = [
            (series, era.since, _end_of(era), era.cadence.interval_ms, era.cadence.phase_ms)
            for series, its in enumerate(eras)
            for era in its
        ]
        self._series = len(eras)
        table = np.array(rows, dtype=np.float64).reshape(-1, 5)
        self._owners = table[:, 0].astype(np.int64)
        self._since, self._until = table[:, 1], table[:, 2]
        self._intervals, self._phases = table[:, 3].astype(np.int64), table[:, 4].astype(np.int64)

    def expected(self, starts: Sequence[float], end: float) -> Indices:
        """[starts x series], the slots that fell due from each start until before `end`."""
        begin, stop = np.maximum(_column(starts), self._since), np.minimum(end, self._until)
        due = np.where(stop > begin, self._slots_from(stop) - self._slots_from(begin), 0)
        found = np.zeros((len(starts), self._series), dtype=np.int64)
        np.add.at(found.T, self._owners, due.T)
        return found

    def next_due(self, after: Sequence[float]) -> Values:
        """[moments x series], when the first slot at each moment or later falls due; infinite if none will."""
        slots = self._slots_from(np.maximum(_column(after), self._since))
        due_at = (slots * self._intervals + self._phases) / 1000
        found = np.full((len(after), self._series), np.inf)
        np.minimum.at(found.T, self._owners, np.where(due_at < self._until, due_at, np.inf).T)
        return found

    def _slots_from(self, at: Values) -> Indices:
        return -((self._phases - np.rint(at * 1000).astype(np.int64)) // self._intervals)


def _column(moments: Sequence[float]) -> Values:
    return np.asarray(moments, dtype=np.float64)[:, None]


def _end_of(era: Era) -> float:
    return math.inf if era.until is None else era.until
