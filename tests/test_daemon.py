"""The whole house: a real fleet on real sockets, a real daemon, a real database file."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import pytest
from daemon_stage import (
    Subprocess,
    environment,
    fleet_config,
    get,
    running,
    settings_from,
    until,
)

from monitor.clock import utc_text
from monitor.daemon import Daemon, DaemonError
from monitor.probing.redaction import Redactor
from monitor.simulator.faults import Fault
from monitor.simulator.server import FleetServer

pytestmark = pytest.mark.waits


async def written(daemon: Daemon | str, at_least: int) -> int:
    async def enough() -> int:
        _, text = await get(daemon, "/metrics")
        line = next(line for line in text.splitlines() if line.startswith("monitor_observations_written_total "))
        count = int(float(line.split()[1]))
        return count if count >= at_least else 0

    return int(await until(enough))


def rows_of(directory: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(f"file:{directory}/monitor.db?mode=ro", uri=True) as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


async def test_every_endpoint_is_probed_recorded_and_served(fleet: FleetServer, tmp_path: Path) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path))
    async with running(settings) as daemon:
        assert (await get(daemon, "/readyz"))[0] == 200
        await written(daemon, 3 * len(settings.catalog.endpoints))

        labels = 'model="openai/gpt-4o-mini",provider="northwind",location="test",window="30d"'
        ttft, uptime = (
            f"llm_endpoint_ttft_seconds{{{labels},quantile=",
            f"llm_endpoint_uptime_ratio{{{labels}}} ",
        )

        async def served() -> str:
            _, text = await get(daemon, "/metrics")
            return text if all(one in text for one in (ttft, uptime)) else ""

        await until(served)
        _, body = await get(daemon, "/api/v1/routing")
        routed = {one["endpoint"] for one in json.loads(body)["endpoints"]}
    assert routed == set(settings.catalog.endpoints)
    recorded = {name for (name,) in rows_of(tmp_path, "SELECT DISTINCT endpoint FROM observations")}
    # By day sirocco throttles its key, and what it asks for holds back the other endpoint of that key.
    held_back = {name for name in settings.catalog.endpoints if name.endswith("@sirocco")}
    assert recorded | held_back == set(settings.catalog.endpoints)
    assert recorded & held_back


async def test_a_restart_brings_the_same_windows_back(fleet: FleetServer, tmp_path: Path) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path))
    async with running(settings) as daemon:
        await written(daemon, 100)
    # Drained: what this process counted is what it has committed.
    board = daemon.rooms.board

    def counts(of: Daemon) -> dict[str, tuple[int, int, int]]:
        found = {}
        for endpoint in settings.catalog.endpoints:
            figures = of.rooms.board.figures([endpoint], None, "30d")
            found[endpoint] = (figures.samples, figures.successes, figures.seen)
        return found

    before = counts(daemon)
    ttft = board.figures(settings.catalog.endpoints, None, "30d", (0.5, 0.9)).quantiles["ttft_seconds"]
    assert sum(seen for _, _, seen in before.values()) >= 80
    settings_quiet = settings_from(fleet_config(fleet, tmp_path, interval="1h"))
    async with running(settings_quiet) as restarted:
        assert counts(restarted) == before
        again = restarted.rooms.board.figures(settings.catalog.endpoints, None, "30d", (0.5, 0.9))
        assert again.quantiles["ttft_seconds"] == ttft


async def test_uptime_says_what_sql_says(fleet: FleetServer, tmp_path: Path) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path))
    async with running(settings) as daemon:
        await written(daemon, 150)
    query = """
        SELECT endpoint, sum("group" = 'ok'), sum("group" IN ('ok', 'provider_fault'))
        FROM observations WHERE NOT recheck GROUP BY endpoint
    """
    for endpoint, ok, samples in rows_of(tmp_path, query):
        figures = daemon.rooms.board.figures([str(endpoint)], None, "30d")
        assert (figures.successes, figures.samples) == (ok, samples)


async def test_a_broken_provider_goes_down_within_seconds_and_comes_back(fleet: FleetServer, tmp_path: Path) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path, more="state: {recheck: 100ms}\n"))
    endpoint = "openai/gpt-4o-mini@northwind"
    async with running(settings) as daemon:

        async def state() -> str:
            _, body = await get(daemon, "/api/v1/routing")
            found = {one["endpoint"]: one["state"] for one in json.loads(body)["endpoints"]}
            return str(found.get(endpoint))

        async def state_is(wanted: str) -> bool:
            return await state() == wanted

        await until(lambda: state_is("operational"))
        await fleet.force(endpoint, fault_named("server_error_500"))
        await until(lambda: state_is("down"))
        await fleet.force(endpoint, None)
        await until(lambda: state_is("operational"))

        async def incidents() -> list[dict[str, object]]:
            _, body = await get(daemon, f"/api/v1/incidents?endpoint={endpoint}")
            found = json.loads(body)
            listed = found["incidents"] if isinstance(found, dict) and "incidents" in found else found["data"]
            return [one for one in listed if one["ended_at"]]

        (incident,) = await until(incidents)
        assert incident["cause"] == "server_error"


def fault_named(name: str) -> Fault:
    return next(fault for fault in Fault if fault.name.lower() == name)


async def test_a_bad_reload_changes_nothing_and_a_good_one_everything(fleet: FleetServer, tmp_path: Path) -> None:
    path = fleet_config(fleet, tmp_path)
    good = path.read_text()
    async with running(settings_from(path), lambda: settings_from(path)) as daemon:
        path.write_text(good.replace("interval: 1s", "interval: soon"))
        async with aiohttp.ClientSession() as session:
            url = f"http://{daemon.address}/-/reload"
            async with session.post(url, headers={"Origin": "http://evil.example"}) as refused:
                assert refused.status == 403
            async with session.post(url) as bad:
                assert bad.status == 400
                assert "probing.interval" in await bad.text()
            _, text = await get(daemon, "/metrics")
            assert "monitor_config_last_reload_successful 0.0" in text
            assert daemon.settings.probing.interval_seconds == 1.0
            path.write_text(good.replace("location: test", "location: elsewhere"))
            async with session.post(url) as fixed:
                (problem,) = (await fixed.json())["error"]["problems"]
                assert problem["message"] == "cannot change while the daemon runs; restart the daemon to change it"
                assert problem["example"] == ""
            path.write_text(good.replace("interval: 1s", "interval: 2s"))
            async with session.post(url) as held:
                assert held.status == 200
        _, text = await get(daemon, "/metrics")
        assert "monitor_config_last_reload_successful 1.0" in text
        assert daemon.settings.probing.interval_seconds == 2.0


async def test_a_port_in_use_is_said_plainly(fleet: FleetServer, tmp_path: Path) -> None:
    path = fleet_config(fleet, tmp_path)
    taken = fleet.url.removeprefix("http://").rstrip("/")
    path.write_text(path.read_text().replace("127.0.0.1:0", taken))
    with pytest.raises(DaemonError, match=r"listen: .* cannot be used: .*; stop what listens there"):
        async with running(settings_from(path)):
            pass
    assert not (tmp_path / "monitor.db.lock").exists() or _lock_is_free(tmp_path)


def _lock_is_free(directory: Path) -> bool:
    from monitor.storage.lock import FileLock

    lock = FileLock(directory / "monitor.db")
    lock.acquire("test", 0.0)
    lock.release()
    return True


async def test_the_budget_stretches_intervals_and_is_never_exceeded(fleet: FleetServer, tmp_path: Path) -> None:
    path = fleet_config(fleet, tmp_path)
    path.write_text(path.read_text().replace("interval: 1s", "interval: 1s\n  budget: {usd_per_day: 0.0001}"))
    settings = settings_from(path)
    async with running(settings) as daemon:

        async def thinned() -> bool:
            _, text = await get(daemon, "/metrics")
            return 'monitor_probes_skipped_total{reason="budget"} 0.0' not in text

        await until(thinned)
        await daemon.rooms.writer.flush()
    ((spent,),) = rows_of(tmp_path, "SELECT coalesce(sum(cost_usd), 0) FROM observations")
    assert float(str(spent)) <= 0.0001


async def test_a_missing_secret_is_told_with_its_place_and_a_failing_key_once(
    fleet: FleetServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fleet_config(fleet, tmp_path)
    name = next(name for name in environment(fleet) if "NORTHWIND" in name)
    monkeypatch.delenv(name)
    with caplog.at_level(logging.INFO):
        async with running(settings_from(path)):
            told = [record.getMessage() for record in caplog.records]
            (line,) = [line for line in told if line.startswith("secret_missing")]
            place = rf"at={path}:\d+ path=providers.northwind.api_key"
            assert re.match(rf'secret_missing {place} cause="environment variable {name} is not set"', line)
            assert Redactor(()).redact(line) == line, "nothing in it looks like a key"

            def unusable() -> list[str]:
                told = [record.getMessage() for record in caplog.records]
                return [line for line in told if line.startswith("unusable endpoint=openai/gpt-4o-mini@atoll ")]

            (line,) = await until(unusable)
            assert "cause=auth detail=" in line


async def test_a_hang_up_reloads_and_a_term_drains(fleet: FleetServer, tmp_path: Path) -> None:
    path = fleet_config(fleet, tmp_path)
    daemon = Subprocess(path, environment(fleet))
    await daemon.start()
    await written(daemon.address, 10)
    daemon.signal(signal.SIGHUP)
    await until(lambda: any("reloaded" in line for line in daemon.log))
    assert await daemon.end(signal.SIGTERM) == 0
    assert any("drained" in line for line in daemon.log)
    assert not any("Traceback" in line for line in daemon.log), "\n".join(daemon.log)


Row = tuple[str, str, bool, str]


async def acknowledged_by(address: str, endpoints: Iterable[str]) -> tuple[set[Row], dict[str, int]]:
    """What a daemon has served: its rows, and how many scheduled ones each endpoint's figures rest on."""
    served: set[Row] = set()
    async with aiohttp.ClientSession() as session:
        for endpoint in endpoints:
            path = f"/api/v1/endpoints/{endpoint}/observations?limit=1000"
            async with session.get(f"http://{address}{path}") as response:
                found = (await response.json())["data"]
            served |= {(one["endpoint"], one["started_at"], one["recheck"], one["outcome"]) for one in found}
        async with session.get(f"http://{address}/api/v1/routing") as response:
            snapshot = await response.json()
    return served, {one["endpoint"]: one["windows"]["30d"]["seen"] for one in snapshot["endpoints"]}


