"""A real daemon on a real PostgreSQL that is not there yet, goes away, and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from daemon_stage import (
    Subprocess,
    fleet_config,
    get,
    running,
    settings_from,
    starting,
    until,
)
from postgres_own import OwnServer, own_server
from postgres_proxy import Proxy, proxy_to
from postgres_server import Server

from monitor.daemon import Daemon
from monitor.simulator.server import FleetServer
from monitor.storage.errors import NotADatabase, SchemaTooNew

pytestmark = pytest.mark.waits

# SQLSTATE and the server's words.
KEPT_OUT = {
    "57P03": "the database system is starting up",
    "53300": "too many clients already",
    "28P01": "password authentication failed",
    "28000": "no pg_hba.conf entry",
    "3D000": 'database "..." does not exist',
}


def quiet_config(directory: Path, url: str) -> Path:
    path = directory / "monitor.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndatabase: {{url: '{url}', spill: '{directory}/monitor.spill'}}\n"
        "probing: {interval: 12h}\n"
        'providers: {dead: {dialect: openai-chat, base_url: "http://127.0.0.1:9/v1"}}\n'
        "models: {a/one: {endpoints: [{provider: dead, upstream: x}]}}\n"
    )
    return path


def busy_config(fleet: FleetServer, directory: Path, url: str) -> Path:
    path = fleet_config(fleet, directory)
    old = f"database: sqlite:///{directory}/monitor.db\n"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, f"database: {{url: '{url}', spill: '{directory}/monitor.spill'}}\n"))
    return path


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts at a database that is away follow each other quickly."""
    monkeypatch.setattr("monitor.opening.LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr("monitor.storage.writer._LONGEST_RETRY_SECONDS", 0.5)


@pytest.fixture
def database(postgresql: Server) -> Iterator[str]:
    with postgresql.made("down") as name:
        yield name


@pytest.fixture
async def proxy(postgresql: Server) -> AsyncIterator[Proxy]:
    async with proxy_to(postgresql.port) as opened:
        yield opened


async def said(daemon: Daemon, words: str) -> str:
    """What /readyz says of the database, once `words` are in it."""

    async def found() -> str:
        status, body = await get(daemon, "/readyz")
        message = json.loads(body)["checks"]["database"]["message"]
        return message if status == 503 and words in message else ""

    return str(await until(found))


async def metric(daemon: Daemon, name: str) -> float:
    _, text = await get(daemon, "/metrics")
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


async def test_whatever_keeps_us_out_is_waited_for_and_told_by_its_own_words(
    eager: None, proxy: Proxy, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await proxy.close()
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?connect_timeout=1"
    async with starting(settings_from(quiet_config(tmp_path, url))) as daemon:
        assert "(since 20" in await said(daemon, "the server cannot be reached")
        files = len(os.listdir("/proc/self/fd"))
        for state, words in KEPT_OUT.items():
            proxy.refusal = (state, words)
            if not proxy.is_open:
                await proxy.open()
            await said(daemon, words)
        proxy.flow.clear()
        proxy.refusal = None
        await said(daemon, "no answer in time")
        assert (await get(daemon, "/healthz"))[0] == 200
        for route in ("/", "/api/v1/routing", "/api/v1/incidents"):
            status, body = await get(daemon, route)
            assert status == 503 and "the database does not answer yet" in body
        assert not daemon.ready.is_set()
        assert len(os.listdir("/proc/self/fd")) <= files + 6  # the proxy's, and one attempt's
        proxy.flow.set()
        await until(daemon.ready.is_set)
        assert (await get(daemon, "/readyz"))[0] == 200
    lines = [line for line in caplog.messages if line.startswith("database_awaited")]
    assert 7 <= len(lines) < 30


async def test_a_standby_is_waited_for_until_it_is_promoted(
    eager: None, postgresql: Server, database: str, tmp_path: Path
) -> None:
    await postgresql.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    async with starting(settings_from(quiet_config(tmp_path, postgresql.url(database)))) as daemon:
        await said(daemon, "the server is a standby or read-only")
        await postgresql.execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
        await until(daemon.ready.is_set)


def test_the_runbook_has_the_words_that_the_log_has() -> None:
    root = Path(__file__).parents[1]
    runbook = " ".join((root / "docs" / "runbook.md").read_text().split())
    code = "".join(path.read_text() for path in (root / "monitor").rglob("*.py"))
    for words in (
        "database_awaited", "database_answers", "database fails", "database works again", "spill replayed",
        "observation lost", "schema_moved_on", "the server cannot be reached", "no answer in time", "is in use by",
        "was written by a newer monitor", "not a SQLite database", "the database does not answer yet",
    ):  # fmt: skip
        assert words in runbook and words in code, words
    for words in KEPT_OUT.values():
        assert words in runbook, words


async def test_a_name_that_is_not_found_is_waited_for_and_a_term_ends_the_waiting(tmp_path: Path) -> None:
    path = quiet_config(tmp_path, "postgresql://postgres@nowhere.invalid/monitor")
    daemon = Subprocess(path, {})
    await daemon.begin()
    await until(lambda: [line for line in daemon.log if "database_awaited" in line])
    assert await daemon.end(signal.SIGTERM) == 0
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


async def test_a_schema_that_is_too_new_and_somebody_elses_tables_end_the_start(
    postgresql: Server, database: str, tmp_path: Path
) -> None:
    settings = settings_from(quiet_config(tmp_path, postgresql.url(database)))
    await postgresql.execute("UPDATE alembic_version SET version_num = '9999'", database=database)
    with pytest.raises(SchemaTooNew, match=r"\(9999\) was written by a newer monitor than this one"):
        await Daemon(settings, lambda: settings).run()
    await postgresql.execute(
        "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "CREATE TABLE cakes (x int)", database=database
    )
    with pytest.raises(NotADatabase, match="cakes"):
        await Daemon(settings, lambda: settings).run()


async def test_while_the_server_is_away_probing_and_serving_go_on_and_nothing_is_lost(
    eager: None, fleet: FleetServer, proxy: Proxy, postgresql: Server, database: str, tmp_path: Path
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?connect_timeout=1"
    settings = settings_from(busy_config(fleet, tmp_path, url))
    async with running(settings) as daemon:
        await until(lambda: metric(daemon, "monitor_observations_written_total"))
        await proxy.close()
        await said(daemon, "(since 20")

        async def spilled() -> bool:
            return await metric(daemon, "monitor_observations_spilled") > 2 * len(settings.catalog.endpoints)

        await until(spilled)
        for route in ("/", "/metrics", "/api/v1/routing", "/api/v1/models", "/healthz"):
            assert (await get(daemon, route))[0] == 200, route
        endpoint = next(iter(settings.catalog.endpoints))
        for route in (f"/api/v1/endpoints/{endpoint}/observations", "/api/v1/incidents"):
            status, body = await get(daemon, route)
            assert status == 503 and "the database does not answer now" in body
        await proxy.open()

        async def replayed() -> bool:
            status, _ = await get(daemon, "/readyz")
            return status == 200 and await metric(daemon, "monitor_observations_spilled") == 0

        await until(replayed)
        assert (await get(daemon, "/api/v1/incidents"))[0] == 200
    await is_whole(daemon, fleet, postgresql.url(database))


async def test_a_server_that_is_stopped_at_once_and_started_again_has_every_row(
    eager: None, fleet: FleetServer, tmp_path: Path
) -> None:
    with own_server() as server:
        await stops(fleet, server, tmp_path, [signal.SIGQUIT], random.Random(1), 0.5)


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_thirty_kills_of_the_server_lose_and_double_nothing(
    eager: None, fleet: FleetServer, tmp_path: Path
) -> None:
    with own_server() as server:
        numbers = [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT] * 10
        await stops(fleet, server, tmp_path, numbers, random.Random(2), 6.0)


async def stops(
    fleet: FleetServer,
    server: OwnServer,
    directory: Path,
    numbers: list[signal.Signals],
    chance: random.Random,
    longest_seconds: float,
) -> None:
    """Kill the server under a probing daemon at uneven moments; nothing may be lost or doubled."""
    server.kill(signal.SIGINT)
    server.start()
    settings = settings_from(busy_config(fleet, directory, server.url("postgres")))
    async with running(settings) as daemon:
        await until(lambda: metric(daemon, "monitor_observations_written_total"))
        for number in numbers:
            await asyncio.sleep(chance.random() * longest_seconds)
            await asyncio.to_thread(server.kill, number)
            await until(lambda: daemon.rooms.writer.trouble)
            await asyncio.sleep(chance.random() * longest_seconds)
            await asyncio.to_thread(server.start)
            await until(lambda: not daemon.rooms.writer.trouble and not daemon.rooms.writer.spilled, 60)
    await is_whole(daemon, fleet, server.url("postgres"))


async def is_whole(daemon: Daemon, fleet: FleetServer, url: str) -> None:
    """What is in the table is what the fleet was asked, and what windows and the book of hours say."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            'SELECT endpoint, slot, recheck, outcome, "group", http_status, response_id FROM observations'
        )
        doubles = await connection.fetch(
            "SELECT count(*) FROM observations GROUP BY endpoint, location, kind, slot, recheck HAVING count(*) > 1"
        )
    finally:
        await connection.close()
    assert doubles == []
    assert daemon.rooms.writer.lost == daemon.rooms.writer.rejected == 0
    asked = {name: sum(counts.values()) for name, counts in dict(fleet.log()["counts"]).items()}  # type: ignore[call-overload]
    recorded, answered = Counter(row["endpoint"] for row in rows), Counter[str]()
    for row in rows:
        answered[row["endpoint"]] += row["http_status"] is not None
    for name in daemon.settings.catalog.endpoints:
        # What ends before a status line may or may not have been a request.
        assert answered[name] <= asked.get(name, 0) <= recorded[name], name
    replies = [(row["endpoint"], row["response_id"]) for row in rows if row["response_id"] is not None]
    assert len(set(replies)) == len(replies) > 0
    scheduled = [row for row in rows if not row["recheck"]]
    board = daemon.rooms.board
    for name in daemon.settings.catalog.endpoints:
        own = [row["group"] for row in scheduled if row["endpoint"] == name]
        figures = board.figures([name], None, "30d")
        assert figures.successes == own.count("ok"), name
        assert figures.samples == own.count("ok") + own.count("provider_fault"), name
    book = Counter[str]()
    for _, (name, _, _), tally in daemon.rooms.writer.hours.rows():
        book[name] += tally.outcomes.total()
    assert book == Counter(row["endpoint"] for row in scheduled)
