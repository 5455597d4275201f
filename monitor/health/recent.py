"""The short windows of many series at once: their rings laid end to end, counted, sorted and ranked together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.ring import ANSWER, CODE, FIRST_FIGURE, STARTED, Entries
from monitor.health.sketch import FIGURES, Values
from monitor.outcome import OUTCOMES

# Columns of counts: one per outcome class, in the order of the codes, then the answers.
ASKED = len(OUTCOMES)
ANSWERED = ASKED + 1
_FIGURE_COLUMNS = slice(FIRST_FIGURE, FIRST_FIGURE + len(FIGURES))

Counts = npt.NDArray[np.int64]


class Recent:
    """`entries` of several series, one series after the other and each in order of time; `lengths` says how many are
    whose. What started `ahead_seconds` after `now` or later is of no window yet."""

    def __init__(self, entries: Entries, lengths: Sequence[int], now: float, ahead_seconds: float) -> None:
        self._entries = entries
        self._lengths = np.array(lengths, dtype=np.int64)
        self._firsts = np.cumsum(self._lengths) - self._lengths
        self._owners = np.repeat(np.arange(len(lengths)), self._lengths)
        self._started = np.ascontiguousarray(entries[:, STARTED])
        self._now, self._ahead_seconds = now, ahead_seconds

    def counts(self, start: float) -> Counts:
        """[series x columns] of what started since `start`."""
        within = self._within(start)
        owners, entries = self._owners[within], self._entries[within]
        answers = entries[:, ANSWER]  # nan where nothing was asked
        cells = owners * (ANSWERED + 1)
        cells = np.concatenate(
            (
                cells + entries[:, CODE].astype(np.int64),
                cells[answers == answers] + ASKED,
                cells[answers == 1.0] + ANSWERED,
            )
        )
        width = len(self._lengths) * (ANSWERED + 1)
        return np.bincount(cells, minlength=width).reshape(-1, ANSWERED + 1)

    def quantiles(self, start: float, quantiles: Sequence[Sequence[float]]) -> Values:
        """[figures x series x quantiles], exact, of what started since `start`; nan without samples. `quantiles` are
        those of each figure."""
        within = self._within(start)
        owners, values = self._owners[within], self._entries[within, _FIGURE_COLUMNS]
        lengths = np.bincount(owners, minlength=len(self._lengths))
        columns = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ordered = np.full((len(FIGURES), len(self._lengths), int(lengths.max(initial=1))), np.nan)
        ordered[:, owners, columns] = values.T
        ordered.sort(axis=2)  # nan last
        samples = np.count_nonzero(ordered == ordered, axis=2)[:, :, None]
        # 1e-9 as in `sketch.rank_of`, whose ranks these are.
        ranks = np.ceil(np.asarray(quantiles)[:, None, :] * samples - 1e-9)
        places = np.clip(ranks, 1, np.maximum(samples, 1)).astype(np.int64) - 1
        found: Values = np.take_along_axis(ordered, places, axis=2)
        return found

    def next_change(self, spans: Iterable[float]) -> Values:
        """By series, the first moment after which one of the windows that reach back that far has lost or won an entry
        by time alone; infinite if none will."""
        coming = self._first_since(self._now + self._ahead_seconds) - self._ahead_seconds
        leaving = [self._first_since(self._now - span) + span for span in spans]
        found: Values = np.minimum.reduce([coming, *leaving])
        return found

    def _first_since(self, start: float) -> Values:
        """By series, when the first entry at or after `start` started, ahead or not; infinite if there is none."""
        before = np.bincount(self._owners[self._started < start], minlength=len(self._lengths))
        found = np.full(len(self._lengths), np.inf)
        some = before < self._lengths
        found[some] = self._started[(self._firsts + before)[some]]
        return found

    def _within(self, start: float) -> slice | npt.NDArray[np.bool_]:
        within = (self._started >= start) & (self._started < self._now + self._ahead_seconds)
        return slice(None) if within.all() else within
