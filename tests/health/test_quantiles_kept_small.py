"""Quantiles of a window are a mapping of mappings, kept as one row of bytes."""

from __future__ import annotations

import gc
import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.health.quantiles import Quantiles, picker, quantiles_of_series
from monitor.health.view import WindowFigures

WANTED = (("ttft_seconds", (0.5, 0.9)), ("output_tokens_per_second", (0.5, 0.1, 0.01)))
VALUES = st.floats(0.0, 1e9)
SERIES = st.tuples(
    st.one_of(st.none(), st.tuples(VALUES, VALUES)), st.one_of(st.none(), st.tuples(VALUES, VALUES, VALUES))
)


@given(st.lists(SERIES, min_size=1, max_size=5))
def test_every_series_has_its_own_figures_and_lacks_those_without_samples(series) -> None:
    values = [
        np.array([each[place] or (np.nan,) * len(quantiles) for each in series])
        for place, (_, quantiles) in enumerate(WANTED)
    ]
    expected = [
        {
            figure: dict(zip(quantiles, found, strict=True))
            for (figure, quantiles), found in zip(WANTED, each, strict=True)
            if found is not None
        }
        for each in series
    ]
    found = quantiles_of_series(WANTED, values)
    assert [{figure: dict(each[figure]) for figure in each} for each in found] == expected
    assert found == expected
    assert [Quantiles.of(each) for each in expected] == found


def test_what_is_not_there_is_told_as_a_mapping_tells_it() -> None:
    one = Quantiles.of({"ttft_seconds": {0.5: 1.0}})
    assert one.get("latency_seconds") is None
    assert one.get("ttft_seconds", {}).get(0.5) == 1.0
    assert "latency_seconds" not in one
    assert len(one) == 1
    assert one != Quantiles.of({"ttft_seconds": {0.5: 2.0}})
    assert pickle.loads(pickle.dumps(one)) == one


@given(st.lists(st.integers(0, 9), max_size=4))
def test_however_few_values_are_taken_out_of_a_row_they_come_in_the_order_asked_for(places: list[int]) -> None:
    assert picker(places)(tuple(map(float, range(10)))) == tuple(map(float, places))


def test_a_row_of_values_lies_as_its_layout_says() -> None:
    one = Quantiles.of({"ttft_seconds": {0.5: 1.0, 0.9: 2.0}, "latency_seconds": {0.5: 3.0}})
    assert one.in_a_row == (1.0, 2.0, 3.0)
    assert one.layout.places == {"ttft_seconds": ((0.5, 0.9), 0), "latency_seconds": ((0.5,), 2)}
    assert Quantiles.of(one) is one


def test_the_figures_of_a_window_are_no_business_of_the_garbage_collector() -> None:
    figures = WindowFigures(1, 1, 1, 1, 1.0, 1.0, 0.0, 1.0)
    assert not gc.is_tracked(figures)
    assert not gc.is_tracked({"5m": figures})
