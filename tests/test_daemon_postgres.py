"""The whole house on PostgreSQL: a real fleet, a real daemon, a real server, and every command that reads it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from daemon_stage import fleet_config, get, running, settings_from, until
from postgres_server import Server

from monitor.cli import main
from monitor.daemon import Daemon
from monitor.simulator.server import FleetServer

pytestmark = pytest.mark.waits


@dataclass(frozen=True)
class OnServer:
    url: str
    directory: Path

    def config(self, fleet: FleetServer, interval: str = "1s") -> Path:
        """As fleet_config, with the database on the server."""
        path = fleet_config(fleet, self.directory, interval=interval)
        file = f"database: sqlite:///{self.directory}/monitor.db"
        text = path.read_text()
        assert file in text
        path.write_text(text.replace(file, f"database: {{url: '{self.url}', spill: {self.directory}/monitor.spill}}"))
        return path

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def written(self, at_least: int) -> None:
        async def enough() -> bool:
            return (await self.rows("SELECT count(*) FROM raw_observations"))[0][0] >= at_least  # type: ignore[operator]

        await until(enough)


@pytest.fixture
def database(postgresql: Server, tmp_path: Path) -> OnServer:
    return OnServer(postgresql.lend(), tmp_path)


async def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = await asyncio.to_thread(main, [*words])
    out, err = capsys.readouterr()
    return code, out + err


async def test_a_daemon_on_a_server_records_serves_restarts_and_every_command_reads_it(
    fleet: FleetServer, database: OnServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # tables break names on a narrow terminal
    path = database.config(fleet)
    settings = settings_from(path)
    async with running(settings) as daemon:
        await database.written(60)
        assert (await get(daemon, "/readyz"))[0] == 200
        _, metrics = await get(daemon, "/metrics")
        assert "monitor_observations_spilled 0" in metrics

    def counts(of: Daemon) -> dict[str, tuple[int, int, int]]:
        found = {}
        for endpoint in settings.catalog.endpoints:
            figures = of.rooms.board.figures([endpoint], None, "30d")
            found[endpoint] = (figures.samples, figures.successes, figures.seen)
        return found

    before = counts(daemon)
    told = await database.rows(
        "SELECT endpoint, count(*) FILTER (WHERE \"group\" IN ('ok', 'provider_fault')), "
        "count(*) FILTER (WHERE \"group\" = 'ok') FROM observations WHERE recheck = 0 GROUP BY endpoint"
    )
    assert {endpoint: before[str(endpoint)][:2] for endpoint, *_ in told} == {row[0]: row[1:] for row in told}
    # at no slower pace nothing is due meanwhile, so that a restart must come to the same
    async with running(settings_from(database.config(fleet, interval="1h"))) as restarted:
        assert counts(restarted) == before

    rows = (await database.rows("SELECT count(*) FROM raw_observations"))[0][0]
    config = ("-c", str(path))
    assert (await command(capsys, "check", *config))[0] == 0
    code, out = await command(capsys, "status", *config)
    assert code == 0
    assert [endpoint for endpoint in settings.catalog.endpoints if endpoint not in out] == [], out
    code, out = await command(capsys, "export", "observations", *config)
    assert (code, len([line for line in out.splitlines() if line.startswith("{")])) == (0, rows)
    assert {json.loads(line)["endpoint"] for line in out.splitlines() if line.startswith("{")} == {r[0] for r in told}
    code, out = await command(capsys, "db", "upgrade", *config)
    assert (code, out) == (0, f"{database.url}: up to date\n")
    code, out = await command(capsys, "db", "prune", *config)
    assert code == 0
    assert "observations=0 hourly=0" in out
    code, out = await command(capsys, "db", "backup", str(database.directory / "all.dump"), *config)
    assert (code, out) == (0, f"{database.directory / 'all.dump'}: written\n")
    code, out = await command(capsys, "reclassify", "--dry-run", *config)
    assert code == 0
    assert "told errors judged, 0 would change" in out


async def test_a_server_that_goes_away_and_comes_back_costs_no_row(
    fleet: FleetServer, database: OnServer, postgresql: Server
) -> None:
    name = database.url.rpartition("/")[2]
    async with running(settings_from(database.config(fleet))) as daemon:
        await database.written(20)
        await postgresql.execute(
            f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        await until(lambda: daemon.rooms.writer.spilled >= 20)
        assert (await get(daemon, "/readyz"))[0] == 503
        assert (await get(daemon, "/metrics"))[0] == 200
        budget = daemon.rooms.dispatcher.gate.budget
        budget._unheard += 1.0  # what others cannot know of now
        await postgresql.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await until(lambda: not daemon.rooms.writer.spilled and not daemon.rooms.writer.is_failing)
        assert (await get(daemon, "/readyz"))[0] == 200
        await until(lambda: budget._unheard + budget._unheard_before < 1.0)
    committed = daemon.metrics.registry.get_sample_value("monitor_observations_written_total")
    assert (await database.rows("SELECT count(*) FROM raw_observations"))[0][0] == committed
    assert daemon.rooms.writer.lost == daemon.rooms.writer.rejected == 0
