from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from health_stage import HERE, NOW, ONE, OTHER, Exact, Rollups, endpoint, figures_of, of_series, probe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.health.cadences import Cadences
from monitor.health.figures import pooled_figures, series_figures
from monitor.health.recent import ANSWERED, ASKED
from monitor.health.restore_plan import RestoreRanges
from monitor.health.ring import Ring, entry_of, laid_out
from monitor.health.rows import TallyRows, rows_of
from monitor.health.sketch import FIGURES, quantile_of_values
from monitor.health.spans import AHEAD_SECONDS, DAY, HOUR, LONG_WINDOWS, SHORT_WINDOWS, WINDOWS, floor_hour
from monitor.health.tally import tally_of
from monitor.health.uptime import grouped
from monitor.health.view import WindowFigures, figure_quantiles
from monitor.health.windows import Windows
from monitor.observation import Observation
from monitor.outcome import OUTCOMES, Outcome

QUANTILES = (0.5, 0.9, 0.99)


@dataclass
class Rig:
    """A monitor reduced to its storage and its windows, with a clock that only it turns."""

    now: float = NOW

    def __post_init__(self) -> None:
        self.rollups = Rollups(self.now)
        self.windows = Windows(self.now)
        self.slots = 0

    def commit(self, *observations: Observation) -> None:
        self.rollups.commit(observations)
        self.windows.record(observations, self.now)

    def take(self, of: str, late_seconds: float, outcome: Outcome, value: float, answer: bool | None) -> None:
        self.slots += 1
        figures = figures_of(value)
        recheck = int(self.slots % 7 == 0)
        kind = "embedding" if self.slots % 11 == 0 else "chat"
        observation = Observation(
            endpoint=of,
            location=HERE,
            slot=self.slots,
            due_at=self.now - late_seconds,
            started_at=self.now - late_seconds,
            outcome=outcome,
            answer_ok=answer,
            recheck=recheck,
            kind=kind,
            **figures,
        )
        self.commit(observation)

    def turn_hour(self, rolled_hours_ago: int = 0) -> None:
        """What the daemon does in the writer's job once an hour."""
        hour = floor_hour(self.now)
        self.rollups.close(hour - rolled_hours_ago * HOUR)
        self.windows.slide(hour, self.rollups.leaving(self.windows.leaving_spans(hour)))

    def restart(self) -> None:
        self.windows = restored(self.rollups, self.now)

    def recent_samples(self, window: str, now: float) -> int:
        """Of the first endpoint."""
        recent = self.windows.recent([self.windows.row_of(ONE.id, HERE)], now)
        return int(recent.counts(now - SHORT_WINDOWS[window])[0, : len(OUTCOMES)].sum())

    def next_change(self, now: float) -> float:
        recent = self.windows.recent([self.windows.row_of(ONE.id, HERE)], now)
        return float(recent.next_change(SHORT_WINDOWS.values())[0])

    def settle(self) -> None:
        while self.windows.settle():
            pass

    def agree(self) -> None:
        """Every window against the raw rows: counts exactly, quantiles as promised."""
        self.settle()
        for of in (ONE.id, OTHER.id):
            row = self.windows.row_of(of, HERE)
            cadences = Cadences([()])
            (shown,), _ = series_figures(self.windows, [row], self.now, "monitor", WINDOWS, QUANTILES, cadences)
            raw = of_series(self.rollups.raw, of)
            for window in WINDOWS:
                check(shown[window], Exact(raw, window, self.now, self.windows.edge_hour), window)
            for window in LONG_WINDOWS:
                exact = Exact(raw, window, self.now, self.windows.edge_hour)
                counts = self.windows.counts(window, np.array([row]))[0].tolist()
                assert counts == [*(exact.counts[outcome] for outcome in OUTCOMES), exact.asked, exact.answered]
        assert self.windows.clamped_cells == 0


def restored(rollups: Rollups, now: float, rng: random.Random | None = None) -> Windows:
    windows = Windows(now)
    ranges = windows.restore_ranges(now, rollups.hours_until, rollups.days_until)
    days, hours, tail = read(rollups, ranges)
    for rows in in_parts(days, rng):
        windows.restore_days(rows)
    for rows in in_parts(hours, rng):
        windows.restore_hours(rows)
    windows.restore_tail(tail, now)
    return windows


