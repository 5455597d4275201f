from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator_stage import FLEET, GPT, R1

from monitor.simulator.behaviour import NO_FAULT, door_is_closed, in_force, load_at, rows, script
from monitor.simulator.faults import FAULTS, NATURES, Fault, Reach
from monitor.simulator.fleet import default_fleet
from monitor.simulator.members import Cycle

MOMENTS = st.floats(1.6e9, 2.0e9)
DAY = 86400.0


@given(
    endpoint=st.sampled_from(list(FLEET.endpoints.values())),
    number=st.integers(-(2**62), 2**62),
    at=MOMENTS,
    cap=st.integers(1, 300),
    forced=st.sampled_from([None, "healthy", *Fault]),
)
@settings(max_examples=300, deadline=None)
def test_the_script_for_any_number_is_valid(endpoint, number, at, cap, forced) -> None:
    played = script(FLEET, endpoint, number, at, cap, forced)
    fault = played.fault
    if forced is not None:
        assert fault == (None if forced == "healthy" else forced)
    spans = [played.headers_seconds, played.ttft_seconds, played.end_seconds, *played.gaps_seconds]
    assert all(math.isfinite(span) and span > 0 for span in spans)
    assert played.headers_seconds < played.ttft_seconds
    assert len(played.gaps_seconds) == max(played.chunks - 1, 0)
    assert all(size > 0 for size in (*played.reasoning_chunks, *played.answer_chunks))
    assert sum(played.reasoning_chunks) in (0, played.reasoning_tokens)
    assert 1 <= played.output_tokens <= cap
    assert 1 <= played.retry_after_seconds <= 20
    assert (played.broken_after is not None) is (fault is not None and NATURES[fault].reach is Reach.TOKENS)
    if played.broken_after is not None:
        assert 1 <= played.broken_after <= played.chunks
    if fault is not None and NATURES[fault].reach in (Reach.TOKENS, Reach.COMPLETE):
        assert (played.answer_tokens == 0) is (fault is Fault.REASONING_CUT)


@given(st.integers(0, 2**40), MOMENTS)
@settings(max_examples=50, deadline=None)
def test_a_script_is_the_same_whenever_it_is_asked_for(number: int, at: float) -> None:
    endpoint = FLEET.endpoints[R1]
    assert script(FLEET, endpoint, number, at) == script(FLEET, endpoint, number, at)


def test_a_row_is_the_same_alone_and_among_others() -> None:
    numbers, at = np.arange(500), 1.7e9 + 60.0 * np.arange(500)
    for endpoint in FLEET.endpoints.values():
        together = rows(FLEET, endpoint, numbers, at)
        for place in (0, 250, 499):
            alone = rows(FLEET, endpoint, numbers[place : place + 1], at[place : place + 1])
            assert alone.fault[0] == together.fault[place]
            assert alone.answer_tokens[0] == together.answer_tokens[place]
            assert alone.ttft_seconds[0] == pytest.approx(together.ttft_seconds[place], rel=1e-9)
            assert alone.gaps_seconds.sum() == pytest.approx(together.gaps_seconds[place].sum(), rel=1e-9)


_SCRIPTS = """
from monitor.simulator.fleet import default_fleet
from monitor.simulator.behaviour import script
fleet = default_fleet(7)
for endpoint in fleet.endpoints.values():
    for number in range(3):
        print(script(fleet, endpoint, number, 1.7e9 + number))
"""


