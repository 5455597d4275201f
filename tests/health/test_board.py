from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from health_stage import HERE, NOW, ONE, OTHER, Exact, Rollups, endpoint, figures_of, of_series, probe, settings
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from msgspec import structs

from monitor.catalog.target import target_of
from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.display import SERIES_PER_SLICE
from monitor.health.incidents import IncidentLedger
from monitor.health.rows import rows_of
from monitor.health.series import Stamp
from monitor.health.sketch import FIGURES, quantile_of_values
from monitor.health.spans import DAY, HOUR, WINDOWS, floor_hour
from monitor.health.state import State
from monitor.health.tally import tally_of
from monitor.health.uptime import grouped
from monitor.health.view import EndpointView, figure_quantiles
from monitor.observation import Observation
from monitor.outcome import OUTCOMES, Outcome
from monitor.settings import ExportSettings
from monitor.slot import Cadence, Era, expected_slots

MINUTE = Cadence(60_000, 10_000)


def board_of(*endpoints: Any, clock: FakeClock | None = None, **changes: Any) -> Board:
    return Board(settings(*endpoints, **changes), clock or FakeClock(NOW))


def refreshed(board: Board) -> tuple[EndpointView, ...]:
    for _ in board.refresh_slices():
        pass
    return board.views()


def take(board: Board, *observations: Observation) -> None:
    for observation in observations:
        board.observe(observation)
    board.record(observations)


@pytest.mark.parametrize("rows", [1, 600])
def test_what_is_committed_counts_for_whoever_looks_next(rows: int) -> None:
    board = board_of()
    board.record(probe(NOW - number) for number in range(rows))
    assert board.figures([ONE.id], None, "30d").samples == rows
    board.record([probe(NOW + 1)])
    assert board.windows.counts("30d", np.array([0])).sum() == rows + 1
    assert refreshed(board)[0].windows["30d"].samples == rows + 1


def test_every_configured_endpoint_has_a_view_though_nothing_is_known_of_it() -> None:
    board = board_of(ONE, OTHER)
    assert board.views() == ()
    views = refreshed(board)
    assert [view.endpoint.id for view in views] == [ONE.id, OTHER.id]
    nothing = views[0]
    assert (nothing.state, nothing.cause, nothing.usable, nothing.location) == (State.UNKNOWN, None, True, HERE)
    assert (nothing.last_probe_at, nothing.last_success_at, nothing.probes_total) == (None, None, {})
    assert set(nothing.windows) == set(WINDOWS)
    for window in nothing.windows.values():
        assert (window.samples, window.uptime_ratio, window.coverage_ratio, dict(window.quantiles)) == (
            0,
            None,
            None,
            {},
        )


def test_a_view_shows_what_was_observed() -> None:
    board = board_of()
    board.set_eras(ONE.id, HERE, [Era(NOW - 3600, None, MINUTE)])
    take(board, probe(NOW - 10, answer_ok=True, cost_usd=0.5, **figures_of(2.0)))
    take(board, probe(NOW - 5, Outcome.RATE_LIMITED, cost_usd=0.25))
    board.observe(probe(NOW - 4, Outcome.SERVER_ERROR, due_at=NOW - 5, recheck=1))
    view = refreshed(board)[0]
    assert (view.state, view.usable, view.interval_seconds) == (State.OPERATIONAL, True, 60.0)
    assert (view.last_probe_at, view.last_success_at, view.state_since) == (NOW - 4, NOW - 10, NOW - 10)
    assert view.probes_total == {Outcome.SUCCESS: 1, Outcome.RATE_LIMITED: 1, Outcome.SERVER_ERROR: 1}
    assert view.cost_usd_total == 0.75
    recent = view.windows["30m"]
    assert (recent.samples, recent.successes, recent.seen, recent.expected) == (1, 1, 2, 30)
    assert (recent.uptime_ratio, recent.throttled_ratio, recent.coverage_ratio) == (1.0, 0.5, 0.066666)
    assert recent.answer_ok_ratio == 1.0
    assert recent.quantiles["ttft_seconds"] == dict.fromkeys((0.5, 0.75, 0.9, 0.99), 2.0)
    speeds = recent.quantiles["throughput_tokens_per_second"]
    assert set(speeds) == {0.5, 0.25, 0.1, 0.01}
    assert view.windows["30d"].quantiles["ttft_seconds"][0.9] == pytest.approx(2.0, rel=0.01)
    assert view.windows["1d"].quantiles == {}
    assert view.windows["1d"].expected == 60