def read(rollups: Rollups, ranges: RestoreRanges) -> tuple[TallyRows, list[TallyRows], list[Observation]]:
    return rollups.days(*ranges.days), [rollups.hours(*span) for span in ranges.hours], rollups.tail(ranges)


def in_parts(rows: TallyRows | Sequence[TallyRows], rng: random.Random | None) -> list[TallyRows]:
    wholes = [rows] if isinstance(rows, TallyRows) else rows
    step = 1 if rng is None else rng.randint(1, 5)
    return [whole.part(at, at + step) for whole in wholes for at in range(0, len(whole), step)]


def check(shown: WindowFigures, exact: Exact, window: str) -> None:
    counts = grouped(exact.counts, "monitor")
    assert (shown.samples, shown.successes, shown.seen) == (counts.samples, counts.ok, counts.seen)
    assert (shown.uptime_ratio, shown.throttled_ratio) == (counts.uptime_ratio(), counts.throttled_ratio())
    assert shown.answer_ok_ratio == (exact.answered * 10**6 // exact.asked / 10**6 if exact.asked else None)
    for figure in FIGURES:
        values = exact.values(figure)
        if not values:
            assert figure not in shown.quantiles
            continue
        wanted = figure_quantiles(figure, QUANTILES)
        assert tuple(shown.quantiles[figure]) == wanted
        for quantile in wanted:
            found = shown.quantiles[figure][quantile]
            truth = quantile_of_values(values, quantile)
            assert found == (truth if window in SHORT_WINDOWS else pytest.approx(truth, rel=0.01))


waits = st.one_of(st.floats(0, 600), st.floats(0, 3 * HOUR), st.floats(0, 12 * DAY))
lateness = st.one_of(
    st.just(0.0), st.floats(-900, 0), st.floats(0, 1900), st.floats(0, 30 * HOUR), st.floats(0, 33 * DAY)
)
outcomes = st.one_of(
    st.just(Outcome.SUCCESS), st.sampled_from([Outcome.SERVER_ERROR, Outcome.REASONING_CUT]), st.sampled_from(OUTCOMES)
)
probes = st.tuples(
    st.sampled_from([ONE.id, OTHER.id]),
    lateness,
    outcomes,
    st.floats(0.011, 3000),
    st.sampled_from([None, True, False]),
)
# Most of what happens: some probes come in, some time passes, an hour turns, the monitor is killed and started again.
steps = st.one_of(
    st.lists(probes, min_size=1, max_size=6),
    waits,
    st.integers(0, 20).map(lambda hours: ("hour", hours)),
    st.just("restart"),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=25))
def test_every_window_is_what_the_raw_rows_say_whenever_rows_come_hours_turn_and_the_monitor_restarts(
    story: list[object],
) -> None:
    play(Rig(), story)


def play(rig: Rig, story: Sequence[object]) -> None:
    for step in story:
        match step:
            case float(seconds):
                rig.now += seconds
            case list(batch):
                for one in batch:
                    rig.take(*one)
            case ("hour", int(rolled_hours_ago)):
                rig.turn_hour(rolled_hours_ago)
            case _:
                rig.restart()
    rig.agree()
    rig.turn_hour()
    rig.agree()
    rig.restart()
    rig.agree()


@pytest.mark.parametrize("seed", range(2))
def test_a_busy_month_agrees_with_the_raw_rows_at_every_look(seed: int) -> None:
    busy_month(seed, looks=6, days=33)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(8))
def test_many_busy_months_agree_with_the_raw_rows_at_every_look(seed: int) -> None:
    busy_month(1000 + seed, looks=60, days=70)


def busy_month(seed: int, looks: int, days: int) -> None:
    rng = random.Random(seed)
    rig = Rig()
    looks_at = sorted(rng.uniform(0, days * DAY) for _ in range(looks))
    while looks_at:
        rig.now += rng.choice([20.0, 90.0, 2000.0, 3 * HOUR])
        for _ in range(rng.randint(1, 4)):
            late = rng.choice([0.0] * 12 + [rng.uniform(-60, 60), rng.uniform(0, 2 * HOUR), rng.uniform(0, 8 * DAY)])
            outcome = rng.choice([Outcome.SUCCESS] * 6 + list(OUTCOMES))
            answer = rng.choice([None, True, True, False])
            rig.take(rng.choice([ONE.id, OTHER.id]), late, outcome, rng.lognormvariate(0.0, 1.0), answer)
        if rng.random() < 0.5:
            rig.turn_hour(rng.randint(0, 3))
        if rng.random() < 0.5:
            rig.windows.settle()
        if rig.now - NOW >= looks_at[0]:
            looks_at.pop(0)
            rig.agree()
            if rng.random() < 0.5:
                rig.restart()
                rig.agree()