async def test_a_probe_that_the_shutdown_cuts_off_is_recorded_as_ours(
    fleet: FleetServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.daemon.DRAIN_SECONDS", 0.1)
    settings = settings_from(fleet_config(fleet, tmp_path))
    endpoint = "openai/gpt-4o-mini@northwind"
    async with running(settings) as daemon:
        await written(daemon, 20)
        await fleet.force(endpoint, Fault.SILENT)
        silent_since = daemon.clock.monotonic()

        def hangs() -> bool:
            flight = daemon.rooms.dispatcher._departures.flights.get(endpoint)
            return flight is not None and flight.began_at > silent_since

        await until(hangs)
    figures = daemon.rooms.board.figures([endpoint], None, "30d")
    query = f"""
        SELECT outcome, "group", recheck FROM observations
        WHERE endpoint = '{endpoint}' ORDER BY started_at DESC LIMIT 1
    """
    assert rows_of(tmp_path, query) == [("shutdown", "monitor_fault", 0)]
    ((ok, faults, ours),) = rows_of(
        tmp_path,
        f"""SELECT sum("group" = 'ok'), sum("group" = 'provider_fault'), sum(outcome = 'shutdown')
            FROM observations WHERE endpoint = '{endpoint}' AND NOT recheck""",
    )
    assert (figures.successes, figures.samples, ours) == (ok, int(str(ok)) + int(str(faults)), 1)
    assert figures.seen == figures.samples, "it counts as a slot that nobody saw"


async def test_too_few_descriptors_are_told_at_the_start(
    fleet: FleetServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monitor.descriptors.raise_limit", lambda: 64)
    async with running(settings_from(fleet_config(fleet, tmp_path, interval="1h"))):
        pass
    assert "files_short 64 open files are allowed" in caplog.text


async def kill_and_look(fleet: FleetServer, directory: Path, kills: int) -> None:
    """Kill -9 a real daemon at uneven moments: endpoint by endpoint, nothing that it has served may be missing, and no
    request of the fleet's may have become two rows."""
    daemon = Subprocess(fleet_config(fleet, directory), environment(fleet))
    acknowledged: set[Row] = set()
    for number in range(kills):
        await daemon.start()
        counted = await written(daemon.address, 5 + 13 * (number % 4))
        before = len(acknowledged)
        served, seen = await acknowledged_by(daemon.address, fleet.fleet.endpoints)
        await daemon.end(signal.SIGKILL)
        acknowledged |= served
        rows = rows_of(
            directory,
            'SELECT endpoint, started_at, recheck, outcome, "group", http_status, response_id FROM observations',
        )
        kept = {(str(row[0]), utc_text(float(str(row[1])), "microseconds"), bool(row[2]), str(row[3])) for row in rows}
        assert acknowledged <= kept, f"{len(acknowledged - kept)} rows lost"
        assert len(rows) >= before + counted
        scheduled = Counter(row[0] for row in rows if not row[2] and row[4] != "monitor_fault")
        assert {endpoint: count for endpoint, count in seen.items() if scheduled[endpoint] < count} == {}
        answered = Counter(str(row[0]) for row in rows if row[5] is not None)
        asked = {endpoint: sum(counts.values()) for endpoint, counts in dict(fleet.log()["counts"]).items()}  # type: ignore[call-overload]
        assert {endpoint: count for endpoint, count in answered.items() if count > asked[endpoint]} == {}
        replies = [(row[0], row[6]) for row in rows if row[6] is not None]
        assert len(replies) > before // 4
        assert len(set(replies)) == len(replies)
    await daemon.start()
    assert (await get(daemon.address, "/readyz"))[0] == 200
    assert await daemon.end(signal.SIGTERM) == 0


async def test_kill_9_loses_no_acknowledged_observation(fleet: FleetServer, tmp_path: Path) -> None:
    await kill_and_look(fleet, tmp_path, kills=2)


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_twenty_kills_lose_no_acknowledged_observation(fleet: FleetServer, tmp_path: Path) -> None:
    await kill_and_look(fleet, tmp_path, kills=20)


async def test_five_lives_leak_neither_files_nor_tasks(fleet: FleetServer, tmp_path: Path) -> None:
    settings = settings_from(fleet_config(fleet, tmp_path, interval="1h"))
    async with running(settings):
        pass
    files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    for _ in range(5):
        async with running(settings):
            pass
    await until(lambda: len(asyncio.all_tasks()) == tasks and len(os.listdir("/proc/self/fd")) <= files + 1)
