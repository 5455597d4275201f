from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.clock import FakeClock, suspended_seconds
from monitor.scheduling.schedule_clock import ScheduleClock


class HandClock(FakeClock):
    """A fake clock that is moved without a loop; its two hands may move apart."""

    def move(self, monotonic: float, wall: float | None = None) -> None:
        self._monotonic += monotonic
        self._now += monotonic if wall is None else wall


def test_it_starts_at_the_wall_and_runs_with_it() -> None:
    clock = HandClock(now=1000.0)
    schedule = ScheduleClock(clock)
    clock.move(7.0)
    assert schedule.utc_now() == pytest.approx(1007.0)


@pytest.mark.parametrize("step", [3600.0, -3600.0, 0.2, -0.2])
def test_a_wall_step_is_slewed_at_ten_milliseconds_per_second(step: float) -> None:
    clock = HandClock(now=1_000_000.0)
    schedule = ScheduleClock(clock)
    clock.step_wall(step)
    assert schedule.utc_now() == pytest.approx(1_000_000.0)
    clock.move(10.0)
    sign = 1 if step > 0 else -1
    assert schedule.utc_now() == pytest.approx(1_000_010.0 + sign * 0.1)


def test_a_step_is_slewed_away_in_the_end() -> None:
    clock = HandClock(now=1_000_000.0)
    schedule = ScheduleClock(clock)
    clock.step_wall(-30.0)
    for _ in range(3200):
        clock.move(1.0)
        schedule.utc_now()
    assert schedule.utc_now() == pytest.approx(clock.now())
    assert schedule.ahead_of_wall_seconds == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("step", [0.05, -0.05, 0.01])
def test_a_small_difference_is_folded_in_at_once(step: float) -> None:
    clock = HandClock(now=1000.0)
    schedule = ScheduleClock(clock)
    clock.move(1.0, wall=1.0 + step)
    assert schedule.utc_now() == pytest.approx(1001.0 + step)


def test_monotonic_at_is_the_inverse_of_utc_now() -> None:
    clock = HandClock(now=1000.0, monotonic=50.0)
    schedule = ScheduleClock(clock)
    clock.move(3.0)
    assert schedule.monotonic_at(schedule.utc_now()) == pytest.approx(clock.monotonic())
    assert schedule.monotonic_at(1013.0) == pytest.approx(63.0)


def test_after_a_backward_step_and_a_restart_it_begins_behind_the_last_slot_used() -> None:
    clock = HandClock(now=1_000_000.0)
    schedule = ScheduleClock(clock, last_due_at=1_003_600.0)
    assert schedule.utc_now() == pytest.approx(1_003_600.0)
    assert schedule.ahead_of_wall_seconds == pytest.approx(3600.0)


def test_a_last_slot_from_the_far_future_binds_nobody() -> None:
    clock = HandClock(now=1_000_000.0)
    assert ScheduleClock(clock, last_due_at=1_000_000.0 + 10 * 365 * 86400.0).utc_now() == pytest.approx(1_000_000.0)


def test_after_a_suspension_the_schedule_is_at_the_wall_again() -> None:
    clock = HandClock(now=1000.0)
    slept = 0.0
    schedule = ScheduleClock(clock, suspended_seconds=lambda: slept)
    slept = 28_800.0
    clock.move(1.0, wall=28_801.0)
    assert schedule.utc_now() == pytest.approx(29_801.0)


def test_the_machine_tells_how_long_it_slept() -> None:
    first = suspended_seconds()
    assert first >= -0.001
    assert suspended_seconds() == pytest.approx(first, abs=0.5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(-5000.0, 5000.0) | st.just(0.0)), max_size=40))
def test_it_never_steps_whatever_the_wall_does(moves: list[tuple[float, float]]) -> None:
    clock = HandClock(now=1_000_000.0)
    schedule = ScheduleClock(clock)
    before = schedule.utc_now()
    for elapsed, step in moves:
        clock.move(elapsed)
        clock.step_wall(step)
        after = schedule.utc_now()
        assert abs((after - before) - elapsed) <= max(0.01 * elapsed, 0.05) + 1e-6
        before = after
