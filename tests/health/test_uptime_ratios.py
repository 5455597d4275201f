from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.health.uptime import MILLION, GroupCounts, group_matrix, grouped, percent, ratio, ratios
from monitor.health.view import WindowFigures, figure_quantiles
from monitor.outcome import OUTCOMES, POLICIES, Group, Outcome, group_of

counts_of = st.integers(0, 10**12)
outcome_counts = st.dictionaries(st.sampled_from(OUTCOMES), st.integers(0, 1000))


@given(counts_of, counts_of)
def test_a_ratio_is_floored_to_six_decimals_exactly(part: int, rest: int) -> None:
    found = ratio(part, part + rest)
    if part + rest == 0:
        assert found is None
        return
    assert found is not None
    millionths = round(found * MILLION)
    assert found == millionths / MILLION
    assert 0 <= Fraction(part, part + rest) - Fraction(millionths, MILLION) < Fraction(1, MILLION)


@given(st.lists(st.tuples(counts_of, counts_of), min_size=1, max_size=5))
def test_many_ratios_at_once_are_what_each_is(pairs: list[tuple[int, int]]) -> None:
    parts, wholes = np.array(pairs, dtype=np.int64).T
    assert ratios(parts, wholes) == [ratio(*pair) for pair in pairs]


def test_one_failure_never_reads_as_all_well() -> None:
    assert ratio(10**9 - 1, 10**9) == 0.999999
    assert percent(ratio(10**9 - 1, 10**9)) == 99.99
    assert ratio(10**9, 10**9) == 1.0
    assert percent(1.0) == 100.0


@given(st.integers(0, MILLION))
def test_a_percentage_is_floored_to_two_decimals_of_the_ratio(millionths: int) -> None:
    assert percent(millionths / MILLION) == millionths // 100 / 100


def test_without_a_sample_there_is_no_ratio() -> None:
    nothing = GroupCounts()
    assert nothing.uptime_ratio() is None
    assert nothing.throttled_ratio() is None
    assert nothing.coverage_ratio(0) is None
    assert percent(None) is None
    assert nothing.coverage_ratio(5) == 0.0
    assert GroupCounts(throttled=3, seen=3).uptime_ratio() is None
    assert GroupCounts(throttled=3, seen=3).throttled_ratio() == 1.0


def test_coverage_is_never_above_one() -> None:
    assert GroupCounts(ok=7, seen=7).coverage_ratio(5) == 1.0


@given(outcome_counts, st.sampled_from(sorted(POLICIES)))
def test_counts_are_pooled_and_told_apart_by_policy(counts: dict[Outcome, int], policy: str) -> None:
    found = grouped(counts, policy)
    vector = [counts.get(outcome, 0) for outcome in OUTCOMES]
    assert (vector @ group_matrix(policy)).tolist() == [found.ok, found.provider_fault, found.throttled, found.seen]
    faults = sum(n for outcome, n in counts.items() if group_of(outcome, policy) is Group.PROVIDER_FAULT)
    assert found.samples == found.ok + faults
    assert found.seen == sum(n for outcome, n in counts.items() if group_of(outcome) is not Group.MONITOR_FAULT)
    assert found.seen >= found.samples + found.throttled
    uptime = found.uptime_ratio()
    assert uptime is None if found.samples == 0 else 0 <= uptime <= 1
    assert (uptime == 1.0) == (found.samples > 0 and faults == 0)


def test_our_own_expired_key_is_not_downtime_unless_the_policy_says_so() -> None:
    counts = {Outcome.SUCCESS: 3, Outcome.AUTH: 1}
    assert grouped(counts, "monitor").uptime_ratio() == 1.0
    assert grouped(counts, "openrouter").uptime_ratio() == 0.75


def test_what_the_monitor_could_not_do_is_not_seen() -> None:
    counts = {Outcome.SUCCESS: 1, Outcome.OFFLINE: 4, Outcome.AUTH: 1, Outcome.BAD_REQUEST: 1}
    assert grouped(counts, "monitor").seen == 3


def test_the_quantiles_of_a_speed_are_on_its_slow_side() -> None:
    assert figure_quantiles("ttft_seconds", (0.5, 0.9, 0.99)) == (0.5, 0.9, 0.99)
    assert figure_quantiles("output_tokens_per_second", (0.5, 0.9, 0.99)) == (0.5, 0.1, 0.01)
    assert figure_quantiles("throughput_tokens_per_second", (0.75,)) == (0.25,)


def test_a_window_shows_counts_beside_its_ratios() -> None:
    found = WindowFigures.of(GroupCounts(ok=2, provider_fault=1, throttled=1, seen=5), 2, 1, 6, {})
    assert (found.samples, found.successes, found.seen, found.expected) == (3, 2, 5, 6)
    assert (found.uptime_ratio, found.throttled_ratio) == (0.666666, 0.25)
    assert (found.coverage_ratio, found.answer_ok_ratio) == (0.833333, 0.5)
