from __future__ import annotations

import asyncio
import os
import signal

import pytest
from simulator_stage import eventually, hear, request_bytes

from monitor.clock import SystemClock
from monitor.simulator.fleet import default_fleet
from monitor.simulator.run import run_simulator


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
async def test_it_says_where_it_is_and_stops_when_told(number: signal.Signals | None) -> None:
    told: list[str] = []
    stop = asyncio.Event()
    running = asyncio.create_task(run_simulator("127.0.0.1", 0, 3, SystemClock(), told.append, stop))
    await eventually(lambda: told and told[-1].startswith("or in one request"))
    url = told[0].rpartition(" ")[2]
    assert told[0].startswith("simulated fleet, seed 3: 10 providers, 8 models, 34 endpoints at http://127.0.0.1:")
    for slug, provider in default_fleet(3).providers.items():
        line = next(line for line in told if line.split()[:1] == [slug])
        assert line.split()[1] == provider.dialect
        assert line.split()[2].startswith("http://127.0.0.")
        assert f"/{slug}" in line.split()[2]
    assert f"  curl -s {url}/_sim/monitor.yaml > simulated.yaml" in told
    assert (await hear(url, request_bytes("GET", "/_sim/faults"))).status == 200
    if number is None:
        stop.set()
    else:
        os.kill(os.getpid(), number)
    async with asyncio.timeout(20):
        await running
    assert told[-1] == "stopped"
