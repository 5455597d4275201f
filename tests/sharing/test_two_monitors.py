"""Two daemons on one PostgreSQL: each slot by one of them, both with the whole picture; one is frozen, one killed."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
from daemon_stage import Subprocess, get, until
from sharing_stage import Event, end_all, freeze, kill, lateness, monitors, reckon, remembering_fleet, starved

from monitor.sharing.lease import LEASE_SECONDS

pytestmark = pytest.mark.timed

INTERVAL_SECONDS = 3.0
SHOWN_SECONDS = 5.0 + 5.0  # and as much again where the machine is busy
FROZEN_SECONDS = LEASE_SECONDS + 2.0


async def _metric(monitor: Subprocess, name: str) -> float:
    _, text = await get(monitor.address, "/metrics")
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def _samples(monitor: Subprocess) -> dict[str, int]:
    """Of the last half hour, by endpoint."""
    _, text = await get(monitor.address, "/metrics")
    rows = re.findall(r"^llm_endpoint_samples\{(.*)\} (\S+)$", text, re.MULTILINE)
    return {labels: int(float(value)) for labels, value in rows if 'window="30m"' in labels}


async def _has_everything(monitor: Subprocess, endpoints: int) -> bool:
    shown = await _samples(monitor)
    return len(shown) == endpoints and min(shown.values()) > 0


async def _shows(monitor: Subprocess, least: dict[str, int]) -> bool:
    shown = await _samples(monitor)
    return all(shown[endpoint] >= samples for endpoint, samples in least.items())


@pytest.mark.waits
@pytest.mark.timeout(400)
async def test_two_monitors_share_the_slots_and_the_picture(postgres_url: str, tmp_path: Path) -> None:
    events: list[Event] = []
    async with remembering_fleet(16) as server, lateness() as lags:
        first, second = monitors(server, tmp_path, postgres_url, f"{INTERVAL_SECONDS:g}s", 2)
        try:
            await asyncio.gather(first.start(60.0), second.start(60.0))
            began = time.time()
            for monitor in (first, second):
                await until(lambda m=monitor: _is(m, "monitor_shards_held", 128.0))
            await freeze(second, 2, FROZEN_SECONDS, events)
            await until(lambda: _is(second, "monitor_incarnations_lost_total", 1.0))
            await until(lambda: _is(second, "monitor_shards_held", 128.0))
            await until(lambda: _is(first, "monitor_monitors_here", 2.0))
            for one, other in ((first, second), (second, first)):
                await until(lambda o=one: _has_everything(o, 16))
                shown = await _samples(one)
                await until(lambda o=other, s=shown: _shows(o, s), SHOWN_SECONDS)
            status, text = await get(second.address, "/readyz")
            assert status == 200 and "2 monitors" in text
            await kill(first, 1, events)
            await until(lambda: _is(second, "monitor_shards_held", 256.0))
            await until(lambda: _exceeds(second, "monitor_slots_recovered_total", 0.0))
            ended = time.time()
            await until(lambda: time.time() > ended + INTERVAL_SECONDS)
        finally:
            await end_all([first, second])
        events += starved([first, second], events)
        found = await reckon(postgres_url, server, began, ended, INTERVAL_SECONDS, events, lags)
    print("\n".join([*found.lines(), *map(str, events)]))
    assert found.missing == []
    assert found.unasked == []
    assert found.unexplained == []


async def _exceeds(monitor: Subprocess, name: str, value: float) -> bool:
    return await _metric(monitor, name) > value


async def _is(monitor: Subprocess, name: str, value: float) -> bool:
    return await _metric(monitor, name) == value
