"""Log-bucket sketches: counts per bin of 2 % width, mergeable by addition, that answer any quantile within 1 %.

Bin i of a scale holds values in [low * 1.02^i, low * 1.02^(i+1)); values beyond the scale's ends fall into the end
bins. Quantiles are nearest rank (the smallest value with at least q of the samples at or below it). Counts are Python
or 64-bit integers: none overflows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
_LOG_WIDTH = math.log(1.02)


@dataclass(frozen=True, slots=True)
class Scale:
    """The range a figure is kept over, in the figure's own unit."""

    low: float
    high: float
    bins: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", math.ceil(math.log(self.high / self.low) / _LOG_WIDTH))

    def bin_of(self, value: float) -> int:
        """The bin of a finite value. Never by numpy's log: its last digit differs, and what one adds the other could
        not take away."""
        if value <= self.low:
            return 0
        bin_ = int(math.log(value / self.low) / _LOG_WIDTH)
        return bin_ if bin_ < self.bins else self.bins - 1

    def value_of(self, bin_: int) -> float:
        """The bin's geometric middle: within 1 % of anything in it."""
        return self.low * math.exp((bin_ + 0.5) * _LOG_WIDTH)

    def values(self) -> Values:
        """`value_of` every bin."""
        return np.array([self.value_of(bin_) for bin_ in range(self.bins)])


SECONDS = Scale(1e-4, 3600.0)
TOKENS_PER_SECOND = Scale(0.01, 100_000.0)

# The figures that are kept as distributions, with the observation's field of the same name.
FIGURES: Mapping[str, Scale] = {
    "ttft_seconds": SECONDS,
    "latency_seconds": SECONDS,
    "output_tokens_per_second": TOKENS_PER_SECOND,
    "throughput_tokens_per_second": TOKENS_PER_SECOND,
}


def rank_of(quantile: float, samples: int) -> int:
    """The nearest rank, 1-based: ceil(q * n), at least 1."""
    # 1e-9: 0.07 * 100 is 7.000000000000001 in binary, and must not become rank 8.
    return min(max(math.ceil(quantile * samples - 1e-9), 1), samples)


def quantile_of(scale: Scale, counts: Counts, quantile: float) -> float | None:
    """The quantile of a dense row of bin counts; None if it is empty."""
    cumulated = np.cumsum(counts)
    samples = int(cumulated[-1])
    if samples == 0:
        return None
    return scale.value_of(int(np.searchsorted(cumulated, rank_of(quantile, samples))))


def quantiles_of_rows(
    scale: Scale, counts: npt.NDArray[np.int32] | Counts, first_bin: int, quantiles: Sequence[float]
) -> Values:
    """[rows x quantiles] of a matrix of bin counts [rows x bins] whose first column is bin `first_bin`; nan in empty
    rows. The same answers as `quantile_of`, row by row."""
    rows, width = counts.shape
    if counts.size == 0:
        return np.full((rows, len(quantiles)), np.nan)
    # One running sum over all rows: a rank of row r lies at the sum before r plus the rank, found by bisection.
    running = np.cumsum(counts.reshape(-1), dtype=np.int64)
    ends = running[width - 1 :: width]
    before = np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1]))
    samples = (ends - before)[:, None]
    ranks = np.ceil(np.asarray(quantiles, dtype=np.float64)[None, :] * samples - 1e-9)
    ranks = np.minimum(np.maximum(ranks, 1), samples).astype(np.int64)
    at = np.searchsorted(running, before[:, None] + ranks)
    # An empty row's rank, 0, lies in a row before it.
    bins = np.clip(at - np.arange(rows)[:, None] * width, 0, width - 1) + first_bin
    return np.where(samples > 0, _values_of(scale)[bins], np.nan)


@cache
def _values_of(scale: Scale) -> Values:
    return scale.values()


def quantile_of_values(ordered: Sequence[float], quantile: float) -> float | None:
    """The exact quantile of values in ascending order; None if there are none."""
    if not ordered:
        return None
    return ordered[rank_of(quantile, len(ordered)) - 1]


def value_at(scale: Scale, counts: Mapping[int, int], rank: int) -> float:
    """The value of a rank (1-based) in a sparse row. ValueError if it has fewer samples."""
    for bin_ in sorted(counts):
        rank -= counts[bin_]
        if rank <= 0:
            return scale.value_of(bin_)
    raise ValueError("rank beyond the samples")


def encode(counts: Mapping[int, int]) -> bytes:
    """Bins in ascending order as varint pairs (distance from the bin before, count): 4 to 5 bytes a sample spread."""
    out = bytearray()
    previous = 0
    for bin_ in sorted(counts):
        if counts[bin_] > 0:
            _put_varint(out, bin_ - previous)
            _put_varint(out, counts[bin_])
            previous = bin_
    return bytes(out)


def decode(blob: bytes) -> dict[int, int]:
    """What `encode` was given, without its empty bins. ValueError if the blob is not one of its own."""
    _, bins, counts = decode_many([blob])
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))


def decode_many(blobs: Sequence[bytes]) -> tuple[Counts, Counts, Counts]:
    """Many blobs in one pass: three arrays of equal length, (index of the blob, bin, count) for each full bin."""
    data = np.frombuffer(b"".join(blobs), dtype=np.uint8)
    none = np.zeros(0, dtype=np.int64)
    if data.size == 0:
        return none, none, none
    is_last = data < 0x80
    if not is_last[-1]:
        raise ValueError("sketch: the last number is cut short")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if int((ends - starts).max()) > 8:
        raise ValueError("sketch: a number has more than nine bytes")
    place = np.arange(data.size) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((data & 0x7F).astype(np.int64) << (7 * place), starts)

    bytes_before = np.concatenate(([0], np.cumsum([len(blob) for blob in blobs])))
    numbers_before = np.searchsorted(ends, bytes_before - 1, side="right")
    numbers_before[0] = 0
    numbers_each = np.diff(numbers_before)
    if np.any(numbers_each % 2) or not np.all(is_last[bytes_before[1:][bytes_before[1:] > 0] - 1]):
        raise ValueError("sketch: a blob does not hold whole pairs")
    distances, counts = numbers[0::2], numbers[1::2]
    owner = np.repeat(np.arange(len(blobs)), numbers_each // 2)
    walked = np.cumsum(distances)
    pairs_before = numbers_before[:-1] // 2
    base = np.where(pairs_before > 0, walked[np.maximum(pairs_before - 1, 0)], 0)
    return owner, walked - base[owner], counts


def _put_varint(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
