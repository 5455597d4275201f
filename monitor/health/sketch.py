"""Log-bucket sketches: counts per bin of 2 % width, mergeable by addition, that answer any quantile within 1 %.

Bin i of a scale holds values in [low * 1.02^i, low * 1.02^(i+1)); values beyond the scale's ends fall into the end
bins. Quantiles are nearest rank (the smallest value with at least q of the samples at or below it). Counts are Python
or 64-bit integers: none overflows.
"""

from __future__ import annotations

import itertools
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

    def bins_of(self, values: Values) -> Counts:
        """`bin_of` each of many finite values, to the last one."""
        raw = np.log(np.maximum(values, self.low) / self.low) / _LOG_WIDTH
        bins = np.minimum(raw.astype(np.int64), self.bins - 1)
        # Where numpy's logarithm and Python's could fall into different bins, Python's decides.
        for place in np.flatnonzero(np.abs(raw - np.rint(raw)) < 1e-6).tolist():
            bins[place] = self.bin_of(float(values[place]))
        return bins

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
    # Nearly every number is below 128 and one byte long: the bytes that others follow are looked at apart.
    followed = np.flatnonzero(data >= 0x80)
    numbers = data[data < 0x80].astype(np.int64)
    if followed.size:
        if followed[-1] == data.size - 1:
            raise ValueError("sketch: the last number is cut short")
        _add_low_bytes(numbers, data, followed)
    ends = np.cumsum(np.fromiter(map(len, blobs), dtype=np.int64, count=len(blobs)))
    numbers_until = ends - np.searchsorted(followed, ends)
    if np.any(numbers_until % 2) or np.any(data[ends[ends > 0] - 1] >= 0x80):
        raise ValueError("sketch: a blob does not hold whole pairs")
    pairs_until = numbers_until // 2
    pairs_before = np.concatenate(([0], pairs_until[:-1]))
    pairs_each = pairs_until - pairs_before
    walked = np.cumsum(numbers[0::2])
    base = np.where(pairs_before > 0, walked[np.maximum(pairs_before - 1, 0)], 0)
    owner = np.repeat(np.arange(len(blobs)), pairs_each)
    return owner, walked - np.repeat(base, pairs_each), numbers[1::2]


def _add_low_bytes(numbers: Counts, data: npt.NDArray[np.uint8], followed: Counts) -> None:
    """Join to the last byte of each number the bytes that stand before it."""
    number_of = followed - np.arange(followed.size)  # as many numbers have ended before
    starts_one = np.concatenate(([True], number_of[1:] != number_of[:-1]))
    first = np.maximum.accumulate(np.where(starts_one, np.arange(followed.size), 0))
    place = np.arange(followed.size) - first
    if int(place.max()) > 7:
        raise ValueError("sketch: a number has more than nine bytes")
    lengths = np.diff(np.append(np.flatnonzero(starts_one), followed.size))
    numbers[number_of[starts_one]] <<= 7 * lengths
    np.add.at(numbers, number_of, (data[followed] & 0x7F).astype(np.int64) << (7 * place))


def encode_many(owners: Counts, bins: Counts, counts: Counts, many: int) -> list[bytes]:
    """What `encode` gives for each of `many` rows: (row, bin, count > 0) in ascending order of row and bin, each pair
    of row and bin once."""
    if not owners.size:
        return [b""] * many
    numbers = np.empty(2 * owners.size, dtype=np.int64)
    numbers[0::2] = bins
    numbers[2::2] -= np.where(owners[1:] == owners[:-1], bins[:-1], 0)
    numbers[1::2] = counts
    sizes = np.ones(numbers.size, dtype=np.int64)
    large = np.flatnonzero(numbers >= 0x80)
    rest = numbers[large] >> 7
    while np.any(rest):
        sizes[large] += rest > 0
        rest >>= 7
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    starts = ends - sizes
    out[starts] = numbers & 0x7F
    left = numbers[large]
    at = starts[large]
    while at.size:
        left = left >> 7
        goes_on = left > 0
        left, at = left[goes_on], at[goes_on]
        out[at] |= 0x80
        at = at + 1
        out[at] = left & 0x7F
    edges = np.searchsorted(owners, np.arange(many + 1))
    cuts = np.concatenate(([0], ends))[2 * edges].tolist()
    data = out.tobytes()
    return [data[start:stop] for start, stop in itertools.pairwise(cuts)]


def _put_varint(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
