"""Log-bucket sketches: counts per bin of 2 % width, mergeable by addition, that answer any quantile within 1 %.

Bin i of a scale holds values in [low * 1.02^i, low * 1.02^(i+1)); values beyond the scale's ends fall into the end
bins. Quantiles are nearest rank (the smallest value with at least q of the samples at or below it). Counts are Python
or 64-bit integers: none overflows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
_LOG_WIDTH = math.log(1.02)


@dataclass(frozen=True, slots=True)
class Scale:
    """The range a figure is kept over, in the figure's own unit."""

    low: float
    high: float

    @property
    def bins(self) -> int:
        return math.ceil(math.log(self.high / self.low) / _LOG_WIDTH)

    def bin_of(self, value: float) -> int:
        if value <= self.low:
            return 0
        return min(int(math.log(value / self.low) / _LOG_WIDTH), self.bins - 1)

    def value_of(self, bin_: int) -> float:
        """The bin's geometric middle: within 1 % of anything in it."""
        return self.low * math.exp((bin_ + 0.5) * _LOG_WIDTH)


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
    # 1e-9: 0.9 * 10 is 9.000000000000002 in binary, and must not become rank 10 of 10.
    return min(max(math.ceil(quantile * samples - 1e-9), 1), samples)


def quantile_of(scale: Scale, counts: Counts, quantile: float) -> float | None:
    """The quantile of a dense row of bin counts; None if it is empty."""
    cumulated = np.cumsum(counts)
    samples = int(cumulated[-1])
    if samples == 0:
        return None
    return scale.value_of(int(np.searchsorted(cumulated, rank_of(quantile, samples))))


def quantile_of_values(ordered: Sequence[float], quantile: float) -> float | None:
    """The exact quantile of values in ascending order; None if there are none."""
    if not ordered:
        return None
    return ordered[rank_of(quantile, len(ordered)) - 1]


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
