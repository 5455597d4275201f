"""One picture of an endpoint that several locations watch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from monitor.catalog.model import Endpoint
from monitor.health.state import State
from monitor.health.view import EndpointView, Vantage, WindowFigures
from monitor.outcome import Outcome
from monitor.routing.pooling import pooled_state, pooled_view

ENDPOINT = Endpoint("a/b", "acme", "", "openai-chat", "https://acme.example/v1", "b", 60.0)
FIGURES = WindowFigures(10, 9, 10, 10, 0.9, 1.0, 0.0, 1.0)


def view(location: str, state: State = State.OPERATIONAL, **changes: Any) -> EndpointView:
    known = EndpointView(
        endpoint=ENDPOINT,
        location=location,
        state=state,
        cause=None,
        state_since=100.0,
        usable=True,
        interval_seconds=60.0,
        last_probe_at=1000.0,
        last_success_at=None,
        windows={"5m": FIGURES, "30m": FIGURES},
        probes_total={Outcome.SUCCESS: 2},
        cost_usd_total=0.5,
    )
    return replace(known, **changes)


def no_pool(endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
    raise AssertionError("one location needs no pooling")


def test_what_holds_now_is_told_by_those_that_still_watch_and_figures_by_all() -> None:
    retired = view("local", State.UNKNOWN, usable=False, interval_seconds=5.0, is_watched=False)
    here = view("fra", State.OPERATIONAL)
    asked = []

    def pool(endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
        asked.append((list(endpoints), location, window))
        return FIGURES

    found = pooled_view([retired, here], pool)
    assert (found.state, found.usable, found.interval_seconds) == (State.OPERATIONAL, True, 60.0)
    assert found.is_watched
    assert asked == [(["a/b@acme"], None, "5m"), (["a/b@acme"], None, "30m")]
    blocked = replace(here, usable=False, unusable_cause="auth")
    assert pooled_view([replace(retired, usable=True), blocked], pool).unusable_cause == "auth"


def test_a_single_location_is_handed_through_as_the_same_object() -> None:
    only = view("fra")
    assert pooled_view([only], no_pool) is only


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.OPERATIONAL, State.OPERATIONAL], State.OPERATIONAL),
        ([State.DOWN, State.DOWN], State.DOWN),
        ([State.DOWN, State.OPERATIONAL], State.DEGRADED),
        ([State.DOWN, State.DEGRADED], State.DEGRADED),
        ([State.DEGRADED, State.OPERATIONAL], State.DEGRADED),
        ([State.UNKNOWN, State.OPERATIONAL], State.OPERATIONAL),
        ([State.UNKNOWN, State.DOWN], State.DOWN),
        ([State.UNKNOWN, State.UNKNOWN], State.UNKNOWN),
        ([], State.UNKNOWN),
    ],
)
def test_states_that_differ_make_degraded_and_those_that_know_nothing_have_no_say(
    states: list[State], expected: State
) -> None:
    assert all(pooled_state(order) is expected for order in permutations(states))


@settings(deadline=None)
@given(st.lists(st.sampled_from(State), min_size=1, max_size=6))
def test_down_needs_every_location_that_knows(states: list[State]) -> None:
    known = [state for state in states if state is not State.UNKNOWN]
    assert (pooled_state(states) is State.DOWN) == (bool(known) and all(state is State.DOWN for state in known))


def pooled(*views: EndpointView) -> EndpointView:
    return pooled_view(views, lambda endpoints, location, window: FIGURES)


def test_down_here_and_up_there_is_partial_and_says_where() -> None:
    found = pooled(
        view("fra"),
        view("iad", State.DEGRADED, cause="throttled", state_since=5.0),
        view("sin", State.DOWN, cause="reset", state_since=7.0, detail="RST"),
        view("syd", State.DOWN, cause="connect", state_since=6.0),
    )
    assert (found.state, found.cause, found.state_since) == (State.DEGRADED, "partial", 6.0)
    assert found.detail == "down at sin (reset), syd (connect), up at fra, iad"
    assert found.places == {"fra": "operational", "iad": "degraded", "sin": "down", "syd": "down"}
    assert (found.location, found.vantage) == ("", Vantage.SOUND)


def test_where_they_agree_or_nobody_says_down_the_cause_is_that_of_the_worst() -> None:
    down = [view("fra", State.DOWN, cause="reset", detail="RST"), view("iad", State.DOWN, cause="connect")]
    assert (pooled(*down).state, pooled(*down).cause, pooled(*down).detail) == (State.DOWN, "reset", "RST")
    slow = pooled(view("fra"), view("iad", State.DEGRADED, cause="throttled", state_since=5.0))
    assert (slow.state, slow.cause, slow.state_since) == (State.DEGRADED, "throttled", 5.0)
    half = pooled(view("fra", State.UNKNOWN), view("iad", State.DOWN, cause="connect"))
    assert (half.state, half.cause) == (State.DOWN, "connect")


def test_of_fifty_locations_eight_are_named_and_all_are_counted() -> None:
    found = pooled(*[view(f"l{n}") for n in range(40)], *[view(f"m{n}", State.DOWN) for n in range(10)])
    assert found.detail is not None
    assert found.detail.startswith("down at m0, m1, m2, m3, m4, m5, m6, m7 and 2 more, up at l0, ")
    assert found.detail.endswith("l7 and 32 more")
    assert Counter(found.places.values()) == {"operational": 40, "down": 10}


def test_a_stale_location_has_no_say_in_what_holds_now_and_keeps_its_counts() -> None:
    gone = view("fra", State.DOWN, cause="connect", vantage=Vantage.STALE, usable=False, interval_seconds=1.0)
    found = pooled(gone, view("iad"))
    assert (found.state, found.cause, found.interval_seconds) == (State.OPERATIONAL, None, 60.0)
    assert found.places == {"iad": "operational"}
    assert found.probes_total[Outcome.SUCCESS] == 4
    assert pooled(gone, replace(gone, location="iad")).state is State.DOWN, "the last word, where nobody has a newer"


def test_a_suspect_locations_bad_word_is_left_out_and_its_good_word_counts() -> None:
    suspect = view("fra", State.DOWN, cause="connect", vantage=Vantage.SUSPECT)
    found = pooled(suspect, view("iad"), view("sin"))
    assert (found.state, found.cause, found.vantage) == (State.OPERATIONAL, None, Vantage.SUSPECT)
    assert found.places["fra"] == "down"
    well = view("fra", vantage=Vantage.SUSPECT)
    half = pooled(well, view("iad", State.DOWN, cause="reset"))
    assert (half.cause, half.detail, half.vantage) == ("partial", "down at iad (reset), up at fra", Vantage.SOUND)
    throttled = view("fra", State.DEGRADED, cause="throttled", vantage=Vantage.SUSPECT)
    assert pooled(throttled, view("iad")).cause == "throttled", "who throttles was reached"


def test_what_only_a_suspect_location_watches_is_unknown_and_not_down() -> None:
    suspect = view("fra", State.DOWN, cause="connect", vantage=Vantage.SUSPECT, detail="refused")
    for found in (pooled(suspect), pooled(suspect, view("iad", State.UNKNOWN, is_watched=False))):
        assert (found.state, found.cause, found.detail, found.state_since) == (State.UNKNOWN, None, None, None)
        assert (found.location, found.vantage) == ("", Vantage.SUSPECT)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(State), st.sampled_from(Vantage)), min_size=2, max_size=6))
def test_a_provider_is_down_if_every_location_that_is_to_be_believed_says_so(told: list[tuple[State, Vantage]]) -> None:
    found = pooled(*[view(f"l{n}", state, cause="reset", vantage=vantage) for n, (state, vantage) in enumerate(told)])
    present = [each for each in told if each[1] is not Vantage.STALE] or told
    bad = (State.DOWN, State.DEGRADED)
    believed = [state for state, vantage in present if not (vantage is Vantage.SUSPECT and state in bad)]
    assert found.state is pooled_state(believed)
    assert (found.cause == "partial") == (
        State.DOWN in believed and bool({State.OPERATIONAL, State.DEGRADED} & {*believed})
    )
    assert len(found.places) == len(present)


def test_a_request_that_is_refused_everywhere_is_the_cause_though_no_state_is_known() -> None:
    views = [view("fra", State.UNKNOWN), view("iad", State.UNKNOWN, cause="unknown_model", detail="404")]
    found = pooled(*views)
    assert (found.state, found.cause, found.detail) == (State.UNKNOWN, "unknown_model", "404")


def test_usable_from_anywhere_is_usable_and_else_the_cause_is_told() -> None:
    unusable = view("fra", usable=False, unusable_cause="auth")
    either = pooled(unusable, view("iad"))
    assert (either.usable, either.unusable_cause) == (True, None)
    neither = pooled(unusable, replace(unusable, location="iad"))
    assert (neither.usable, neither.unusable_cause) == (False, "auth")


def test_stamps_are_the_latest_counters_are_summed_and_windows_are_asked_of_the_pool() -> None:
    asked: list[tuple[tuple[str, ...], str | None, str]] = []

    def pool(endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
        asked.append((tuple(endpoints), location, window))
        return FIGURES

    views = [
        view("fra", last_probe_at=None, last_success_at=3.0),
        view("iad", last_probe_at=9.0, interval_seconds=30.0, probes_total={Outcome.SUCCESS: 1, Outcome.DNS: 1}),
    ]
    found = pooled_view(views, pool)
    assert (found.last_probe_at, found.last_success_at, found.interval_seconds) == (9.0, 3.0, 30.0)
    assert found.probes_total == Counter({Outcome.SUCCESS: 3, Outcome.DNS: 1})
    assert found.cost_usd_total == 1.0
    assert asked == [(("a/b@acme",), None, "5m"), (("a/b@acme",), None, "30m")]
