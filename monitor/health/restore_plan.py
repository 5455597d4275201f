"""What the long windows are restored from: sums of a whole window, daily rows, hourly rows at both edges, the raw tail.
Which row counts in which window. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.health.dense import Indices
from monitor.health.spans import HOUR, LONG_WINDOWS, RING_SECONDS, ceil_day

# Beyond this many hours from where it was, a window is quicker made anew.
_SUMS_SECONDS = 18 * HOUR
NO_SUMS: Mapping[str, int] = {}

Masks = dict[str, npt.NDArray[np.bool_]]  # by window: which rows count there


@dataclass(frozen=True, slots=True)
class RestoreRanges:
    """What a restore reads; every span is [start, end) in UTC seconds.

    First the `sums`, then `days` of daily rows, `hours` of hourly rows (the spans do not overlap), and the raw
    observations with started_at >= `tail_since`.
    """

    days: tuple[int, int]
    hours: tuple[tuple[int, int], ...]
    tail_since: float
    sums: tuple[str, ...] = ()  # windows that are to be read as they were


class RestorePlan:
    """A restore of `only` these windows to their state at `edge_hour`. Daily rows hold what started before
    `days_until`, hourly rows what started before `hours_until`, the raw observations the rest. `sums` names windows
    that are on record as they were at some hour, with that hour."""

    def __init__(
        self,
        edge_hour: int,
        hours_until: int,
        days_until: int,
        sums: Mapping[str, int] = NO_SUMS,
        only: Collection[str] = LONG_WINDOWS,
    ) -> None:
        self.hours_until = hours_until
        self._edge_hour = edge_hour
        self._days_until = days_until
        self._starts = {name: edge_hour - span for name, span in LONG_WINDOWS.items() if name in only}
        self._summed = {  # window -> the hour of its sums
            name: at
            for name, at in sums.items()
            if name in self._starts
            and at <= hours_until
            and abs(at - edge_hour) <= _SUMS_SECONDS
            and abs(at - hours_until) <= _SUMS_SECONDS
        }
        # window -> its edge, where it is made of rollups alone
        self._added = {name: start for name, start in self._starts.items() if name not in self._summed}

    def ranges(self, now: float) -> RestoreRanges:
        hours_until = self.hours_until
        spans = [(start, min(ceil_day(start), hours_until)) for start in self._added.values()]
        for name, at in self._summed.items():
            spans += [(at, hours_until), _ordered(at - LONG_WINDOWS[name], self._starts[name])]
        days = (0, 0)
        if self._added:
            first = min(self._added.values())
            spans.append((max(self._days_until, first), hours_until))
            days = (ceil_day(first), max(self._days_until, ceil_day(first)))
        return RestoreRanges(
            days=days,
            hours=tuple(_merged_spans(spans)),
            tail_since=min(float(max(hours_until, min(self._starts.values()))), now - RING_SECONDS),
            sums=tuple(self._summed),
        )

    def of_days(self, starts: Indices) -> Masks:
        """The daily rows, by when they start, that are added to each window."""
        return {
            window: (starts >= ceil_day(start)) & (starts < self._days_until) for window, start in self._added.items()
        }

    def of_hours(self, starts: Indices) -> tuple[Masks, Masks]:
        """The hourly rows, by when they start, that are added to each window, and that are taken away."""
        come, gone = Masks(), Masks()
        for window, first in self._added.items():
            within = (starts >= first) & (starts < self.hours_until)
            come[window] = within & ((starts < ceil_day(first)) | (starts >= self._days_until))
        for window, at in self._summed.items():
            first, was_first = self._starts[window], at - LONG_WINDOWS[window]
            come[window] = (starts >= at) & (starts < self.hours_until) | (starts >= first) & (starts < was_first)
            gone[window] = (starts >= was_first) & (starts < first)
        return come, gone


def _ordered(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _merged_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same seconds in ascending spans that do not touch; empty ones left out."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
