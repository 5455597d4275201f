"""What a whole daemon tells while its own network is gone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from daemon_stage import environment, fleet_config, get, running, settings_from, until

from monitor.catalog.model import Model, Price
from monitor.clock import SystemClock
from monitor.simulator.faults import Fault
from monitor.simulator.members import Profile, SimEndpoint, SimProvider, fleet_of
from monitor.simulator.server import FleetServer

pytestmark = [pytest.mark.waits, pytest.mark.timed]

PROVIDERS = tuple(
    SimProvider(slug, slug, "steady", loopback=number) for slug, number in (("one", 31), ("two", 32), ("three", 33))
)
PROFILE = Profile(0.05, 200.0, tail_share=0.0)


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetServer]:
    endpoints = tuple(SimEndpoint("acme/small", one.slug, "", "small", Price(0.1, 0.2), PROFILE) for one in PROVIDERS)
    simulated = fleet_of(1, PROVIDERS, (Model("acme/small", "Small"),), endpoints)
    async with FleetServer(simulated, SystemClock()) as server:
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        yield server


def rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(directory / "monitor.db", timeout=5.0)
    try:
        with connection:
            return connection.execute(query).fetchall()
    finally:
        connection.close()


def blamed(directory: Path) -> list[tuple[Any, ...]]:
    """Failures put down to providers; a fleet that stops ends its streams itself, which no lost network does."""
    found = rows(directory, "SELECT endpoint, outcome, detail FROM observations WHERE \"group\" = 'provider_fault'")
    return [one for one in found if one[1] != "truncated"]


async def test_while_our_network_is_gone_everything_says_so_and_nobody_is_blamed(
    fleet: FleetServer, tmp_path: Path
) -> None:
    async with running(settings_from(fleet_config(fleet, tmp_path))) as daemon:

        async def all_up() -> bool:
            return len(ups(await metrics())) == 3

        async def metrics() -> str:
            return (await get(daemon, "/metrics"))[1]

        async def is_suspect() -> bool:
            return "\nmonitor_self_suspect 1.0" in await metrics()

        async def is_calm() -> bool:
            return not await is_suspect()

        await until(all_up)
        assert json.loads((await get(daemon, "/readyz"))[1])["checks"]["network"] == {"ok": True, "message": ""}
        await fleet.stop()
        await until(is_suspect)
        status, body = await get(daemon, "/readyz")
        assert status == 200
        checks = json.loads(body)["checks"]
        assert checks["network"]["ok"] is False
        assert checks["network"]["message"].startswith("network: ")

        async def told() -> list[dict[str, Any]]:
            return list(json.loads((await get(daemon, "/api/v1/incidents"))[1])["data"])

        (lasting,) = await until(told)
        assert (lasting["endpoint"], lasting["state"], lasting["cause"]) == (None, "self_suspect", "network")
        assert lasting["ended_at"] is None
        await fleet.start()
        await until(is_calm)
        assert len(ups(await metrics())) == 3

        async def ended() -> list[dict[str, Any]]:
            return [one for one in await told() if one["ended_at"]]

        (over,) = await until(ended)
        assert over["id"] == lasting["id"] < 0
        assert 0 < over["duration_seconds"] < 30
        asked = json.loads((await get(daemon, "/api/v1/incidents?endpoint=acme/small@one"))[1])
        assert asked["data"] == []
    assert blamed(tmp_path) == []
    assert rows(tmp_path, "SELECT count(*) FROM observations WHERE outcome = 'offline'")[0][0] >= 1


def ups(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("llm_endpoint_up{") and line.endswith(" 1")]


async def test_an_outage_that_a_crash_left_open_ends_at_the_next_start(fleet: FleetServer, tmp_path: Path) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path))
    async with running(settings) as daemon:

        async def written() -> bool:
            return "monitor_observations_written_total 0.0" not in (await get(daemon, "/metrics"))[1]

        await until(written)
    ((last_us,),) = rows(tmp_path, "SELECT max(due_ms) * 1000 FROM raw_observations")
    insert = (
        "INSERT INTO own_outages (location_id, cause, reason, started_us) SELECT id, '{}', 'gone', {} FROM locations"
    )
    rows(tmp_path, insert.format("network", last_us - 5_000_000))
    rows(tmp_path, insert.format("route", last_us + 5_000_000))
    async with running(settings):
        pass
    assert rows(tmp_path, "SELECT ended_us - started_us FROM own_outages ORDER BY cause") == [(5_000_000,), (0,)]


async def test_a_daemon_that_starts_without_network_blames_nobody_who_was_well(
    fleet: FleetServer, tmp_path: Path
) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path))
    async with running(settings) as daemon:

        async def all_up() -> bool:
            return len(ups((await get(daemon, "/metrics"))[1])) == 3

        await until(all_up)
    await fleet.stop()
    async with running(settings) as daemon:

        async def is_suspect() -> bool:
            return "\nmonitor_self_suspect 1.0" in (await get(daemon, "/metrics"))[1]

        await until(is_suspect)
    assert blamed(tmp_path) == []


async def test_a_dead_provider_is_down_in_a_daemon_too(fleet: FleetServer, tmp_path: Path) -> None:
    more = "state: {recheck: 100ms}\n"
    async with running(settings_from(fleet_config(fleet, tmp_path, more=more))) as daemon:
        await fleet.force("one", Fault.REFUSED)

        async def is_down() -> bool:
            text = (await get(daemon, "/metrics"))[1]
            return any(line.endswith(" 0") for line in text.splitlines() if line.startswith("llm_endpoint_up{"))

        await until(is_down)
        assert "\nmonitor_self_suspect 0.0" in (await get(daemon, "/metrics"))[1]
