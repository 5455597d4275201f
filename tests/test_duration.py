from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.duration import duration_text, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("0.5ms", 0.0005),
        ("60s", 60.0),
        ("1.5h", 5400.0),
        ("5 m", 300.0),
        ("0.1d", 8640.0),
        ("30d", 2_592_000.0),
        ("0s", 0.0),
        (" 7d ", 604_800.0),
    ],
)
def test_a_number_and_a_unit_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "60", "s", "-5s", "+5s", "1h30m", "5 minutes", "1e3s", ".5s", "5.s", "٥s", "5S", "inf s", "9" * 19 + "s"],
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write a number and ms, s, m, h or d, for example 60s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250ms"),
        (1, "1s"),
        (90, "90s"),
        (3600, "1h"),
        (86_400, "1d"),
        (5400, "90m"),
        (0, "0s"),
        (0.0005, "0.0005s"),
    ],
)
def test_the_largest_whole_unit_is_written(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(0, 10**14))
def test_whole_milliseconds_survive_a_round_trip(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]), st.integers(0, 999))
def test_what_was_read_is_written_so_that_it_reads_the_same(whole: int, unit: str, fraction: int) -> None:
    seconds = parse_duration(f"{whole}.{fraction:03}{unit}")
    assert parse_duration(duration_text(seconds)) == seconds


@given(st.text(max_size=20))
def test_no_text_ends_in_another_exception(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) >= 0
