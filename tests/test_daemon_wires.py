"""One test for each wire between the daemon's rooms: a real daemon, whose endpoints answer nobody and are not asked."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_stage import get, running, settings_from, until

from monitor.daemon import Daemon
from monitor.health.board import Board
from monitor.health.state import State
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.storage.database import Database
from monitor.storage.history import History
from monitor.storage.hour_turn import turn_hours
from monitor.storage.lock import read_holder
from monitor.storage.others import Others
from monitor.storage.writer import Writer
from monitor.web.errors import Unavailable

ONE, TWO = "a/one@dead", "a/two@dead"
DAY = 86_400.0


def config(
    directory: Path,
    *models: str,
    location: str = "local",
    interval: str = "12h",
    more: str = "",
    probes: str = "off",
) -> Path:
    listed = "".join(
        f"  a/{name}: {{probes: {probes}, endpoints: [{{provider: dead, upstream: x}}]}}\n" for name in models
    )
    path = directory / "monitor.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndatabase: sqlite:///{directory}/monitor.db\nlocation: {location}\n"
        f"probing: {{interval: {interval}}}\n{more or 'state: {recheck: 30s}'}\n"
        f'providers: {{dead: {{dialect: openai-chat, base_url: "http://127.0.0.1:9/v1"}}}}\nmodels:\n{listed}'
    )
    return path


def observed(daemon: Daemon, endpoint: str, outcome: Outcome, number: float = 0, kind: str = "chat") -> Observation:
    at = daemon.clock.now() - 10.0 + number
    location = daemon.settings.location
    return Observation(
        endpoint=endpoint, location=location, slot=round(at * 10), due_at=at, started_at=at, outcome=outcome, kind=kind
    )


def report(daemon: Daemon, endpoint: str, outcome: Outcome, times: int = 1, kind: str = "chat") -> None:
    """As the dispatcher does when a probe has ended."""
    for number in range(times):
        one = observed(daemon, endpoint, outcome, number, kind)
        turn = Turn(daemon.settings.catalog.endpoints[endpoint], one.slot, one.due_at, kind=kind)
        daemon._intake.on_report(ProbeReport(turn, one))


def rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{directory}/monitor.db?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def incidents(directory: Path) -> list[tuple[str, str, bool]]:
    """(endpoint, location, whether it lasts), in order of their rows."""
    query = (
        "SELECT e.name, l.name, i.ended_us IS NULL FROM incidents i JOIN endpoints e ON e.id = endpoint_id "
        "JOIN locations l ON l.id = location_id ORDER BY i.id"
    )
    return [(endpoint, location, bool(lasts)) for endpoint, location, lasts in rows(directory, query)]


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(directory / "monitor.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked database is told at once."""
    monkeypatch.setitem(Database.open.__func__.__kwdefaults__, "busy_timeout_ms", 20)  # type: ignore[attr-defined]


# --- chores


async def test_a_state_that_nothing_confirms_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.housekeeping.EXPIRE_SECONDS", 0.05)
    settings = settings_from(config(tmp_path, "one", interval="1s", more="state: {forget: 1 intervals}"))
    async with running(settings) as daemon:
        await daemon.rooms.dispatcher.drain(0.0)
        report(daemon, ONE, Outcome.SUCCESS)
        assert [one.state for one in daemon.rooms.board.standings()] == [State.OPERATIONAL]
        await until(lambda: daemon.rooms.board.standings() == [])


async def test_hours_are_closed_and_the_windows_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def later(
        writer: Writer, history: History, board: Board, now: float, others: Others, *, hourly_seconds: float
    ) -> None:
        await turn_hours(writer, history, board, now + 2 * DAY, others, hourly_seconds=hourly_seconds)

    monkeypatch.setattr("monitor.housekeeping.HOURS_SECONDS", 0.05)
    monkeypatch.setattr("monitor.housekeeping.turn_hours", later)
    async with running(settings_from(config(tmp_path, "one"))) as daemon:
        daemon.rooms.writer.put(observed(daemon, ONE, Outcome.SUCCESS))
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM hourly_rollups") == [(1,)])
        await until(lambda: daemon.rooms.board.windows.edge_hour - daemon.clock.now() > 2 * DAY - 3600)
        await until(lambda: daemon.rooms.board.figures([ONE], None, "1d").samples == 0)
        assert daemon.rooms.board.figures([ONE], None, "7d").samples == 1