def test_quantiles_are_there_for_the_windows_and_levels_that_the_export_asks_for() -> None:
    board = board_of(export=ExportSettings(performance_windows=("7d",), quantiles=(0.3,)))
    take(board, probe(NOW, **figures_of(2.0)))
    windows = refreshed(board)[0].windows
    assert [window for window in WINDOWS if windows[window].quantiles] == ["30m", "7d"]
    assert set(windows["7d"].quantiles["latency_seconds"]) == {0.3, 0.5, 0.75, 0.9, 0.99}


def test_an_unchanged_view_is_the_same_object_and_a_changed_one_has_a_greater_version() -> None:
    board = board_of(ONE, OTHER)
    first = refreshed(board)
    assert refreshed(board) is first
    take(board, probe(NOW))
    second = refreshed(board)
    assert second is not first
    assert second[0] is not first[0]
    assert second[0].version > first[0].version
    assert second[1] is first[1]
    assert board.view(ONE.id) is second[0]
    assert board.view("author/unheard@of") is None


async def test_views_change_as_time_passes_though_nothing_comes_in() -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    board.set_eras(ONE.id, HERE, [Era(NOW, None, MINUTE)])
    take(board, probe(NOW))
    assert refreshed(board)[0].windows["5m"].coverage_ratio is None
    await clock.advance(200)
    assert refreshed(board)[0].windows["5m"].coverage_ratio == 0.333333
    await clock.advance(100)
    assert refreshed(board)[0].windows["5m"].samples == 1
    await clock.advance(0.01)
    found = refreshed(board)[0].windows
    assert (found["5m"].samples, found["5m"].uptime_ratio, found["30m"].samples) == (0, None, 1)
    assert (found["5m"].seen, found["5m"].expected, found["5m"].coverage_ratio) == (0, 5, 0.0)


async def test_a_slot_its_probe_and_its_commit_are_one_change_and_a_new_state_is_shown_at_once() -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    board.set_eras(ONE.id, HERE, [Era(NOW - 3600, None, MINUTE)])
    take(board, probe(NOW - 1))
    await board.refresh()
    calm = board.views()[0]
    await clock.advance(60)
    versions = []
    for second in range(10):
        if second == 2:
            board.observe(later := probe(NOW + 61))
        if second == 3:
            board.record([later])
        await clock.advance(1)
        await board.refresh(settled_seconds=4)
        versions.append(board.views()[0].version)
    assert len(set(versions)) == 2, "one new view for the slot, the probe and the commit"
    settled = board.views()[0]
    assert (settled.last_probe_at, settled.windows["5m"].samples) == (NOW + 61, 2)
    assert settled.version > calm.version
    for number in range(4):
        board.observe(probe(NOW + 72 + number, Outcome.SERVER_ERROR))
    await board.refresh(settled_seconds=4)
    assert board.views()[0].state is State.DOWN


async def test_a_refresh_lets_others_run_between_its_slices() -> None:
    many = [endpoint(f"author/m{number}") for number in range(3 * SERIES_PER_SLICE)]
    board = board_of(*many)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while len(board.views()) < len(many):
            turns += 1
            await asyncio.sleep(0)

    await asyncio.gather(board.refresh(), other())
    assert turns >= 3


def test_endpoints_that_were_probed_a_lot_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [endpoint(f"author/m{number}") for number in range(6)]
    board = board_of(*many)
    take(board, *(probe(NOW - 60 - number, of=one) for one in many for number in range(4)))
    assert len(refreshed(board)) == 6

    def slices() -> int:
        board.configure(settings(*many))
        return sum(1 for _ in board.refresh_slices())

    together = slices()
    monkeypatch.setattr("monitor.health.display._PROBES_PER_SLICE", 8)
    assert slices() == together + 2 * 2  # figures and then views, of two endpoints each time
    monkeypatch.setattr("monitor.health.display._PROBES_PER_SLICE", 1)
    assert slices() == together + 5 * 2


def test_a_reload_between_two_slices_of_a_refresh_is_survived() -> None:
    many = [endpoint(f"author/m{number}") for number in range(2 * SERIES_PER_SLICE)]
    board = board_of(*many)
    slices = board.refresh_slices()
    next(slices)
    board.configure(settings(many[0]))
    list(slices)
    assert [view.endpoint.id for view in refreshed(board)] == [many[0].id]


