from __future__ import annotations

import math
import resource
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from health_stage import NOW, figures_of, probe
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.health.dense import BinMatrix, CountMatrix
from monitor.health.rows import TallyRows, joined, rows_of
from monitor.health.sketch import (
    FIGURES,
    SECONDS,
    TOKENS_PER_SECOND,
    Scale,
    decode,
    decode_many,
    encode,
    quantile_of,
    quantile_of_values,
    quantiles_of_rows,
    rank_of,
)
from monitor.health.tally import as_outcomes, figure_values, merged, tally_of
from monitor.outcome import Outcome

scales = st.sampled_from([SECONDS, TOKENS_PER_SECOND])
bin_counts = st.dictionaries(st.integers(0, 900), st.integers(1, 10**9), max_size=30)
quantiles = st.floats(0.001, 0.999)


@given(scales, st.floats(0, 1))
def test_every_value_in_range_is_told_within_one_percent(scale: Scale, where: float) -> None:
    value = scale.low * (scale.high / scale.low) ** where
    assert scale.value_of(scale.bin_of(value)) == pytest.approx(value, rel=0.01)


@given(scales, st.floats(0, 1e12))
def test_values_beyond_the_range_fall_into_the_end_bins(scale: Scale, value: float) -> None:
    assert 0 <= scale.bin_of(value) < scale.bins
    if value <= scale.low:
        assert scale.bin_of(value) == 0
    if value >= scale.high * 1.02:
        assert scale.bin_of(value) == scale.bins - 1


@given(scales, st.floats(1e-5, 1e6), st.floats(1e-5, 1e6))
def test_a_greater_value_never_has_a_lower_bin(scale: Scale, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert scale.bin_of(low) <= scale.bin_of(high)


@given(bin_counts)
def test_a_sketch_comes_back_as_it_was_written(counts: dict[int, int]) -> None:
    assert decode(encode(counts)) == counts


@given(st.lists(bin_counts, max_size=8))
def test_many_sketches_are_read_in_one_pass_as_one_by_one(sketches: list[dict[int, int]]) -> None:
    owners, bins, counts = decode_many([encode(one) for one in sketches])
    found: list[dict[int, int]] = [{} for _ in sketches]
    for owner, bin_, count in zip(owners.tolist(), bins.tolist(), counts.tolist(), strict=True):
        found[owner][bin_] = count
    assert found == sketches


@given(bin_counts, bin_counts, bin_counts)
def test_merging_is_addition_in_any_order(a: dict[int, int], b: dict[int, int], c: dict[int, int]) -> None:
    def merge(*blobs: bytes) -> bytes:
        whole: Counter[int] = Counter()
        for blob in blobs:
            whole.update(decode(blob))
        return encode(whole)

    one, two, three = encode(a), encode(b), encode(c)
    assert merge(merge(one, two), three) == merge(one, merge(three, two)) == merge(three, one, two)
    assert merge(one, b"") == one


@given(st.binary(max_size=40))
def test_a_spoiled_sketch_is_refused_or_read_but_never_crashes(blob: bytes) -> None:
    try:
        found = decode(blob)
    except ValueError:
        return
    assert all(bin_ >= 0 for bin_ in found)


def test_a_cut_sketch_is_refused() -> None:
    blob = encode({5: 300})
    with pytest.raises(ValueError, match="cut short"):
        decode(blob[:-1])
    with pytest.raises(ValueError, match="whole pairs"):
        decode_many([blob[:1], blob[1:]])
    with pytest.raises(ValueError, match="nine bytes"):
        decode(b"\xff" * 9 + b"\x01" + b"\x01")


@given(quantiles, st.integers(1, 10**6))
def test_a_rank_is_the_smallest_with_at_least_q_of_the_samples(quantile: float, samples: int) -> None:
    rank = rank_of(quantile, samples)
    assert 1 <= rank <= samples
    assert rank >= quantile * samples - 1e-6
    assert rank == 1 or rank - 1 < quantile * samples


def test_a_rank_is_not_moved_by_binary_fractions() -> None:
    assert rank_of(0.07, 100) == 7
    assert rank_of(0.55, 100) == 55
    assert rank_of(0.99, 100) == 99
    assert rank_of(0.5, 1) == 1


@given(scales, st.lists(st.floats(0, 1), min_size=1, max_size=60), quantiles)
def test_a_sketched_quantile_is_within_one_percent_of_the_exact_one(
    scale: Scale, wheres: list[float], quantile: float
) -> None:
    values = sorted(scale.low * (scale.high / scale.low) ** where for where in wheres)
    counts = np.bincount([scale.bin_of(value) for value in values], minlength=scale.bins)
    assert quantile_of(scale, counts, quantile) == pytest.approx(quantile_of_values(values, quantile), rel=0.01)


def test_nothing_has_no_quantile() -> None:
    assert quantile_of(SECONDS, np.zeros(SECONDS.bins, dtype=np.int64), 0.5) is None
    assert quantile_of_values([], 0.5) is None


@given(st.lists(st.dictionaries(st.integers(0, 20), st.integers(1, 1000), max_size=6), max_size=6), quantiles)
def test_rows_answer_together_what_each_answers_alone(rows: list[dict[int, int]], quantile: float) -> None:
    matrix = np.zeros((len(rows), 21), dtype=np.int32)
    for row, counts in enumerate(rows):
        for bin_, count in counts.items():
            matrix[row, bin_] = count
    together = quantiles_of_rows(SECONDS, matrix, 100, (quantile, 0.5))
    assert together.shape == (len(rows), 2)
    for row, found in zip(matrix, together[:, 0].tolist(), strict=True):
        alone = quantile_of(SECONDS, np.concatenate((np.zeros(100, dtype=np.int64), row)), quantile)
        assert math.isnan(found) if alone is None else found == pytest.approx(alone, rel=1e-12)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, SECONDS.bins - 1), st.integers(1, 5)), min_size=1, max_size=60
    )
)
def test_a_matrix_grows_over_series_and_bins_and_loses_nothing(cells: list[tuple[int, int, int]]) -> None:
    matrix = BinMatrix(2, SECONDS)
    plain = np.zeros((201, SECONDS.bins), dtype=np.int64)
    for row, bin_, amount in cells:
        matrix.reserve(row + 1)
        matrix.add(1, np.array([row]), np.array([bin_]), np.array([amount]))
        plain[row, bin_] += amount
    matrix.reserve(201)
    found = matrix.quantiles(1, slice(0, 201), (0.3, 0.9))
    expected = quantiles_of_rows(SECONDS, plain, 0, (0.3, 0.9))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(matrix.quantiles(1, np.array([200, 0]), (0.5,)), found_at(plain, [200, 0]))
    assert np.isnan(matrix.quantiles(0, slice(0, 201), (0.5,))).all()
    rows, bins, amounts = (np.array(column) for column in zip(*cells, strict=True))
    assert matrix.subtract(1, rows, bins, amounts) == 0
    assert np.isnan(matrix.quantiles(1, slice(0, 201), (0.5,))).all()


