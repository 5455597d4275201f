"""Counts of many series at once, in numpy matrices that grow. For long windows; see `windows`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.sketch import Scale, Values, quantiles_of_rows

Indices = npt.NDArray[np.int64]

# Series are added one at a time; 64 rows are what a small configuration needs.
FIRST_CAPACITY = 64
# Rows that no series uses are as dear as others once the columns have been widened: 16,384 for 10,000 are 100 MB.
_GROWTH = 8  # by an eighth
# Bins are covered in steps: nobody's latency lies under 1 ms, and columns that no series uses cost memory in all.
_COVER_STEP = 64
# Rows worked on at once: their sums (64-bit) then stay within a processor's cache.
_ROWS_AT_ONCE = 1024


def grown_capacity(capacity: int, needed: int) -> int:
    while capacity < needed:
        capacity += max(capacity // _GROWTH, FIRST_CAPACITY)
    return capacity


class CountMatrix:
    """[windows x series x columns] of 64-bit counts."""

    def __init__(self, windows: int, columns: int) -> None:
        self.counts = np.zeros((windows, FIRST_CAPACITY, columns), dtype=np.int64)

    def reserve(self, series: int) -> None:
        windows, capacity, columns = self.counts.shape
        if series > capacity:
            counts = np.zeros((windows, grown_capacity(capacity, series), columns), dtype=np.int64)
            counts[:, :capacity] = self.counts
            self.counts = counts

    def add(self, window: int, rows: Indices, columns: Indices, amounts: Indices) -> None:
        flat, at = self._flat(window, rows, columns)
        np.add.at(flat, at, amounts)

    def subtract(self, window: int, rows: Indices, columns: Indices, amounts: Indices) -> int:
        """How many cells would have become negative and were set to 0."""
        flat, at = self._flat(window, rows, columns)
        np.subtract.at(flat, at, amounts)
        return _clamp(flat, at)

    def _flat(self, window: int, rows: Indices, columns: Indices) -> tuple[npt.NDArray[np.int64], Indices]:
        return self.counts[window].reshape(-1), rows * self.counts.shape[2] + columns


class BinMatrix:
    """[windows x series x bins] of one figure. Only the span of bins that some series has used is there.

    32 bits: a bin of a 30-day window overflows at 800 probes a second of one endpoint.
    """

    def __init__(self, windows: int, scale: Scale) -> None:
        self._scale = scale
        self._first = 0
        self.counts = np.zeros((windows, FIRST_CAPACITY, 0), dtype=np.int32)

    def reserve(self, series: int) -> None:
        _, capacity, width = self.counts.shape
        if series > capacity:
            self._reshape(grown_capacity(capacity, series), self._first, width)

    def add(self, window: int, rows: Indices, bins: Indices, amounts: Indices) -> None:
        if rows.size:
            self._cover(int(bins.min()), int(bins.max()))
            flat, at = self._flat(window, rows, bins)
            np.add.at(flat, at, amounts.astype(np.int32))

    def subtract(self, window: int, rows: Indices, bins: Indices, amounts: Indices) -> int:
        """How many cells would have become negative and were set to 0."""
        if not rows.size:
            return 0
        self._cover(int(bins.min()), int(bins.max()))
        flat, at = self._flat(window, rows, bins)
        np.subtract.at(flat, at, amounts.astype(np.int32))
        return _clamp(flat, at)

    def cells(self, window: int, rows: slice) -> tuple[Indices, Indices, Indices]:
        """(row within `rows`, bin, count) of every bin that is not empty, in ascending order."""
        counts = self.counts[window, rows]
        owners, columns = np.nonzero(counts)
        return owners, columns + self._first, counts[owners, columns].astype(np.int64)

    def quantiles(self, window: int, rows: slice | Indices, quantiles: Sequence[float]) -> Values:
        """[rows x quantiles]; nan where a series has no samples."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.counts.shape[1])
            parts: list[slice | Indices] = [
                slice(at, min(at + _ROWS_AT_ONCE, stop)) for at in range(start, stop, _ROWS_AT_ONCE)
            ]
        else:
            parts = [rows[at : at + _ROWS_AT_ONCE] for at in range(0, len(rows), _ROWS_AT_ONCE)]
        found = [quantiles_of_rows(self._scale, self.counts[window, part], self._first, quantiles) for part in parts]
        return np.concatenate(found) if found else np.empty((0, len(quantiles)))

    def pooled_quantiles(self, window: int, rows: Indices, quantiles: Sequence[float]) -> Values:
        """[quantiles] of all `rows` together."""
        pooled = self.counts[window, rows].sum(axis=0, dtype=np.int64)[None, :]
        values: Values = quantiles_of_rows(self._scale, pooled, self._first, quantiles)[0]
        return values

    def _flat(self, window: int, rows: Indices, bins: Indices) -> tuple[npt.NDArray[np.int32], Indices]:
        return self.counts[window].reshape(-1), rows * self.counts.shape[2] + (bins - self._first)

    def _cover(self, lowest: int, highest: int) -> None:
        _, capacity, width = self.counts.shape
        if width and self._first <= lowest and highest < self._first + width:
            return
        first = lowest // _COVER_STEP * _COVER_STEP
        last = highest // _COVER_STEP * _COVER_STEP + _COVER_STEP
        if width:
            first = min(first, self._first)
            last = max(last, self._first + width)
        self._reshape(capacity, first, min(last, self._scale.bins) - first)

    def _reshape(self, capacity: int, first: int, width: int) -> None:
        windows, old_capacity, old_width = self.counts.shape
        counts = np.zeros((windows, capacity, width), dtype=np.int32)
        offset = self._first - first if old_width else 0
        counts[:, :old_capacity, offset : offset + old_width] = self.counts
        self.counts = counts
        self._first = first


def _clamp(flat: npt.NDArray[np.int32] | npt.NDArray[np.int64], at: Indices) -> int:
    below = np.unique(at[flat[at] < 0])
    flat[below] = 0
    return int(below.size)