def test_the_edge_of_a_short_window_is_exact() -> None:
    rig = Rig()
    for span in SHORT_WINDOWS.values():
        rig.commit(probe(NOW - span), probe(NOW - span - 0.000_001), probe(NOW + 4))
    assert rig.recent_samples("5m", NOW) == 3
    assert rig.recent_samples("30m", NOW) == 5
    assert rig.next_change(NOW) == NOW
    assert rig.next_change(NOW + 1) == NOW + 304
    assert math.isinf(rig.next_change(NOW + 5000))


def test_a_short_window_leaves_out_what_is_stamped_ahead_until_its_time_has_come() -> None:
    rig = Rig()
    rig.commit(probe(NOW - 1), probe(NOW + AHEAD_SECONDS), probe(NOW + HOUR))
    assert rig.recent_samples("5m", NOW) == 1
    assert rig.next_change(NOW) == NOW
    assert rig.recent_samples("5m", NOW + 0.001) == 2
    assert rig.next_change(NOW + 2000) == NOW + HOUR - AHEAD_SECONDS
    rig.agree()


def test_a_late_row_goes_to_the_windows_that_still_cover_it_and_to_no_other() -> None:
    rig = Rig()
    rig.commit(probe(NOW - 26 * HOUR))
    row = [rig.windows.row_of(ONE.id, HERE)]
    counted = {window: int(rig.windows.counts(window, np.array(row)).sum()) for window in LONG_WINDOWS}
    assert counted == {"1d": 0, "7d": 1, "30d": 1}
    assert rig.recent_samples("30m", NOW) == 0


def test_rechecks_and_other_kinds_never_count() -> None:
    rig = Rig()
    rig.commit(probe(NOW, recheck=1), probe(NOW, kind="embedding"))
    assert len(rig.windows) == 0
    rig.windows.restore_ranges(NOW, floor_hour(NOW), 0)
    hour = floor_hour(NOW) - HOUR
    rig.windows.restore_hours(rows_of([(hour, ONE.id, HERE, "embedding", tally_of([probe(NOW)]))]))
    assert len(rig.windows) == 0


def test_the_long_windows_cover_at_least_their_span() -> None:
    windows = Windows(NOW)
    for window, span in LONG_WINDOWS.items():
        assert 0 <= NOW - span - windows.start_of(window, NOW) < HOUR
    with pytest.raises(KeyError):
        windows.start_of("2d", NOW)


def test_a_slide_that_forgets_a_window_is_refused() -> None:
    windows = Windows(NOW)
    hour = floor_hour(NOW) + HOUR
    with pytest.raises(ValueError, match="no rows given for 30d, 7d"):
        windows.slide(hour, {"1d": TallyRows()})
    assert windows.edge_hour == hour - HOUR


def test_a_slide_to_an_hour_that_was_reached_changes_nothing() -> None:
    windows = Windows(NOW)
    assert windows.leaving_spans(windows.edge_hour) == {}
    assert windows.leaving_spans(windows.edge_hour - HOUR) == {}
    windows.slide(windows.edge_hour - HOUR, {})
    assert windows.edge_hour == floor_hour(NOW)
    assert not windows.settle()


def test_a_rollup_that_holds_more_than_was_recorded_is_told_once_and_no_count_falls_below_zero(
    caplog: pytest.LogCaptureFixture,
) -> None:
    windows = Windows(NOW)
    at = NOW - DAY + 60
    windows.record([probe(at, **figures_of(1.0))], NOW)
    hour = floor_hour(at)
    twice = rows_of([(hour, ONE.id, HERE, "chat", tally_of([probe(at, **figures_of(1.0)), probe(at + 1)]))])
    stranger = rows_of([(hour, OTHER.id, HERE, "chat", tally_of([probe(at)]))])
    nothing = {"7d": TallyRows(), "30d": TallyRows()}
    with caplog.at_level(logging.ERROR):
        windows.slide(floor_hour(NOW) + HOUR, {"1d": twice, **nothing})
        while windows.settle():
            pass
        windows.slide(floor_hour(NOW) + 2 * HOUR, {"1d": stranger, **nothing})
        while windows.settle():
            pass
    assert windows.clamped_cells == 1
    assert [record.getMessage().split()[0] for record in caplog.records] == ["windows_below_zero"]
    row = np.array([windows.row_of(ONE.id, HERE)])
    assert windows.counts("1d", row).sum() == 0
    assert windows.counts("7d", row).sum() == 1