def test_one_seed_gives_one_history_in_every_process() -> None:
    def told(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(
            [sys.executable, "-c", _SCRIPTS], env=environment, capture_output=True, text=True, check=True
        ).stdout

    first = told("1")
    assert first.count("Script(") == 3 * len(FLEET.endpoints)
    assert told("2") == first


def test_another_seed_gives_another_history() -> None:
    other = default_fleet(2)
    for name, endpoint in FLEET.endpoints.items():
        first, second = script(FLEET, endpoint, 1, 1.7e9), script(other, other.endpoints[name], 1, 1.7e9)
        assert first.ttft_seconds != second.ttft_seconds
    drawn = rows(FLEET, FLEET.endpoints[R1], np.arange(1000), np.full(1000, 1.7e9))
    redrawn = rows(other, other.endpoints[R1], np.arange(1000), np.full(1000, 1.7e9))
    assert (drawn.fault != redrawn.fault).any()


def test_at_its_peak_hour_an_endpoint_is_slower_and_throttles_more() -> None:
    monday = 1_699_833_600.0  # 2023-11-13, midnight UTC
    endpoint = FLEET.endpoints["meta-llama/llama-3.3-70b-instruct@borealis"]
    busy, calm = (rows(FLEET, endpoint, np.arange(3000), np.full(3000, monday + hour * 3600.0)) for hour in (15, 3))
    assert np.median(busy.ttft_seconds) > 1.5 * np.median(calm.ttft_seconds)
    assert busy.gaps_seconds.max(axis=1).mean() > calm.gaps_seconds.max(axis=1).mean()
    throttler = FLEET.endpoints["meta-llama/llama-3.3-70b-instruct@sirocco"]
    by_day, by_night = (
        rows(FLEET, throttler, np.arange(3000), np.full(3000, monday + hour * 3600.0)).fault for hour in (15, 3)
    )
    assert (by_day != NO_FAULT).sum() > 3 * (by_night != NO_FAULT).sum()


def test_load_is_lower_at_weekends() -> None:
    profile = FLEET.endpoints[GPT].profile
    saturday, monday = 1_699_660_800.0, 1_699_833_600.0
    afternoon = profile.peak_hour * 3600.0
    weekend, weekday = load_at(profile, np.array([saturday + afternoon, monday + afternoon]))
    assert weekday == pytest.approx(1.0)
    assert 0.5 < weekend < 0.8


@given(MOMENTS)
@settings(max_examples=100, deadline=None)
def test_one_of_the_two_that_take_turns_is_always_down(at: float) -> None:
    ember = FLEET.endpoints["meta-llama/llama-3.3-70b-instruct@ember"]
    faults = rows(FLEET, ember, np.arange(50), np.full(50, at)).fault
    is_down = (faults == FAULTS.index(Fault.OVERLOADED_503)).mean() > 0.5
    assert is_down is not door_is_closed(FLEET, "lanternfish", at)


def test_those_with_a_broken_account_never_answer() -> None:
    at = 1.7e9 + np.arange(300) * 9000.0
    for name, fault in {
        "openai/gpt-4o-mini@atoll": Fault.AUTH_401,
        "anthropic/claude-3.5-haiku@atoll": Fault.QUOTA_429,
        "google/gemma-3-27b-it@atoll": Fault.MODEL_404,
    }.items():
        assert set(rows(FLEET, FLEET.endpoints[name], np.arange(300), at).fault) == {FAULTS.index(fault)}


@given(
    period=st.floats(100.0, 1e6),
    share=st.floats(0.01, 1.0),
    offset=st.floats(-1e6, 1e6),
    wandering=st.booleans(),
    key=st.integers(0, 2**64 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_cycle_comes_once_a_period_and_lasts_about_as_long_as_it_says(period, share, offset, wandering, key) -> None:
    cycle = Cycle(Fault.STALL, period, period * share, offset, wandering)
    start = offset + 1000 * period
    at = start + np.linspace(0.0, 40 * period, 40 * 200, endpoint=False)
    struck = in_force(cycle, key, at)
    assert share * (0.45 if wandering else 0.95) - 0.02 <= struck.mean() <= min(share * 1.55, 1.0) + 0.02
    for period_of_200 in np.split(struck, 40):
        assert np.count_nonzero(np.diff(period_of_200.astype(int)) > 0) <= 1
