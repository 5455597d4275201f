from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta, tzinfo

import apscheduler.schedulers.base
import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from scheduling_stage import until

from monitor.clock import SystemClock
from monitor.scheduling.jobs import Chores, _Every

TICK = 0.02


class SteppedClock(SystemClock):
    """The machine's clocks, with a wall that a test can step: nobody's real time is changed."""

    step_seconds = 0.0

    def now(self) -> float:
        return super().now() + self.step_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    clock = SteppedClock()

    class SteppedDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> SteppedDatetime:
            return cls.fromtimestamp(clock.now(), tz)

    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", SteppedDatetime)
    return clock


class Ticks:
    def __init__(self) -> None:
        self.at: list[float] = []
        self.trouble: Exception | None = None

    def __call__(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        if self.trouble is not None:
            raise self.trouble


@pytest.fixture
async def ticks(clock: SteppedClock) -> Ticks:
    return Ticks()


@pytest.fixture
async def chores(clock: SteppedClock, ticks: Ticks) -> AsyncIterator[Chores]:
    chores = Chores(clock, ticks, TICK)
    chores.start()
    yield chores
    await chores.stop(0.0)


async def spin(seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    await until(lambda: asyncio.get_running_loop().time() >= end)


def counter_of(counts: list[int]) -> Callable[[], Awaitable[None]]:
    async def count() -> None:
        counts.append(1)

    return count


async def test_the_tick_runs_at_once_and_then_steadily(chores: Chores, ticks: Ticks) -> None:
    await until(lambda: len(ticks.at) >= 20)
    assert ticks.at[19] - ticks.at[0] >= 18 * TICK


async def test_chores_run_at_their_interval_before_and_after_the_start(chores: Chores) -> None:
    often: list[int] = []
    seldom: list[int] = []
    later: list[int] = []
    chores.add("often", 0.03, counter_of(often))
    chores.add("seldom", 3600.0, counter_of(seldom))
    chores.add("once soon", 3600.0, counter_of(later), first_after_seconds=0.05)
    await until(lambda: len(often) >= 4 and bool(later))
    assert not seldom
    assert len(later) == 1


async def test_a_chore_added_again_replaces_the_first(chores: Chores) -> None:
    first: list[int] = []
    second: list[int] = []
    chores.add("same", 0.02, counter_of(first))
    chores.add("same", 0.02, counter_of(second))
    await until(lambda: len(second) >= 3)
    assert not first


async def test_a_plain_asyncio_scheduler_stalls_on_a_backward_step(clock: SteppedClock) -> None:
    # The control: without the guard, the step that the next test makes stops everything for an hour.
    ticks: list[int] = []
    scheduler = AsyncIOScheduler(timezone=UTC)
    scheduler.add_job(counter_of(ticks), "interval", seconds=1, next_run_time=datetime.now(UTC))
    scheduler.start()
    await until(lambda: len(ticks) == 1)
    clock.step_seconds -= 3600.0
    scheduler.wakeup()
    await spin(0.05)
    job = scheduler.get_jobs()[0]
    assert job.next_run_time - datetime.fromtimestamp(clock.now(), UTC) > timedelta(minutes=59)
    scheduler.shutdown()
    await asyncio.sleep(0)


@pytest.mark.parametrize("step", [-3600.0, 3600.0, -10 * 365 * 86400.0, 30 * 365 * 86400.0, -0.5, 0.5])
async def test_a_wall_step_neither_stalls_the_tick_nor_makes_a_burst(
    clock: SteppedClock, chores: Chores, ticks: Ticks, step: float
) -> None:
    hourly: list[int] = []
    chores.add("hourly", 3600.0, counter_of(hourly))
    await until(lambda: len(ticks.at) >= 3)
    before = len(ticks.at)
    clock.step_seconds += step
    stepped_at = asyncio.get_running_loop().time()
    await until(lambda: len(ticks.at) >= before + 10)
    assert ticks.at[before + 9] - stepped_at >= 8 * TICK
    # The hourly chore is still an hour away on the monotonic clock, whatever the wall says.
    assert not hourly
    job = chores._scheduler.get_job("hourly")
    left = job.next_run_time.timestamp() - clock.now()
    assert 3590.0 < left <= 3600.5


async def test_a_failing_chore_is_logged_counted_and_done_again(
    chores: Chores, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("a bug")

    chores.add("bad", 0.02, fail)
    await until(lambda: chores.failures["bad"] >= 3)
    assert "chore_failed name=bad failures=1" in caplog.text
    assert "apscheduler" not in {record.name.split(".")[0] for record in caplog.records}


async def test_a_failing_tick_is_counted_and_goes_on(chores: Chores, ticks: Ticks) -> None:
    ticks.trouble = RuntimeError("a bug")
    await until(lambda: chores.failures["tick"] >= 3)


async def test_a_chore_never_overlaps_itself_and_an_overrun_is_told_once(
    chores: Chores, caplog: pytest.LogCaptureFixture
) -> None:
    running = most = 0
    release = asyncio.Event()

    async def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    chores.add("slow", 0.02, slow)
    await until(lambda: chores.overruns["slow"] >= 3)
    release.set()
    assert most == 1
    assert caplog.text.count("chore_overrun name=slow") == 1


async def test_a_stall_of_the_loop_loses_no_run(chores: Chores, ticks: Ticks) -> None:
    runs: list[int] = []
    chores.add("seldom", 3600.0, counter_of(runs), first_after_seconds=0.03)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.3
    while loop.time() < end:  # nothing else runs
        pass
    before = len(ticks.at)
    await until(lambda: bool(runs))
    assert len(ticks.at) <= before + 3  # coalesced, not one for each tick missed


async def test_stopping_waits_for_a_running_chore(chores: Chores, ticks: Ticks) -> None:
    ended: list[int] = []
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await spin(0.05)
        ended.append(1)

    chores.add("work", 3600.0, work, first_after_seconds=0.0)
    await begun.wait()
    await chores.stop(5.0)
    assert ended
    stopped_with = len(ticks.at)
    await spin(0.06)
    assert len(ticks.at) == stopped_with
    await chores.stop(5.0)


async def test_stopping_cancels_at_the_deadline_and_a_cancelled_chore_is_no_failure(
    chores: Chores, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def never_ends() -> None:
        begun.set()
        await asyncio.Event().wait()

    chores.add("endless", 3600.0, never_ends, first_after_seconds=0.0)
    await begun.wait()
    with caplog.at_level(logging.INFO):
        await chores.stop(0.05)
    assert "chore_cancelled name=endless" in caplog.text
    assert chores.failures.total() == 0
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def test_a_trigger_keeps_its_grid_and_never_fires_twice_for_one_time() -> None:
    clock = SteppedClock()
    first_at = clock.monotonic() - 5.0
    every = _Every(clock, 3600.0, first_at)
    assert every.seconds_to_next(ran=True) == pytest.approx(3595.0, abs=0.1)
    # It fired 10 ms before its time: that was this time's run.
    early = _Every(clock, 3600.0, clock.monotonic() + 0.01)
    assert early.seconds_to_next(ran=False) == pytest.approx(0.01, abs=0.01)
    assert early.seconds_to_next(ran=True) == pytest.approx(3600.01, abs=0.1)