@pytest.mark.parametrize("slices_before", range(1, 5))
def test_windows_that_are_exchanged_between_two_slices_are_in_the_next_views(slices_before: int) -> None:
    many = [endpoint(f"author/m{number}") for number in range(2 * SERIES_PER_SLICE)]
    board = board_of(*many)
    take(board, *(probe(NOW - 60, of=one) for one in many))
    slices = board.refresh_slices()
    for _ in range(slices_before):
        next(slices)
    board.take_windows(board.windows.emptied(NOW))
    list(slices)
    assert {view.windows["30d"].samples for view in refreshed(board)} == {0}


def test_removed_endpoints_vanish_at_once_and_come_back_with_their_windows() -> None:
    board = board_of(ONE, OTHER)
    take(board, *(probe(NOW - 60 * number) for number in range(5)))
    before = refreshed(board)
    board.configure(settings(OTHER))
    assert [view.endpoint.id for view in board.views()] == [OTHER.id]
    assert [view.endpoint.id for view in refreshed(board)] == [OTHER.id]
    assert board.view(ONE.id) is None
    failed = [probe(NOW + second, Outcome.CONNECT) for second in (1, 2, 3, 4)]
    assert [board.observe(one) for one in failed] == [None] * 4
    assert not board.wants_recheck(failed[0])
    board.configure(settings(ONE, OTHER))
    assert [view.endpoint.id for view in board.views()] == [OTHER.id]
    assert refreshed(board)[0].windows == before[0].windows


def test_a_reloaded_price_is_in_the_next_views() -> None:
    board = board_of()
    refreshed(board)
    board.configure(settings(replace(ONE, quantization="fp8")))
    assert refreshed(board)[0].endpoint.quantization == "fp8"


def test_a_policy_applies_to_all_history() -> None:
    board = board_of()
    take(board, probe(NOW - 1), probe(NOW, Outcome.AUTH))
    assert refreshed(board)[0].windows["30d"].uptime_ratio == 1.0
    board.configure(settings(uptime_policy="openrouter"))
    windows = refreshed(board)[0].windows
    assert (windows["30d"].uptime_ratio, windows["5m"].uptime_ratio) == (0.5, 0.5)


def test_another_location_is_shown_when_it_has_data_and_only_then() -> None:
    board = board_of(ONE, OTHER)
    board.set_eras(ONE.id, "there", [Era(NOW - 3600, None, Cadence(30_000, 0))])
    assert len(refreshed(board)) == 2
    theirs = [probe(NOW - 60 + number, Outcome.CONNECT, location="there") for number in range(4)]
    transitions = [board.observe(one, foreign=True) for one in theirs]
    board.record(theirs)
    found = refreshed(board)
    assert [(view.endpoint.id, view.location) for view in found] == [
        (ONE.id, HERE),
        (ONE.id, "there"),
        (OTHER.id, HERE),
    ]
    assert board.locations() == (HERE, "there")
    there = found[1]
    assert (there.state, there.cause, there.interval_seconds) == (State.DOWN, "connect", 30.0)
    assert (there.probes_total, there.cost_usd_total) == ({}, 0.0)
    assert there.windows["5m"].samples == 4
    assert found[0].windows["5m"].samples == 0
    down = [one for one in transitions if one is not None]
    assert [(one.location, one.state, one.since) for one in down] == [("there", State.DOWN, NOW - 60)]
    assert board.view(ONE.id, "there") is there


def test_of_a_location_that_nobody_watches_any_more_the_past_is_shown_and_no_state() -> None:
    board = board_of()
    board.set_eras(ONE.id, "there", [Era(NOW - 3600, None, Cadence(30_000, 0))])
    theirs = [probe(NOW - 60 + number, Outcome.CONNECT, location="there") for number in range(4)]
    for one in theirs:
        board.observe(one, foreign=True)
    board.record(theirs)
    board.observe(probe(NOW, Outcome.CONNECT))
    assert board.is_watched(ONE.id, "there")
    assert [one.location for one in board.standings()] == ["there"]
    board.set_eras(ONE.id, "there", [Era(NOW - 3600, NOW, Cadence(30_000, 0))])
    there = refreshed(board)[1]
    assert not board.is_watched(ONE.id, "there")
    assert (there.is_watched, there.state, there.cause, there.state_since) == (False, State.UNKNOWN, None, None)
    assert (there.windows["5m"].samples, there.windows["30d"].uptime_ratio) == (4, 0.0)
    assert board.standings() == []
    assert board.is_watched(ONE.id, HERE) and not board.is_watched(OTHER.id, HERE)