async def test_what_is_older_than_the_retention_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.housekeeping.RETENTION_FIRST_SECONDS", 0.05)
    monkeypatch.setattr("monitor.housekeeping.RETENTION_SECONDS", 0.2)
    async with running(settings_from(config(tmp_path, "one"))) as daemon:
        for age in (10 * DAY, DAY):
            daemon.rooms.writer.put(observed(daemon, ONE, Outcome.SUCCESS, -age))
        await daemon.rooms.writer.flush()
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM raw_observations") == [(1,)])
        assert daemon.rooms.board.figures([ONE], None, "30d").samples == 2


async def test_no_hour_is_dropped_that_a_window_has_still_to_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine slept for days, and the retention wakes before the turn of the hours."""
    retention = "retention: {hourly: 31d, observations: 7d, daily: 400d}"
    async with running(settings_from(config(tmp_path, "one", more=retention))) as daemon:
        daemon.rooms.writer.put(observed(daemon, ONE, Outcome.SUCCESS, -29.5 * DAY))
        await daemon.rooms.writer.flush()
        assert daemon.rooms.board.figures([ONE], None, "30d").samples == 1
        now = daemon.clock.now
        monkeypatch.setattr(daemon.clock, "now", lambda: now() + 2 * DAY)
        assert (await daemon.housekeeping.prune()).hourly == 1
        await daemon.rooms.board.refresh()
        assert daemon.rooms.board.figures([ONE], None, "30d").samples == 0


async def test_the_watchdog_is_fed_while_the_schedule_gets_on_and_not_when_it_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")

        def beats() -> int:
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    count += b"WATCHDOG=1" in heard.recv(4096)
            return count

        async with running(settings_from(config(tmp_path, "one"))) as daemon:
            await until(beats)
            stalled_at = time.monotonic() - 31
            monkeypatch.setattr(daemon.rooms.dispatcher, "progress", lambda: stalled_at)
            beats()
            clock = daemon.clock
            await clock.sleep(0.1)
            beats()  # one may have been under way
            await clock.sleep(0.5)
            assert beats() == 0
            monkeypatch.undo()
            await until(beats)


# --- what comes in


async def test_what_goes_to_the_spill_is_shown_at_once_and_only_once(
    tmp_path: Path, busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.housekeeping.INCIDENTS_SECONDS", 0.1)
    async with running(settings_from(config(tmp_path, "one"))) as daemon:

        def samples() -> int:
            return daemon.rooms.board.figures([ONE], None, "30d").samples

        with locked(tmp_path):
            report(daemon, ONE, Outcome.SERVER_ERROR, times=3)
            await until(lambda: daemon.rooms.writer.spilled == 3)
            assert samples() == 3
            assert incidents(tmp_path) == []
        await until(lambda: rows(tmp_path, "SELECT count(*) FROM raw_observations") == [(3,)])
        assert samples() == 3
        # the incident that could not be written then is not forgotten
        await until(lambda: incidents(tmp_path) == [(ONE, "local", True)])
        async with running_again(tmp_path, daemon) as again:
            assert again.rooms.board.figures([ONE], None, "30d").samples == 3


@contextlib.asynccontextmanager
async def running_again(directory: Path, former: Daemon) -> Any:
    former.should_exit.set()
    await until(lambda: former.rooms.progress.is_draining)
    await until(lambda: read_holder(directory / "monitor.db") is None)
    async with running(former.settings) as daemon:
        yield daemon


# --- after a restart


async def test_a_key_that_is_refused_is_asked_seldom_after_a_restart_too(tmp_path: Path) -> None:
    settings = settings_from(config(tmp_path, "one", "two", interval="1m"))
    async with running(settings) as daemon:
        report(daemon, ONE, Outcome.AUTH)
        stretched = daemon.rooms.dispatcher.interval_seconds(ONE)
        assert stretched > 60
    async with running(settings) as daemon:
        assert daemon.rooms.dispatcher.interval_seconds(ONE) == stretched
        assert daemon.rooms.dispatcher.interval_seconds(TWO) == 60


async def test_an_incident_that_a_dead_process_could_not_write_is_written_by_the_next(tmp_path: Path) -> None:
    settings = settings_from(config(tmp_path, "one"))
    async with running(settings) as daemon:
        for number in range(3):
            daemon.rooms.writer.put(observed(daemon, ONE, Outcome.SERVER_ERROR, number))
    assert incidents(tmp_path) == []
    async with running(settings) as daemon:
        await until(lambda: incidents(tmp_path) == [(ONE, "local", True)])
        assert len(daemon.rooms.ledger.still_open) == 1


async def test_incidents_of_what_was_taken_away_or_renamed_meanwhile_are_closed(tmp_path: Path) -> None:
    async with running(settings_from(config(tmp_path, "one", "two"))) as daemon:
        report(daemon, ONE, Outcome.SERVER_ERROR, times=3)
        report(daemon, TWO, Outcome.SERVER_ERROR, times=3)
    assert incidents(tmp_path) == [(ONE, "local", True), (TWO, "local", True)]
    async with running(settings_from(config(tmp_path, "one"))):
        await until(lambda: incidents(tmp_path) == [(ONE, "local", True), (TWO, "local", False)])
    async with running(settings_from(config(tmp_path, "one", location="fra"))) as daemon:
        await until(lambda: incidents(tmp_path) == [(ONE, "local", False), (TWO, "local", False)])
        _, page = await get(daemon, "/metrics")
        local = {line.split("{")[0] for line in page.splitlines() if 'location="local"' in line}
        assert {"llm_endpoint_uptime_ratio", "llm_endpoint_last_probe_timestamp_seconds"} <= local
        assert local.isdisjoint({"llm_endpoint_up", "llm_endpoint_usable", "llm_endpoint_probe_interval_seconds"})
    in_force = "SELECT l.name FROM eras JOIN locations l ON l.id = location_id WHERE until_us IS NULL"
    assert rows(tmp_path, in_force) == [("fra",)]


async def test_of_several_incidents_that_were_left_open_only_the_newest_lasts(tmp_path: Path) -> None:
    settings = settings_from(config(tmp_path, "one"))
    async with running(settings) as daemon:
        report(daemon, ONE, Outcome.SERVER_ERROR, times=3)
    with contextlib.closing(sqlite3.connect(tmp_path / "monitor.db")) as connection:
        connection.execute(
            "INSERT INTO incidents (endpoint_id, location_id, state, cause, detail, started_us, ended_us) "
            "SELECT endpoint_id, location_id, state, cause, detail, started_us - 1000000, NULL FROM incidents"
        )
        connection.commit()
    async with running(settings) as daemon:
        await until(lambda: incidents(tmp_path) == [(ONE, "local", True), (ONE, "local", False)])
        for _ in range(2):
            report(daemon, ONE, Outcome.SUCCESS)
        report(daemon, ONE, Outcome.SUCCESS, times=12)
        await until(lambda: not any(lasts for _, _, lasts in incidents(tmp_path)))


# --- reload


async def test_a_reload_closes_the_incidents_of_what_it_takes_away_and_opens_them_when_it_is_back(
    tmp_path: Path,
) -> None:
    path = config(tmp_path, "one", "two")
    async with running(settings_from(path), lambda: settings_from(path)) as daemon:
        report(daemon, TWO, Outcome.SERVER_ERROR, times=3)
        await until(lambda: incidents(tmp_path) == [(TWO, "local", True)])
        config(tmp_path, "one")
        assert (await daemon.reload()).problems == ()
        await until(lambda: incidents(tmp_path) == [(TWO, "local", False)])
        config(tmp_path, "one", "two")
        assert (await daemon.reload()).problems == ()
        await until(lambda: incidents(tmp_path) == [(TWO, "local", True)])


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("location", "location: local", "location: fra"),
        ("listen", "127.0.0.1:0", "127.0.0.1:1"),
        ("database", "monitor.db", "x.db"),
    ],
)
async def test_what_only_a_restart_can_change_refuses_a_reload(tmp_path: Path, key: str, old: str, new: str) -> None:
    path = config(tmp_path, "one")
    async with running(settings_from(path), lambda: settings_from(path)) as daemon:
        before = daemon.settings
        path.write_text(path.read_text().replace(old, new))
        (problem,) = (await daemon.reload()).problems
        assert (problem.path, problem.message) == (
            key,
            "cannot change while the daemon runs; restart the daemon to change it",
        )
        assert daemon.settings is before


async def test_a_reload_that_the_database_does_not_take_changes_nothing(
    tmp_path: Path, busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(tmp_path, "one")
    async with running(settings_from(path), lambda: settings_from(path)) as daemon:
        before = daemon.settings, rows(tmp_path, "SELECT * FROM eras")
        config(tmp_path, "one", "two", interval="6h")
        with locked(tmp_path):
            (problem,) = (await daemon.reload()).problems
        assert "the database does not take the new catalog" in str(problem)
        assert (daemon.settings, rows(tmp_path, "SELECT * FROM eras")) == before
        assert daemon.rooms.ledger.still_open == {}


async def test_a_prune_is_refused_before_the_windows_are_there_and_after_the_end_has_begun(tmp_path: Path) -> None:
    settings = settings_from(config(tmp_path, "one"))
    daemon = Daemon(settings, lambda: settings)
    with pytest.raises(Unavailable, match="no prune while the monitor starts or ends"):
        await daemon._prune_now()
    async with running(settings) as daemon:
        assert await daemon._prune_now()
        daemon.should_exit.set()
        with pytest.raises(Unavailable, match="no prune while the monitor starts or ends"):
            await daemon._prune_now()


async def test_a_room_that_does_not_close_leaves_the_database_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: object) -> None:
        raise RuntimeError("it does not close")

    monkeypatch.setattr("monitor.probing.probe.Prober.close", broken)
    settings = settings_from(config(tmp_path, "one"))
    with pytest.raises(RuntimeError, match="it does not close"):
        async with running(settings) as daemon:
            daemon.rooms.writer.put(observed(daemon, ONE, Outcome.SUCCESS))
    assert rows(tmp_path, "SELECT count(*) FROM raw_observations") == [(1,)]
    monkeypatch.undo()
    async with running(settings):
        pass  # nobody holds the file any more


async def test_a_reload_is_refused_before_the_start_is_over_and_after_the_end_has_begun(tmp_path: Path) -> None:
    path = config(tmp_path, "one")
    daemon = Daemon(settings_from(path), lambda: settings_from(path))
    with pytest.raises(Unavailable, match="no reload while the monitor starts or ends"):
        await daemon.reload()
    daemon.ready.set()
    daemon.should_exit.set()
    with pytest.raises(Unavailable):
        await daemon.reload()


async def test_ready_means_that_there_is_something_to_see_and_draining_is_told(tmp_path: Path) -> None:
    async with running(settings_from(config(tmp_path, "one"))) as daemon:
        assert (await get(daemon, "/readyz"))[0] == 200
        assert ONE in (await get(daemon, "/api/v1/routing"))[1]
        daemon.rooms.progress.is_draining = True
        status, body = await get(daemon, "/readyz")
        assert status == 503 and "process: draining" in body


async def test_a_failing_tools_probe_is_recorded_and_is_no_incident(tmp_path: Path) -> None:
    path = config(tmp_path, "one", probes="{tools: {interval: 12h}}")
    async with running(settings_from(path)) as daemon:
        report(daemon, ONE, Outcome.SUCCESS, times=2)
        report(daemon, ONE, Outcome.SERVER_ERROR, times=8, kind="tools")
        refused = observed(daemon, ONE, Outcome.AUTH, 9, "tools")
        turn = Turn(daemon.settings.catalog.endpoints[ONE], refused.slot, refused.due_at, kind="tools")
        daemon._intake.on_report(ProbeReport(turn, refused))
        await daemon.rooms.writer.flush()
        await daemon.rooms.board.refresh()
        (view,) = daemon.rooms.board.views()
        assert (view.state, view.usable) == (State.OPERATIONAL, True)
        assert daemon.rooms.dispatcher.interval_seconds(ONE) == view.interval_seconds
        assert view.kinds["tools"].windows["30m"].samples == 8
        assert not daemon.rooms.dispatcher.dropped_rechecks
        assert incidents(tmp_path) == []
        assert rows(tmp_path, "SELECT kind, count(*) FROM observations GROUP BY kind ORDER BY kind") == [
            ("chat", 2),
            ("tools", 9),
        ]


async def test_a_restart_brings_every_kind_back(tmp_path: Path) -> None:
    path = config(tmp_path, "one", probes="{embeddings: {}, tools: {interval: 12h}, chat: off}")
    async with running(settings_from(path)) as daemon:
        report(daemon, ONE, Outcome.SERVER_ERROR, times=3, kind="embeddings")
        report(daemon, ONE, Outcome.SUCCESS, times=2, kind="tools")
        assert daemon.rooms.board.standing(ONE, "local").state is State.DOWN
        await until(lambda: len(incidents(tmp_path)) == 1)
    async with running(settings_from(path)) as daemon:
        (view,) = daemon.rooms.board.views()
        assert (view.state, view.windows["30m"].samples) == (State.DOWN, 3)
        tools = view.kinds["tools"]
        assert (tools.windows["30d"].successes, view.kinds["embeddings"].windows["1d"].samples) == (2, 3)
        assert tools.last_probe_at is not None
        report(daemon, ONE, Outcome.SUCCESS, times=2, kind="embeddings")
