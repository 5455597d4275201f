from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from scheduling_stage import until

from monitor.clock import FakeClock, SystemClock
from monitor.scheduling.lag import LagSampler
from monitor.self_metrics import DELAY_BUCKETS, Delays, SelfMetrics

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


@given(st.lists(st.sampled_from(DELAY_BUCKETS) | st.floats(0.0, 100.0), max_size=30))
def test_delays_are_counted_and_told_as_prometheus_client_does(delays: list[float]) -> None:
    """Its own way takes ten times as long."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counted = Delays("some_seconds", "Some.", ours)
    expected = Histogram("some_seconds", "Some.", buckets=DELAY_BUCKETS, registry=theirs)
    for delay in delays:
        counted.observe(delay)
        expected.observe(delay)
    told = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == told