async def test_a_location_without_data_for_30_days_is_shown_no_more() -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    rollups = Rollups(NOW)
    theirs = [probe(NOW, location="there")]
    board.observe(theirs[0], foreign=True)
    board.record(theirs)
    rollups.commit(theirs)
    assert len(refreshed(board)) == 2
    clock.step_wall(31 * DAY)
    hour = floor_hour(clock.now())
    rollups.close(hour)
    board.slide(hour, rollups.leaving(board.windows.leaving_spans(hour)))
    assert [view.location for view in refreshed(board)] == [HERE]


def test_a_transition_is_told_once_with_its_cause_and_its_first_failure() -> None:
    board = board_of()
    told = [board.observe(probe(NOW + 60 * number)) for number in range(3)]
    failed = [probe(NOW + 180 + 60 * number, Outcome.OVERLOADED, detail="busy") for number in range(4)]
    told += [board.observe(one) for one in failed]
    found = [one for one in told if one is not None]
    assert [(one.previous, one.state, one.cause, one.since - NOW, one.at - NOW) for one in found] == [
        (State.UNKNOWN, State.OPERATIONAL, None, 0, 0),
        (State.OPERATIONAL, State.DEGRADED, "overloaded", 180, 240),
        (State.DEGRADED, State.DOWN, "overloaded", 180, 300),
    ]
    assert found[-1].detail == "busy"


def test_a_first_failure_wants_a_recheck_and_a_stranger_does_not() -> None:
    board = board_of()
    board.observe(probe(NOW))
    failed = probe(NOW + 60, Outcome.CONNECT)
    board.observe(failed)
    assert board.wants_recheck(failed)
    assert not board.wants_recheck(probe(NOW, Outcome.CONNECT, of=OTHER))


def test_other_probe_kinds_change_nothing() -> None:
    board = board_of()
    before = refreshed(board)
    embedding = probe(NOW, Outcome.CONNECT, kind="embedding")
    assert board.observe(embedding) is None
    board.record([embedding])
    assert refreshed(board) is before


def test_without_its_secret_an_endpoint_is_unusable_and_was_not_probed() -> None:
    board = board_of()
    assert board.observe(probe(NOW, Outcome.SECRET_MISSING)) is None
    view = refreshed(board)[0]
    assert (view.state, view.usable, view.unusable_cause) == (State.UNKNOWN, False, "secret_missing")
    assert view.last_probe_at is None


async def test_a_state_that_nothing_confirms_is_forgotten_and_a_stretched_interval_gives_it_longer() -> None:
    clock = FakeClock(NOW)
    intervals = {ONE.id: 60.0}
    board = Board(settings(), clock, intervals.__getitem__)
    board.observe(probe(NOW))
    await clock.advance(599)
    assert board.expire() == []
    intervals[ONE.id] = 120.0
    await clock.advance(600)
    assert board.expire() == []
    await clock.advance(1)
    gone = board.expire()
    assert [(one.previous, one.state, one.since) for one in gone] == [(State.OPERATIONAL, State.UNKNOWN, NOW + 1200)]
    assert board.expire() == []
    view = refreshed(board)[0]
    assert (view.state, view.state_since, view.interval_seconds) == (State.UNKNOWN, NOW + 1200, 120.0)


async def test_a_failing_keys_stretched_interval_gives_no_state_longer_than_a_restart_would() -> None:
    clock = FakeClock(NOW)
    intervals = {ONE.id: 60.0}
    board = Board(settings(), clock, intervals.__getitem__)
    rollups = Rollups(NOW)
    story = [probe(NOW), probe(NOW + 60, Outcome.AUTH), probe(NOW + 180, Outcome.AUTH)]
    for observation in story:
        await clock.advance(observation.started_at - clock.now())
        board.observe(observation)
        intervals[ONE.id] = 900.0 if observation.outcome is Outcome.AUTH else 60.0
    rollups.commit(story)
    for seconds, state in ((419, State.OPERATIONAL), (1, State.UNKNOWN)):
        await clock.advance(seconds)
        board.expire()
        again = board_of(clock=clock)
        again.restoration().take_tail(rollups.raw)
        again.finish_restore()
        for one in (board, again):
            standing = one.standing(ONE.id, HERE)
            assert (standing.state, standing.usable, standing.unusable_cause) == (state, False, "auth")
    assert board.standing(ONE.id, HERE).since == again.standing(ONE.id, HERE).since == NOW + 600


