"""`monitor reclassify` against a real daemon, a real database file, and without a daemon at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from daemon_stage import get, running, settings_from, until

from monitor.cli import main
from monitor.clock import SystemClock
from monitor.commands.asking import Refused, ask, not_done
from monitor.daemon import Daemon
from monitor.health.state import State
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.storage.batch import commit_batch
from monitor.storage.codec import as_stored
from monitor.storage.database import Database
from monitor.storage.errors import DatabaseHeld
from monitor.storage.facts import Skew
from monitor.storage.rollups import HourBook
from monitor.web.errors import Unavailable

ONE, TWO = "a/one@dead", "a/two@dead"
HOUR, DAY = 3600.0, 86_400.0
WINDOWS = {"5m": 300.0, "30m": 1800.0, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
# As an older classifier had it: a spent quota taken for the provider's fault.
WRONG: dict[str, Any] = {
    "outcome": Outcome.SERVER_ERROR,
    "http_status": 429,
    "error_code": "insufficient_quota",
    "detail": "insufficient_quota: You exceeded your current quota",
}


def config(directory: Path, listen: str = "127.0.0.1:0") -> Path:
    path = directory / f"monitor-{listen.rpartition(':')[2]}.yaml"
    path.write_text(
        f"listen: {listen}\ndatabase: sqlite:///{directory}/monitor.db\nprobing: {{interval: 12h}}\n"
        'providers: {dead: {dialect: openai-chat, base_url: "http://127.0.0.1:9/v1"}}\n'
        "models:\n  a/one: {endpoints: [{provider: dead, upstream: x}]}\n"
        "  a/two: {endpoints: [{provider: dead, upstream: x}]}\n"
    )
    return path


def made(now: float, age: float, endpoint: str = ONE, **fields: Any) -> Observation:
    at = round(now - age, 3)
    usual: dict[str, Any] = {}
    if "outcome" not in fields:
        usual = {"outcome": Outcome.SUCCESS, "http_status": 200, "ttft_seconds": 0.5, "latency_seconds": 1.0}
    return Observation(
        endpoint=endpoint,
        location="local",
        slot=round(at * 10),
        due_at=at,
        started_at=at,
        **(usual | fields),
    )


def rows(directory: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{directory}/monitor.db?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


async def monitor(*words: str) -> int:
    """The command beside the daemon, in a thread and a loop of its own."""
    return await asyncio.to_thread(main, list(words))


def agree_with_sql(daemon: Daemon, directory: Path) -> None:
    """Every window's counts, and the rollups', are those of the raw rows."""
    now = daemon.clock.now()
    for endpoint in (ONE, TWO):
        for window, span in WINDOWS.items():
            start = now - span if span < DAY else now // HOUR * HOUR - span
            query = (
                'SELECT outcome, "group", count(*) FROM observations WHERE endpoint = ? AND started_at >= ? '
                "AND NOT recheck GROUP BY 1, 2"
            )
            told = rows(directory, query, endpoint, start)
            figures = daemon.rooms.board.figures([endpoint], None, window)
            groups: Counter[str] = Counter()
            for _, group, count in told:
                groups[group] += count
            assert figures.samples == groups["ok"] + groups["provider_fault"], (endpoint, window)
            assert figures.successes == groups["ok"], (endpoint, window)
    rolled_agree(directory)


def rolled_agree(directory: Path) -> None:
    rolled_until = int(rows(directory, "SELECT value FROM meta WHERE name = 'rolled_until'")[0][0])
    for table, bucket, width in (("hourly_rollups", "hour", HOUR), ("daily_rollups", "day", DAY)):
        found = Counter[tuple[int, str]]()
        for start, counts in rows(directory, f"SELECT {bucket}, counts FROM {table}"):
            found.update({(start, name): count for name, count in json.loads(counts).items()})
        expected = Counter[tuple[int, str]]()
        for started_at, outcome in rows(directory, "SELECT started_at, outcome FROM observations WHERE NOT recheck"):
            start = int(started_at // width * width)
            if start + width <= rolled_until:
                expected[start, outcome] += 1
        assert found == expected, table


async def served(daemon: Daemon, line: str) -> str | None:
    _, text = await get(daemon, "/metrics")
    return next((one.split()[1] for one in text.splitlines() if one.startswith(line + " ")), None)


async def test_a_misjudged_past_is_put_right_in_rows_rollups_windows_and_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uptime = 'llm_endpoint_uptime_ratio{model="a/one",provider="dead",location="local",window="%s"}'
    ages = (20.0, 50.0, 900.0, 2 * HOUR, 5 * HOUR, 30 * HOUR, 5 * DAY)
    async with running(settings_from(config(tmp_path))) as daemon:
        now = daemon.clock.now()
        for age in ages:
            daemon.rooms.writer.put(made(now, age, **WRONG))
            daemon.rooms.writer.put(made(now, age + 5.0))
            daemon.rooms.writer.put(made(now, age, TWO))
        await daemon.rooms.writer.flush()
        agree_with_sql(daemon, tmp_path)
        await daemon.rooms.board.refresh()
        await until(lambda: is_served(daemon, uptime % "30d", "0.5"))
        asking = str(config(tmp_path, daemon.address))

        dry = await asked(daemon, "dry_run=true")
        assert (dry["dry_run"], dry["judged"], dry["changed"]) == (True, 7, 7)
        assert rows(tmp_path, "SELECT count(*) FROM observations WHERE outcome = 'server_error'") == [(7,)]

        assert await monitor("reclassify", "--json", "-c", asking) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["classes"] == [{"from": "server_error", "to": "quota", "count": 7}]
        assert told["endpoints"] == [{"endpoint": ONE, "from": "server_error", "to": "quota", "count": 7}]
        assert rows(tmp_path, "SELECT outcome, count(*) FROM observations GROUP BY 1 ORDER BY 1") == [
            ("quota", 7),
            ("success", 14),
        ]
        agree_with_sql(daemon, tmp_path)
        for window in WINDOWS:
            await until(lambda window=window: is_served(daemon, uptime % window, "1"))

        assert await monitor("reclassify", "-c", asking) == 0
        said = capsys.readouterr().out
        assert "7 told errors judged, 0 changed" in said
        assert "raw observations are kept for 7 d and begin at 20" in said
    async with running(settings_from(config(tmp_path))) as restarted:
        agree_with_sql(restarted, tmp_path)


async def asked(daemon: Daemon, query: str = "") -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{daemon.address}/-/reclassify?{query}") as response,
    ):
        assert response.status == 200
        return dict((await response.json())["reclassified"])


async def is_served(daemon: Daemon, line: str, value: str) -> bool:
    return await served(daemon, line) == value


async def test_only_the_last_days_are_judged_where_that_is_asked_for(tmp_path: Path) -> None:
    async with running(settings_from(config(tmp_path))) as daemon:
        now = daemon.clock.now()
        for age in (20.0, 2 * DAY, 5 * DAY):
            daemon.rooms.writer.put(made(now, age, **WRONG))
        await daemon.rooms.writer.flush()
        done = await asked(daemon, "since=3d")
        assert (done["dry_run"], done["judged"], done["changed"]) == (False, 2, 2)
        agree_with_sql(daemon, tmp_path)


async def test_a_state_that_rested_on_misjudged_rows_is_found_anew_and_its_incident_ends(tmp_path: Path) -> None:
    async with running(settings_from(config(tmp_path))) as daemon:
        now = daemon.clock.now()

        def report(observation: Observation) -> None:
            turn = Turn(daemon.settings.catalog.endpoints[observation.endpoint], observation.slot, observation.due_at)
            daemon._intake.on_report(ProbeReport(turn, observation))

        for number in range(6):
            report(made(now, 60.0 - number, **WRONG))
            fault = Outcome.SERVER_ERROR if number < 5 else Outcome.TIMEOUT_IDLE
            report(made(now, 60.0 - number, TWO, outcome=fault, http_status=503, detail="HTTP 503"))
        board = daemon.rooms.board
        assert {one.endpoint: one.state for one in board.standings()} == {ONE: State.DOWN, TWO: State.DOWN}
        assert board.standing(TWO, "local").cause == "server_error"
        since = board.standing(TWO, "local").since
        await daemon.rooms.writer.flush()
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM incidents WHERE ended_us IS NULL") == [(2,)])

        assert (await asked(daemon))["changed"] == 11

        one, two = board.standing(ONE, "local"), board.standing(TWO, "local")
        assert (one.state, one.usable, one.unusable_cause) == (State.UNKNOWN, False, "quota")
        assert (two.state, two.cause, two.since, two.usable) == (State.DOWN, "overloaded", since, True)
        query = (
            "SELECT e.name, i.cause, i.ended_us IS NULL FROM incidents i JOIN endpoints e ON e.id = i.endpoint_id "
            "ORDER BY e.name"
        )
        await until(lambda: rows(tmp_path, query) == [(ONE, "server_error", 0), (TWO, "overloaded", 1)])
        view = board.view(ONE)
        assert view is not None
        assert (view.state, view.usable) == (State.UNKNOWN, False)

        # What comes in afterwards goes on from there.
        report(made(now, 1.0))
        assert board.standing(ONE, "local").state is State.OPERATIONAL
        assert board.standing(ONE, "local").usable


async def fill(path: Path, observations: list[Observation], rolled_until: int) -> None:
    database = await Database.open(settings_from(path).database, SystemClock())
    book = HourBook()
    for start in range(0, len(observations), 1000):
        stored = [as_stored(one) for one in observations[start : start + 1000]]
        new, _ = await commit_batch(database, stored, book, Skew(), SystemClock().now())
        book.add(new)
    await database.run(lambda connection: book.close_hours(connection, database.names, rolled_until))
    await database.close()


# A slice and a pause take a tenth of a second: time enough to kill it between the second slice and the fifteenth.
UNHURRIED = """
import sys
from monitor.cli import main
from monitor.storage import reclassify
reclassify._PAUSE_SECONDS = 0.2
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.timed
async def test_without_a_daemon_the_file_is_opened_and_a_kill_leaves_nothing_half_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path)
    now = time.time()
    planted = [made(now, 60.0 * number, **WRONG) for number in range(3000)]
    await fill(path, planted, int(now // HOUR * HOUR))
    rolled_agree(tmp_path)
    count = "SELECT count(*) FROM observations WHERE outcome = 'quota'"
    process = subprocess.Popen(
        [sys.executable, "-c", UNHURRIED, "reclassify", "-c", str(path)], stdout=subprocess.DEVNULL
    )
    await until(lambda: rows(tmp_path, count)[0][0] >= 400)
    process.send_signal(signal.SIGKILL)
    process.wait()
    changed = rows(tmp_path, count)[0][0]
    assert 400 <= changed < 3000, "it was over before it could be killed"
    rolled_agree(tmp_path)
    assert await monitor("reclassify", "-c", str(path)) == 0
    said = capsys.readouterr().out
    assert f"3000 told errors judged, {3000 - changed} changed" in said
    assert said.split()[:6] == ["was", "is", "observations", "server_error", "quota", str(3000 - changed)]
    assert rows(tmp_path, count) == [(3000,)]
    rolled_agree(tmp_path)


async def test_a_daemon_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(settings_from(config(tmp_path))):
        assert await monitor("reclassify", "-c", str(config(tmp_path, "127.0.0.1:9"))) == 1
        assert "does not answer at 127.0.0.1:9" in capsys.readouterr().err


def test_what_cannot_be_done_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reclassify", "-c", str(tmp_path / "nothing.yaml")]) == 2
    assert main(["reclassify", "-c", str(config(tmp_path))]) == 1
    assert "monitor.db" in capsys.readouterr().err
    assert not list(tmp_path.glob("monitor.db*")), "no database is made"
    with pytest.raises(SystemExit, match="2"):
        main(["reclassify", "--since", "yesterday"])
    assert "yesterday" in capsys.readouterr().err


async def test_one_that_the_monitors_end_cuts_off_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path)
    async with running(settings_from(path)) as daemon:
        await daemon.rooms.writer.close()
        ended = pytest.raises(Unavailable, match="what was done by then is kept, send it again")
        with ended, daemon._told_of_the_end():
            await daemon.rooms.writer.submit(lambda connection: asyncio.sleep(0))
        daemon.should_exit.set()
        asked = replace(settings_from(path), listen_port=int(daemon.address.rpartition(":")[2]))
        with pytest.raises(Refused) as refused:
            await ask(asked, "/-/reclassify", "reclassified", post=True)
    said = not_done(DatabaseHeld("held: stop it first"), asked, refused.value)
    assert "has not done it, or not all of it" in said
    assert "no reclassification while the monitor starts or ends: send it again in a minute" in said
    assert "stop it" not in said, "it is about to do as it was told"


async def test_it_is_refused_to_browsers_and_while_the_monitor_starts(tmp_path: Path) -> None:
    settings = settings_from(config(tmp_path))
    with pytest.raises(Unavailable, match="no reclassification while the monitor starts or ends"):
        await Daemon(settings, lambda: settings)._reclassify_now(None, False)
    async with running(settings) as ready, aiohttp.ClientSession() as session:
        for query, headers, status in (
            ("", {"Origin": "https://a.example"}, 403),
            ("?since=yesterday", {}, 400),
            ("?dry_run=perhaps", {}, 400),
        ):
            async with session.post(f"http://{ready.address}/-/reclassify{query}", headers=headers) as response:
                assert response.status == status
