from __future__ import annotations

import asyncio
import time

import pytest
from scheduling_stage import until

from monitor.clock import FakeClock, SystemClock
from monitor.scheduling.lag import LagSampler
from monitor.self_metrics import SelfMetrics

pytestmark = pytest.mark.timed


async def test_a_free_loop_shows_no_lag() -> None:
    clock, metrics = FakeClock(), SelfMetrics("test")
    running = asyncio.create_task(LagSampler(clock, metrics).run())
    await clock.advance(10.05)
    running.cancel()
    assert metrics.registry.get_sample_value("monitor_event_loop_lag_seconds_count") == 100.0
    assert metrics.registry.get_sample_value("monitor_event_loop_lag_seconds_bucket", {"le": "0.001"}) == 100.0


async def test_a_blocked_loop_is_seen() -> None:
    metrics = SelfMetrics("test")
    sampler = LagSampler(SystemClock(), metrics)
    running = asyncio.create_task(sampler.run())
    await asyncio.sleep(0.01)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    await until(lambda: sampler.last_seconds >= 0.1)
    running.cancel()
