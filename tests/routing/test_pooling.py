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
from monitor.health.view import EndpointView, WindowFigures
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

    pooled = pooled_view([retired, here], pool)
    assert (pooled.state, pooled.usable, pooled.interval_seconds) == (State.OPERATIONAL, True, 60.0)
    assert pooled.is_watched
    assert asked == [(["a/b@acme"], None, "5m"), (["a/b@acme"], None, "30m")]
    blocked = replace(here, usable=False, unusable_cause="auth")
    assert pooled_view([replace(retired, usable=True), blocked], pool).unusable_cause == "auth"


def test_a_single_location_is_handed_through_as_the_same_object() -> None:
    only = view("fra")
    assert pooled_view([only], no_pool) is only


@pytest.mark.parametrize(
    ("states", "pooled"),
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
    states: list[State], pooled: State
) -> None:
    assert all(pooled_state(order) is pooled for order in permutations(states))


@settings(deadline=None)
@given(st.lists(st.sampled_from(State), min_size=1, max_size=6))
def test_down_needs_every_location_that_knows(states: list[State]) -> None:
    known = [state for state in states if state is not State.UNKNOWN]
    assert (pooled_state(states) is State.DOWN) == (bool(known) and all(state is State.DOWN for state in known))


def test_the_cause_is_that_of_the_worst_location() -> None:
    views = [
        view("fra"),
        view("iad", State.DEGRADED, cause="throttled", state_since=5.0),
        view("sin", State.DOWN, cause="reset", state_since=7.0, detail="RST"),
    ]
    pooled = pooled_view(views, lambda endpoints, location, window: FIGURES)
    assert (pooled.state, pooled.cause, pooled.state_since, pooled.detail) == (State.DEGRADED, "reset", 7.0, "RST")
    assert pooled.location == ""


def test_a_request_that_is_refused_everywhere_is_the_cause_though_no_state_is_known() -> None:
    views = [view("fra", State.UNKNOWN), view("iad", State.UNKNOWN, cause="unknown_model", detail="404")]
    pooled = pooled_view(views, lambda *args: FIGURES)
    assert (pooled.state, pooled.cause, pooled.detail) == (State.UNKNOWN, "unknown_model", "404")


def test_usable_from_anywhere_is_usable_and_else_the_cause_is_told() -> None:
    unusable = view("fra", usable=False, unusable_cause="auth")
    pooled = pooled_view([unusable, view("iad")], lambda *args: FIGURES)
    assert (pooled.usable, pooled.unusable_cause) == (True, None)
    pooled = pooled_view([unusable, replace(unusable, location="iad")], lambda *args: FIGURES)
    assert (pooled.usable, pooled.unusable_cause) == (False, "auth")


def test_stamps_are_the_latest_counters_are_summed_and_windows_are_asked_of_the_pool() -> None:
    asked: list[tuple[tuple[str, ...], str | None, str]] = []

    def pool(endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
        asked.append((tuple(endpoints), location, window))
        return FIGURES

    views = [
        view("fra", last_probe_at=None, last_success_at=3.0),
        view("iad", last_probe_at=9.0, interval_seconds=30.0, probes_total={Outcome.SUCCESS: 1, Outcome.DNS: 1}),
    ]
    pooled = pooled_view(views, pool)
    assert (pooled.last_probe_at, pooled.last_success_at, pooled.interval_seconds) == (9.0, 3.0, 30.0)
    assert pooled.probes_total == Counter({Outcome.SUCCESS: 3, Outcome.DNS: 1})
    assert pooled.cost_usd_total == 1.0
    assert asked == [(("a/b@acme",), None, "5m"), (("a/b@acme",), None, "30m")]
