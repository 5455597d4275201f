"""Query parameters, read strictly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.clock import utc_text
from monitor.web.errors import BadRequest
from monitor.web.query import Query

NOW = 1_700_000_000.0


def test_what_is_left_out_or_left_empty_has_its_default() -> None:
    for text in ("", "since=&location="):
        query = Query(text, ("since", "until", "limit", "location"))
        assert query.number("limit", 7, 1, 9) == 7
        assert query.choice("location", ("fra",)) is None
        assert query.span(NOW, 60.0) == (NOW - 60.0, NOW)


def test_since_without_until_counts_from_now_and_until_without_since_from_itself() -> None:
    assert Query("since=1h", ("since", "until")).span(NOW, 60.0) == (NOW - 3600, NOW)
    assert Query("until=1h", ("since", "until")).span(NOW, 60.0) == (NOW - 3660, NOW - 3600)


@pytest.mark.parametrize(
    "text", ["9" * 400 + "d", "1" * 12 + "d", "inf", "nan", "1e3s", "٣h", "2023-W46-2", "0000-01-01T00:00:00Z", "+1h"]
)
def test_a_time_beyond_reason_is_refused_or_harmless(text: str) -> None:
    try:
        at = Query(f"since={text}", ("since",)).instant("since", NOW, NOW)
    except BadRequest:
        return
    assert 0 <= at < NOW


@pytest.mark.parametrize("text", ["٣", "1_0", " 5", "5.0", "0x5", "1e1", "５", "-0", "+5", ""])
def test_only_plain_digits_are_a_number(text: str) -> None:
    with pytest.raises(BadRequest, match="is not a whole number from 1 to 10"):
        Query(f"limit={text.replace('+', '%2B')}", ("limit",)).number("limit", 5, 1, 10)


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(BadRequest):
        Query("&".join(f"a{n}=1" for n in range(1000)), ("a1",))


def test_a_route_without_parameters_says_so() -> None:
    with pytest.raises(BadRequest, match="unknown parameter 'x': this route takes none"):
        Query("x=1", ())


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000_000))
def test_a_time_that_we_write_is_a_time_that_we_read(milliseconds: int) -> None:
    written = utc_text(milliseconds / 1000)
    assert Query(f"since={written}", ("since",)).instant("since", NOW, NOW) == pytest.approx(milliseconds / 1000)
