"""Counts of many series at once, in numpy matrices that grow. For long windows; see `windows`."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.sketch import Counts, Scale, Values, quantiles_of_rows

Indices = npt.NDArray[np.int64]

# Series are added one at a time; 64 rows are what a small configuration needs.
FIRST_CAPACITY = 64
_GROWTH = 8  # by an eighth
# Bins that lie together: a series' figures are near each other, and nobody's latency lies under 1 ms.
_BLOCK = 64
# Rows worked on at once: their sums (64-bit) then stay within a processor's cache.
_ROWS_AT_ONCE = 1024


def grown_capacity(capacity: int, needed: int) -> int:
    while capacity < needed:
        capacity += max(capacity // _GROWTH, FIRST_CAPACITY)
    return capacity


def untouched(shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Zeros, of which the system gives what is written to, 4 KiB at a time. numpy asks for 2 MiB at a time: the first
    sixty probes of a new fleet then take 100 ms of the loop, and a third of the memory lies idle."""
    # Private: of shared memory, which is the default, the system also gives what is read.
    pages = mmap.mmap(-1, math.prod(shape) * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel that has none
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype=np.int32).reshape(shape)


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
    """[windows x blocks x series x bins of a block] of one figure. Blocks that no series has used are there and cost
    nothing, since the system gives memory to a page when it is written to. So nothing is laid out anew but for more
    series: with 10,000 of them that keeps the loop for 100 ms.

    32 bits: a bin of a 30-day window overflows at 800 probes a second of one endpoint.
    """

    def __init__(self, windows: int, scale: Scale) -> None:
        self._scale = scale
        self._begin = self._end = 0  # the blocks that are used
        self.counts = untouched((windows, -(-scale.bins // _BLOCK), FIRST_CAPACITY, _BLOCK))

    def reserve(self, series: int) -> None:
        windows, blocks, capacity, _ = self.counts.shape
        if series > capacity:
            counts = untouched((windows, blocks, grown_capacity(capacity, series), _BLOCK))
            counts[:, self._begin : self._end, :capacity] = self.counts[:, self._begin : self._end]
            self.counts = counts

    def add(self, window: int, rows: Indices, bins: Indices, amounts: Indices) -> None:
        if rows.size:
            flat, at = self._flat(window, rows, bins)
            np.add.at(flat, at, amounts.astype(np.int32))

    def subtract(self, window: int, rows: Indices, bins: Indices, amounts: Indices) -> int:
        """How many cells would have become negative and were set to 0."""
        if not rows.size:
            return 0
        flat, at = self._flat(window, rows, bins)
        np.subtract.at(flat, at, amounts.astype(np.int32))
        return _clamp(flat, at)

    def cells(self, window: int, rows: slice) -> tuple[Indices, Indices, Indices]:
        """(row within `rows`, bin, count) of every bin that is not empty, in ascending order."""
        counts = self._of(window, rows)
        owners, columns = np.nonzero(counts)
        return owners, columns + self._begin * _BLOCK, counts[owners, columns].astype(np.int64)

    def quantiles(self, window: int, rows: slice | Indices, quantiles: Sequence[float]) -> Values:
        """[rows x quantiles]; nan where a series has no samples."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.counts.shape[2])
            parts: list[slice | Indices] = [
                slice(at, min(at + _ROWS_AT_ONCE, stop)) for at in range(start, stop, _ROWS_AT_ONCE)
            ]
        else:
            parts = [rows[at : at + _ROWS_AT_ONCE] for at in range(0, len(rows), _ROWS_AT_ONCE)]
        found = [self._quantiles(self._of(window, part), quantiles) for part in parts]
        return np.concatenate(found) if found else np.empty((0, len(quantiles)))

    def pooled_quantiles(self, window: int, rows: Indices, quantiles: Sequence[float]) -> Values:
        """[quantiles] of all `rows` together."""
        pooled = self._of(window, rows).sum(axis=0, dtype=np.int64)[None, :]
        values: Values = self._quantiles(pooled, quantiles)[0]
        return values

    def _quantiles(self, counts: npt.NDArray[np.int32] | Counts, quantiles: Sequence[float]) -> Values:
        return quantiles_of_rows(self._scale, counts, self._begin * _BLOCK, quantiles)

    def _of(self, window: int, rows: slice | Indices) -> npt.NDArray[np.int32]:
        """[rows x bins of the blocks that are used]"""
        counts = self.counts[window, self._begin : self._end][:, rows]
        blocks, many, _ = counts.shape
        return counts.transpose(1, 0, 2).reshape(many, blocks * _BLOCK)

    def _flat(self, window: int, rows: Indices, bins: Indices) -> tuple[npt.NDArray[np.int32], Indices]:
        blocks = bins // _BLOCK
        begin, end = int(blocks.min()), int(blocks.max()) + 1
        used = self._end > self._begin
        self._begin, self._end = (min(begin, self._begin), max(end, self._end)) if used else (begin, end)
        return self.counts[window].reshape(-1), (blocks * self.counts.shape[2] + rows) * _BLOCK + bins % _BLOCK


def _clamp(flat: npt.NDArray[np.int32] | npt.NDArray[np.int64], at: Indices) -> int:
    below = np.unique(at[flat[at] < 0])
    flat[below] = 0
    return int(below.size)
