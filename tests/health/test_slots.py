from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from monitor.health.cadences import Cadences
from monitor.slot import (
    Cadence,
    Era,
    expected_slots,
    phase_fraction,
    target_at,
    targets_within,
)

NOW = 1_700_000_000.0

cadences = st.integers(1, 100_000).flatmap(
    lambda interval: st.builds(Cadence, st.just(interval), st.integers(0, interval - 1))
)
# Milliseconds around NOW, as the arithmetic is done in them.
moments = st.integers(-200_000, 200_000).map(lambda ms: (NOW * 1000 + ms) / 1000)


def due_times(cadence: Cadence, start: float, end: float) -> list[float]:
    """Every due time in [start, end), by walking."""
    slot = cadence.slot_at(start) - 2
    found = []
    while (due_at := cadence.due_at(slot)) < end:
        if due_at >= start:
            found.append(due_at)
        slot += 1
    return found


@given(cadences.filter(lambda cadence: cadence.interval_ms >= 500), moments, moments)
def test_slots_in_a_span_are_those_that_are_met_by_walking(cadence: Cadence, start: float, end: float) -> None:
    assert cadence.count_due(start, end) == len(due_times(cadence, start, end))


@given(cadences, moments, moments, moments)
def test_slots_of_adjoining_spans_add_up(cadence: Cadence, a: float, b: float, c: float) -> None:
    start, middle, end = sorted((a, b, c))
    assert cadence.count_due(start, middle) + cadence.count_due(middle, end) == cadence.count_due(start, end)
    assert cadence.count_due(end, start) == 0


@given(cadences, st.integers(-(10**9), 10**9))
def test_a_slot_is_found_at_its_own_due_time(cadence: Cadence, slot: int) -> None:
    due_at = cadence.due_at(slot)
    assert cadence.slot_at(due_at) == slot == cadence.slot_from(due_at)
    assert cadence.slot_at(due_at - 0.001) == slot - 1
    assert cadence.slot_from(due_at + 0.001) == slot + 1
    assert cadence.count_due(due_at, due_at + 0.001) == 1
    assert cadence.count_due(due_at - 0.001, due_at) == (cadence.interval_ms == 1)


def test_phases_are_spread_evenly_and_never_change() -> None:
    assert Cadence.of("openai/gpt-4o-mini@azure/us-east", 60.0) == Cadence(60_000, 31_913)
    tenths = [0] * 10
    for number in range(2000):
        tenths[int(phase_fraction(f"author/model@{number}") * 10)] += 1
    assert min(tenths) > 150
    assert all(0 <= Cadence.of(f"m@{number}", 0.001).phase_ms < 1 for number in range(10))


eras_of_spans = st.lists(
    st.tuples(moments, st.integers(500, 60_000), st.sampled_from(["a", "b"])), min_size=1, max_size=4
).map(
    lambda spans: [
        Era(since, until, Cadence(interval, interval // 3), target)
        for (since, interval, target), until in zip(
            sorted(spans), [*(span[0] for span in sorted(spans)[1:]), None], strict=True
        )
    ]
)


@given(eras_of_spans, moments, moments)
def test_expected_slots_are_those_of_each_era_and_none_before_the_first(
    eras: list[Era], start: float, end: float
) -> None:
    walked = sum(
        len(due_times(era.cadence, max(start, era.since), end if era.until is None else min(end, era.until)))
        for era in eras
    )
    assert expected_slots(eras, start, end) == walked
    assert expected_slots(eras, eras[0].since - 1000, eras[0].since) == 0


@given(st.lists(eras_of_spans | st.just([]), max_size=4), st.lists(moments, max_size=3), moments)
def test_many_series_at_once_expect_what_each_does(every: list[list[Era]], starts: list[float], end: float) -> None:
    expected = [[expected_slots(eras, start, end) for eras in every] for start in starts]
    assert Cadences(every).expected(starts, end).tolist() == expected


@given(eras_of_spans, moments)
def test_the_next_due_slot_is_the_first_that_is_expected(eras: list[Era], after: float) -> None:
    at = float(Cadences([eras]).next_due([after])[0, 0])
    assert expected_slots(eras, after, at) == 0
    assert expected_slots(eras, after, at + 0.001) >= 1


def test_nothing_falls_due_after_the_last_era_has_ended() -> None:
    over = [Era(NOW - 100, NOW, Cadence(1000, 0))]
    assert Cadences([over, []]).next_due([NOW]).tolist() == [[math.inf, math.inf]]
    assert expected_slots([], NOW - 100, NOW) == 0


def test_a_target_is_the_one_of_the_last_era_that_had_begun() -> None:
    spans = [(0, 100, "a"), (100, 200, "a"), (200, 300, "b"), (400, None, "b")]
    eras = [Era(NOW + since, until and NOW + until, Cadence(60_000, 0), target) for since, until, target in spans]
    assert [target_at(eras, NOW + after) for after in (-1, 0, 150, 250, 350, 400)] == [None, "a", "a", "b", "b", "b"]
    assert targets_within(eras, NOW + 150, NOW + 250) == {"a", "b"}
    assert targets_within(eras, NOW + 300, NOW + 400) == set()