def test_a_figure_that_nobody_has_had_yet_moves_nothing() -> None:
    """To lay 10,000 series out anew would keep the loop for 100 ms, whenever somebody is slower than anybody before."""
    matrix = BinMatrix(2, SECONDS)
    matrix.reserve(1000)
    counts = matrix.counts
    for bin_ in (400, 0, SECONDS.bins - 1):
        matrix.add(0, np.array([999]), np.array([bin_]), np.array([1]))
    assert matrix.counts is counts
    rows, bins, amounts = matrix.cells(0, slice(998, 1000))
    assert (rows.tolist(), bins.tolist(), amounts.tolist()) == ([1] * 3, [0, 400, SECONDS.bins - 1], [1] * 3)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what is there of a mapping")
def test_who_has_no_figures_costs_no_memory_when_they_are_asked_for() -> None:
    matrix = BinMatrix(1, SECONDS)
    matrix.reserve(16_000)
    for bin_ in (0, SECONDS.bins - 1):
        matrix.add(0, np.array([15_999]), np.array([bin_]), np.array([1]))
    before = resident_bytes()
    assert np.isnan(matrix.quantiles(0, np.arange(15_000), (0.5,))).all()
    assert resident_bytes() - before < matrix.counts.nbytes // 4


def resident_bytes() -> int:
    """The process's, by the pages it has; what it has read and never written to is nowhere counted."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def found_at(plain: np.ndarray[tuple[int, int], np.dtype[np.int64]], rows: list[int]) -> object:
    return quantiles_of_rows(SECONDS, plain[rows], 0, (0.5,))


def test_a_count_never_falls_below_zero() -> None:
    counts = CountMatrix(1, 4)
    row, column = np.array([0, 0]), np.array([2, 2])
    counts.add(0, row[:1], column[:1], np.array([1]))
    assert counts.subtract(0, row, column, np.array([1, 1])) == 1
    assert counts.counts[0, 0].tolist() == [0, 0, 0, 0]
    bins = BinMatrix(1, SECONDS)
    assert bins.subtract(0, row, column, np.array([1, 1])) == 1


def test_only_successes_have_a_latency_and_a_cut_reasoner_has_a_first_token() -> None:
    figures = figures_of(1.0)
    assert figure_values(probe(NOW, **figures)) == figures
    assert figure_values(probe(NOW, Outcome.REASONING_CUT, **figures)) == {"ttft_seconds": figures["ttft_seconds"]}
    assert figure_values(probe(NOW, Outcome.TIMEOUT_IDLE, **figures)) == {}
    assert figure_values(probe(NOW)) == {}


def test_a_recheck_is_never_tallied() -> None:
    assert tally_of([probe(NOW), probe(NOW + 3, recheck=1), probe(NOW + 60)]).total == 2


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(Outcome)), st.floats(0.001, 100), st.sampled_from([None, False, True]), st.booleans()
        ),
        max_size=20,
    )
)
def test_tallies_of_parts_merge_to_the_tally_of_the_whole(rows: list[tuple[Outcome, float, bool | None, bool]]) -> None:
    observations = [
        probe(NOW + number, outcome, answer_ok=answer, cost_usd=0.25, output_tokens=3, **figures_of(value))
        for number, (outcome, value, answer, _) in enumerate(rows)
    ]
    parts = [[one for one, row in zip(observations, rows, strict=True) if row[3] is chosen] for chosen in (True, False)]
    whole, pieces = tally_of(observations), merged(tally_of(part) for part in parts)
    assert whole == pieces
    columns = rows_of([(0, "e", "l", "chat", whole)])
    assert as_outcomes(columns.counts[0]) == whole.outcomes
    assert {name: decode(columns.sketches[name][0]) for name in FIGURES} == whole.sketches
    assert len(columns.part(0, 1)) == 1
    assert len(columns.part(1, 5)) == 0
    twice = joined([columns, TallyRows(), columns])
    assert len(twice) == 2
    assert twice.part(1, 2) == columns
    assert joined([replace(columns, sketches={})]).sketches == {name: [b""] for name in FIGURES}