def test_a_slide_is_done_in_slices_and_ends_where_one_go_would() -> None:
    many = [endpoint(f"author/m{number}") for number in range(600)]
    windows = Windows(NOW)
    rollups = Rollups(NOW)
    rows = [probe(NOW - DAY + 10, of=one, **figures_of(2.0)) for one in many]
    rollups.commit(rows)
    windows.record(rows, NOW)
    hour = floor_hour(NOW) + HOUR
    windows.slide(hour, rollups.leaving(windows.leaving_spans(hour)))
    slices = 1
    while windows.settle():
        slices += 1
    assert slices == 3
    assert windows.counts("1d", slice(0, 600)).sum() == 0
    assert windows.counts("30d", slice(0, 600)).sum() == 600
    assert np.isnan(windows.quantiles_all("1d", "ttft_seconds", (0.5,))).all()
    assert windows.quantiles_all("30d", "ttft_seconds", (0.5,)) == pytest.approx(np.full((600, 1), 2.0), rel=0.01)


def test_a_restore_reads_no_second_twice_and_leaves_none_out() -> None:
    rng = random.Random(3)
    for _ in range(300):
        now = NOW + rng.uniform(0, 40 * DAY)
        hours_until = floor_hour(now) - rng.choice([0, 0, 1, 5, 30, 24 * 9, 24 * 40]) * HOUR
        days_until = hours_until // DAY * DAY
        ranges = Windows(now).restore_ranges(now, hours_until, days_until)
        spans = [*ranges.hours, ranges.days]
        covered = Counter(hour for start, end in ranges.hours for hour in range(start, end, HOUR))
        assert not covered or max(covered.values()) == 1
        thirty_days = floor_hour(now) - 30 * DAY
        whole = {hour for start, end in spans for hour in range(start, end, HOUR)}
        assert whole >= set(range(thirty_days, hours_until, HOUR))
        assert ranges.tail_since <= max(hours_until, thirty_days)
        assert ranges.tail_since <= now - 1800


@settings(max_examples=40, deadline=None)
@given(st.lists(probes, min_size=1, max_size=12), st.sampled_from(WINDOWS))
def test_several_series_pool_to_what_their_raw_rows_say_together(
    rows: list[tuple[str, float, Outcome, float, bool | None]], window: str
) -> None:
    rig = Rig()
    for row in rows:
        rig.take(*row)
    both = [rig.windows.row_of(of.id, HERE) for of in (ONE, OTHER)]
    shown = pooled_figures(rig.windows, np.array(both), window, rig.now, "monitor", QUANTILES, 7)
    check(shown, Exact(rig.rollups.raw, window, rig.now, rig.windows.edge_hour), window)
    assert shown.expected == 7


def test_nobody_pools_to_nothing() -> None:
    for window in WINDOWS:
        shown = pooled_figures(Windows(NOW), np.zeros(0, dtype=np.int64), window, NOW, "monitor", QUANTILES, 0)
        assert (shown.samples, shown.uptime_ratio, shown.coverage_ratio, dict(shown.quantiles)) == (0, None, None, {})


def test_the_answer_flag_is_asked_of_successes_only() -> None:
    windows = Windows(NOW)
    windows.record(
        [probe(NOW, answer_ok=True), probe(NOW, answer_ok=False), probe(NOW, Outcome.REASONING_CUT, answer_ok=False)],
        NOW,
    )
    counts = windows.counts("1d", np.array([0]))[0]
    assert (counts[ASKED], counts[ANSWERED]) == (2, 1)


@given(st.lists(st.integers(0, 30), max_size=40))
def test_a_ring_is_sorted_however_late_its_rows_come(stamps: list[int]) -> None:
    ring = Ring()
    for stamp in stamps:
        ring.add(entry_of(probe(NOW + stamp)))
    assert laid_out([ring])[:, 0].tolist() == sorted(NOW + stamp for stamp in stamps)
    ring.drop_before(NOW + 10)
    assert laid_out([ring])[:, 0].tolist() == sorted(NOW + stamp for stamp in stamps if stamp >= 10)