def test_a_refused_request_is_the_cause_that_a_view_shows_and_no_transition() -> None:
    board = board_of()
    assert board.observe(probe(NOW, Outcome.UNKNOWN_MODEL, detail="404: no such model")) is None
    view = refreshed(board)[0]
    assert (view.state, view.cause, view.detail, view.usable) == (
        State.UNKNOWN,
        "unknown_model",
        "404: no such model",
        True,
    )
    board.observe(probe(NOW + 60))
    view = refreshed(board)[0]
    assert (view.state, view.cause, view.detail) == (State.OPERATIONAL, None, None)


async def test_a_wall_clock_step_makes_nobody_forget() -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    board.observe(probe(NOW))
    clock.step_wall(DAY)
    await clock.advance(60)
    assert board.expire() == []
    clock.step_wall(-2 * DAY)
    await clock.advance(539)
    assert board.expire() == []
    await clock.advance(1)
    assert len(board.expire()) == 1


async def test_a_throttled_endpoint_degrades_when_its_last_answer_is_too_old() -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    board.observe(probe(NOW))
    await clock.advance(300)
    assert board.observe(probe(NOW + 300, Outcome.NO_CAPACITY)) is None
    await clock.advance(300)
    found = board.expire()
    assert [(one.state, one.cause, one.since) for one in found] == [(State.DEGRADED, "throttled", NOW + 300)]


def test_only_a_success_as_configured_now_and_within_30_days_vouches_for_an_endpoint() -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    assert not board.worked_before(ONE)
    board.observe(probe(NOW, Outcome.SERVER_ERROR))
    assert not board.worked_before(ONE)
    board.observe(probe(NOW + 60))
    assert board.worked_before(ONE)
    for changed in (
        replace(ONE, base_url="https://other.example/v1"),
        replace(ONE, upstream="other"),
        replace(ONE, dialect="mistral"),
    ):
        assert not board.worked_before(changed)
    assert board.worked_before(replace(ONE, quantization="fp8", interval_seconds=5.0))
    clock.step_wall(31 * DAY)
    assert not board.worked_before(ONE)


def test_a_success_vouches_for_the_target_of_its_own_era() -> None:
    moved = replace(ONE, base_url="https://new.example/v1")
    board = board_of(moved)
    eras = [Era(NOW - 10 * DAY, NOW - DAY, MINUTE, target_of(ONE)), Era(NOW - DAY, None, MINUTE, target_of(moved))]
    board.set_eras(ONE.id, HERE, eras)
    restoration = board.restoration()
    restoration.ranges(floor_hour(NOW), floor_hour(NOW) // DAY * DAY)
    day = int(NOW // DAY) * DAY
    answered = tally_of([probe(NOW)])
    # The day of the move could be either's.
    restoration.take_days(rows_of([(day - DAY, ONE.id, HERE, "chat", answered)]))
    assert (board.worked_before(ONE), board.worked_before(moved)) == (False, False)
    restoration.take_days(rows_of([(day - 5 * DAY, ONE.id, HERE, "chat", answered)]))
    assert (board.worked_before(ONE), board.worked_before(moved)) == (True, False)
    restoration.take_hours(rows_of([(floor_hour(NOW) - HOUR, ONE.id, HERE, "chat", answered)]))
    assert (board.worked_before(ONE), board.worked_before(moved)) == (True, True)


def test_stamps_from_history_are_shown_until_newer_ones_come() -> None:
    board = board_of()
    board.restoration().take_stamps([Stamp(ONE.id, HERE, NOW - 500, NOW - 900)])
    view = refreshed(board)[0]
    assert (view.last_probe_at, view.last_success_at) == (NOW - 500, NOW - 900)
    assert board.worked_before(ONE)
    take(board, probe(NOW, Outcome.CONNECT))
    view = refreshed(board)[0]
    assert (view.last_probe_at, view.last_success_at) == (NOW, NOW - 900)
    board.restoration().take_stamps([Stamp(ONE.id, HERE, None, None)])
    assert refreshed(board)[0].last_probe_at == NOW


PLACES = [(ONE, HERE), (ONE, "there"), (OTHER, HERE), (OTHER, "there")]
observed = st.tuples(
    st.sampled_from(PLACES),
    st.floats(0, 40 * HOUR),
    st.one_of(st.just(Outcome.SUCCESS), st.sampled_from(OUTCOMES)),
    st.floats(0.011, 3000),
)


@profile(max_examples=40, deadline=None)
@given(
    st.lists(observed, max_size=20),
    st.sampled_from([None, HERE, "there"]),
    st.sets(st.sampled_from([ONE.id, OTHER.id])),
    st.sampled_from(WINDOWS),
)
def test_figures_are_pooled_over_endpoints_and_locations_from_counts(
    rows: list[tuple[tuple[Any, str], float, Outcome, float]], location: str | None, ids: set[str], window: str
) -> None:
    board = board_of(ONE, OTHER)
    raw = [
        probe(NOW - age, outcome, of=of, location=place, **figures_of(value))
        for (of, place), age, outcome, value in rows
    ]
    board.record(raw)
    era = Era(NOW - 5 * HOUR, None, MINUTE)
    for of, place in PLACES:
        board.set_eras(of.id, place, [era])
    chosen = [one for one in raw if one.endpoint in ids and location in (None, one.location)]
    exact = Exact(chosen, window, NOW)
    shown = board.figures([*ids, *ids], location, window, (0.5, 0.9))
    counts = grouped(exact.counts, "monitor")
    assert (shown.samples, shown.successes, shown.seen) == (counts.samples, counts.ok, counts.seen)
    assert shown.uptime_ratio == counts.uptime_ratio()
    assert shown.expected == expected_slots([era], exact.start, NOW) * len(ids) * (1 if location else 2)
    for figure in FIGURES:
        values = exact.values(figure)
        truths = {q: quantile_of_values(values, q) for q in figure_quantiles(figure, (0.5, 0.9))} if values else {}
        assert dict(shown.quantiles.get(figure, {})) == pytest.approx(truths, rel=0.01)


def test_there_is_no_window_of_another_name() -> None:
    with pytest.raises(KeyError):
        board_of().figures([ONE.id], None, "2d")


# Not a divisor of the minutes that the life below is lived in: what is forgotten, and when, hangs on no rounding.
ODD = Cadence(57_300, 10_000)
MINE, YOURS = replace(ONE, interval_seconds=57.3), replace(OTHER, interval_seconds=57.3)


class Life:
    """A board with its storage, driven at random: what the daemon does, without the daemon."""

    def __init__(self, rng: random.Random, rows_come_late: bool) -> None:
        self.rng = rng
        self.rows_come_late = rows_come_late
        self.clock = FakeClock(NOW)
        self.rollups = Rollups(NOW)
        self.ledger = IncidentLedger()
        self.eras = {
            (of.id, place): [Era(NOW + rng.uniform(0, HOUR), None, ODD, target_of(of))] for of, place in PLACES
        }
        self.board = Board(settings(MINE, YOURS), self.clock)
        self._tell_eras(self.board)
        self.failing = 0.0

    def _tell_eras(self, board: Board) -> None:
        for (of, place), eras in self.eras.items():
            board.set_eras(of, place, eras)

    async def minute(self) -> None:
        if self.rng.random() < 0.03:
            self.failing = self.rng.choice([0.0, 0.3, 1.0])
        batch = []
        for of, place in PLACES:
            if self.rng.random() < 0.05:
                continue
            bad = self.rng.random() < self.failing
            outcome = self.rng.choice([Outcome.CONNECT, Outcome.RATE_LIMITED, Outcome.AUTH]) if bad else Outcome.SUCCESS
            late = self.rng.choice([0.0, 0.0, 130.0, 5000.0]) if self.rows_come_late and place != HERE else 0.0
            started_at = self.clock.now() - late + self.rng.uniform(0, 0.1)
            batch.append(probe(started_at, outcome, of=of, location=place, **figures_of(self.rng.lognormvariate(0, 1))))
        for one in batch:
            transition = self.board.observe(one, foreign=one.location != HERE)
            if transition is not None:
                self.ledger.apply(transition)
        self.rollups.commit(batch)
        self.board.record(batch)
        await self.clock.advance(60)
        for transition in self.board.expire():
            self.ledger.apply(transition)
        hour = floor_hour(self.clock.now())
        if hour > self.board.windows.edge_hour:
            self.rollups.close(hour - self.rng.choice([0, HOUR]))
            self.board.slide(hour, self.rollups.leaving(self.board.windows.leaving_spans(hour)))

    def restarted(self) -> tuple[Board, IncidentLedger]:
        board = Board(settings(MINE, YOURS), self.clock)
        ledger = IncidentLedger(self.ledger.still_open.values())
        self._tell_eras(board)
        restoration = board.restoration()
        restoration.take_incidents(ledger.still_open.values())
        restoration.take_stamps(
            Stamp(view.endpoint.id, view.location, view.last_probe_at, view.last_success_at)
            for view in refreshed(self.board)
        )
        ranges = restoration.ranges(self.rollups.hours_until, self.rollups.days_until)
        restoration.take_days(self.rollups.days(*ranges.days))
        for span in ranges.hours:
            restoration.take_hours(self.rollups.hours(*span))
        restoration.take_tail(self.rollups.tail(ranges))
        for transition in board.finish_restore():
            ledger.apply(transition)
        return board, ledger


def without_process(view: EndpointView) -> EndpointView:
    """What a restart must bring back: all but the process's own counters, and since when all has been well."""
    since = None if view.state in (State.OPERATIONAL, State.UNKNOWN) else view.state_since
    return structs.replace(view, version=0, probes_total={}, cost_usd_total=0.0, state_since=since)


@pytest.mark.parametrize("seed", range(3))
async def test_a_restart_brings_the_same_views_back(seed: int) -> None:
    await live(seed, minutes=240, rows_come_late=False)


@pytest.mark.parametrize("seed", range(2))
async def test_a_restart_brings_the_same_windows_back_when_rows_come_late(seed: int) -> None:
    await live(seed, minutes=240, rows_come_late=True)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(8))
async def test_many_restarts_bring_everything_back(seed: int) -> None:
    await live(100 + seed, minutes=3000, rows_come_late=seed % 2 == 1)


async def live(seed: int, minutes: int, rows_come_late: bool) -> None:
    rng = random.Random(seed)
    life = Life(rng, rows_come_late)
    for number in range(minutes):
        await life.minute()
        if rng.random() < 0.1:
            # What is brought up to date piece by piece is what comes of doing everything anew.
            views = refreshed(life.board)
            life.board.configure(settings(MINE, YOURS))
            assert refreshed(life.board) == views
        if number % 60 == 59:
            board, ledger = life.restarted()
            ours, theirs = refreshed(life.board), refreshed(board)
            assert [view.windows for view in theirs] == [view.windows for view in ours]
            if not rows_come_late:
                # A state that was made of late rows depends on when they came; it is found anew.
                assert [without_process(view) for view in theirs] == [without_process(view) for view in ours]
                assert ledger.still_open == life.ledger.still_open
            if rng.random() < 0.5:
                life.board, life.ledger = board, ledger
    for view in refreshed(life.board):
        raw = of_series(life.rollups.raw, view.endpoint.id, view.location)
        for window, shown in view.windows.items():
            exact = Exact(raw, window, life.clock.now())
            counts = grouped(exact.counts, "monitor")
            assert (shown.samples, shown.successes, shown.seen) == (counts.samples, counts.ok, counts.seen)
            eras = life.eras[view.endpoint.id, view.location]
            assert shown.expected == expected_slots(eras, exact.start, life.clock.now())
    assert life.board.windows.clamped_cells == 0


@profile(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from("ofta")), max_size=15))
def test_a_refresh_misses_nothing_that_time_alone_changes(steps: list[tuple[int, str]]) -> None:
    clock = FakeClock(NOW)
    board = board_of(clock=clock)
    board.set_eras(ONE.id, HERE, [Era(NOW - 1000, NOW + 2000, Cadence(70_000, 1)), Era(NOW + 2000, None, MINUTE)])
    letters = {"o": Outcome.SUCCESS, "f": Outcome.EMPTY, "t": Outcome.RATE_LIMITED, "a": Outcome.AUTH}
    for seconds, letter in steps:
        take(board, probe(clock.now(), letters[letter], **figures_of(1.5)))
        refreshed(board)
        clock.step_wall(seconds / 7)
        views = refreshed(board)
        board.configure(settings())
        assert refreshed(board) == views
