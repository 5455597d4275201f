"""A daemon whose database is not there when it starts: it serves, waits, says why, and ends when told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from daemon_stage import get, settings_from, starting, until

from monitor.clock import FakeClock
from monitor.daemon import Daemon, DaemonError
from monitor.opening import LONGEST_PAUSE_SECONDS, Opening
from monitor.self_metrics import SelfMetrics
from monitor.storage.database import Database
from monitor.storage.errors import DatabaseHeld, DatabaseMissing, DatabaseUnavailable, NotADatabase, StorageError
from monitor.storage.restore import restore_board
from monitor.storage.trouble import Trouble
from monitor.storage.writer import Writer
from monitor.systemd import Notifier


def config(directory: Path, database: str) -> Path:
    path = directory / "monitor.yaml"
    path.write_text(
        f"listen: 127.0.0.1:0\ndatabase: {database}\nprobing: {{interval: 12h}}\n"
        'providers: {dead: {dialect: openai-chat, base_url: "http://127.0.0.1:9/v1"}}\n'
        "models: {a/one: {endpoints: [{provider: dead, upstream: x}]}}\n"
    )
    return path


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked database is told at once."""
    monkeypatch.setitem(Database.open.__func__.__kwdefaults__, "busy_timeout_ms", 20)  # type: ignore[attr-defined]


async def test_a_locked_file_is_waited_for_and_everybody_is_told(
    busy: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(tmp_path / "monitor.db"):
        async with starting(settings_from(config(tmp_path, f"sqlite:///{tmp_path}/monitor.db"))) as daemon:
            await until(lambda: "database_awaited" in caplog.text)
            assert (await get(daemon, "/healthz"))[0] == 200
            status, body = await get(daemon, "/readyz")
            assert status == 503
            assert "database is locked (since 20" in body and "attempt" in body
            for route in ("/", "/api/v1/routing", "/api/v1/incidents", "/api/v1/endpoints/a/one@dead/observations"):
                status, body = await get(daemon, route)
                assert (status, "starting: the database" in body) == (503, True), (route, body)
            assert "monitor_build_info" in (await get(daemon, "/metrics"))[1]
            assert not daemon.ready.is_set()


async def test_the_start_goes_on_when_the_file_is_let_go_of(
    busy: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(tmp_path / "monitor.db"):
        started = starting(settings_from(config(tmp_path, f"sqlite:///{tmp_path}/monitor.db")))
        daemon = await started.__aenter__()
        await until(lambda: "database_awaited" in caplog.text)
    await until(daemon.ready.is_set)
    assert (await get(daemon, "/readyz"))[0] == 200
    assert "database_answers" in caplog.text
    await started.__aexit__(None, None, None)


async def test_a_database_that_goes_away_in_the_middle_of_the_restore_is_begun_with_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    boards = []

    async def lost_once(board: object, *others: object) -> object:
        boards.append(board)
        if len(boards) == 1:
            raise DatabaseUnavailable("the server is gone")
        return await restore_board(board, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("monitor.restart.restore_board", lost_once)
    async with starting(settings_from(config(tmp_path, f"sqlite:///{tmp_path}/monitor.db"))) as daemon:
        await until(daemon.ready.is_set)
        assert "error=the server is gone" in caplog.text
        assert len(boards) == 2 and boards[0] is not boards[1]
        assert daemon.rooms.board is boards[1]
        assert "a/one@dead" in (await get(daemon, "/api/v1/routing"))[1]
        assert (await get(daemon, "/api/v1/incidents"))[0] == 200


def somebody_elses(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE cakes (x)")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda file: file.write_text("not a database, but a letter"), NotADatabase, "not a SQLite database"),
        (lambda file: file.mkdir(), NotADatabase, "this is a directory"),
        (somebody_elses, NotADatabase, "it has a table cakes"),
    ],
)
async def test_what_waiting_does_not_mend_ends_the_start(
    tmp_path: Path, make: object, error: type[StorageError], words: str
) -> None:
    make(tmp_path / "monitor.db")  # type: ignore[operator]
    settings = settings_from(config(tmp_path, f"sqlite:///{tmp_path}/monitor.db"))
    with pytest.raises(error, match=words):
        await Daemon(settings, lambda: settings).run()


async def test_a_directory_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    settings = settings_from(config(tmp_path, f"sqlite:///{tmp_path}/missing/monitor.db"))
    with pytest.raises(DatabaseMissing, match="mkdir -p"):
        await Daemon(settings, lambda: settings).run()


async def test_a_taken_port_makes_no_file_and_a_held_file_is_named_first(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        path = config(tmp_path, f"sqlite:///{tmp_path}/monitor.db")
        path.write_text(path.read_text().replace("127.0.0.1:0", f"127.0.0.1:{other.getsockname()[1]}"))
        settings = settings_from(path)
        with pytest.raises(DaemonError, match="Address already in use"):
            await Daemon(settings, lambda: settings).run()
        assert not (tmp_path / "monitor.db").exists()
        holder = await Database.open(settings.database, FakeClock(), owner="daemon")
        with pytest.raises(DatabaseHeld, match="is in use by the daemon with pid"):
            await Daemon(settings, lambda: settings).run()
        await holder.close()


# --- attempts


class Sockets:
    """What systemd is told."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode())
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opening(clock: FakeClock) -> Iterator[Opening]:
    notifier = Notifier(clock)
    yield Opening(clock, notifier, SelfMetrics("test"))
    notifier.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sockets]:
    sockets = Sockets(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", sockets.path)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    yield sockets
    sockets.close()


async def test_systemd_is_told_ready_when_waiting_begins_so_that_a_boot_does_not_wait_along(
    systemd: Sockets, clock: FakeClock, opening: Opening
) -> None:
    down = True

    async def attempt() -> str:
        if down:
            raise DatabaseUnavailable("nobody answers")
        return "open"

    waiting = asyncio.create_task(opening.insist(attempt))
    await clock.advance(1)
    assert systemd.told()[0] == "READY=1\nSTATUS=waiting for the database: nobody answers"
    await clock.advance(90)
    told = systemd.told()
    assert [line for line in told if "WATCHDOG=1" in line] and not [line for line in told if "READY" in line]
    down = False
    await clock.advance(LONGEST_PAUSE_SECONDS)
    assert await waiting == "open"
    assert not opening.trouble
    await clock.advance(90)
    assert systemd.told() == []


async def test_an_attempt_that_hangs_for_a_quarter_of_an_hour_does_not_feed_the_watchdog(
    systemd: Sockets, clock: FakeClock, opening: Opening
) -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(opening.insist(hangs))
    await clock.advance(14 * 60)
    assert "WATCHDOG=1" in systemd.told()
    await clock.advance(60)
    systemd.told()
    await clock.advance(600)
    assert systemd.told() == []
    waiting.cancel()


async def test_attempts_are_spaced_out_and_the_log_tells_of_few(
    clock: FakeClock, opening: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    at: list[float] = []

    async def attempt() -> None:
        at.append(clock.monotonic())
        raise DatabaseUnavailable("nobody answers" if len(at) < 30 else "a wrong password")

    waiting = asyncio.create_task(opening.insist(attempt))
    await clock.advance(400)
    waiting.cancel()
    pauses = [round(later - one, 3) for one, later in pairwise(at)]
    assert pauses[:6] == [0.5, 1, 2, 4, 8, LONGEST_PAUSE_SECONDS] and max(pauses) == LONGEST_PAUSE_SECONDS
    logged = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in logged] == [f"attempts={n}" for n in (1, 2, 4, 8, 16, 30, 32)]
    assert "a wrong password" in str(opening.trouble)


async def test_what_waiting_does_not_mend_is_raised_at_once(opening: Opening) -> None:
    async def attempt() -> None:
        raise NotADatabase("a letter")

    with pytest.raises(NotADatabase):
        await opening.insist(attempt)


def test_a_spell_of_trouble_says_since_when_and_how_often() -> None:
    clock = FakeClock(now=1_700_000_000.0)
    trouble = Trouble(clock)
    assert not trouble and str(trouble) == ""
    trouble.failed(DatabaseUnavailable("gone"))
    assert str(trouble) == "gone (since 2023-11-14T22:13:20Z, 1 attempt)"
    clock.step_wall(60)
    trouble.failed(DatabaseUnavailable("still gone"))
    assert str(trouble) == "still gone (since 2023-11-14T22:13:20Z, 2 attempts)"
    trouble.over()
    assert not trouble


async def test_a_term_while_a_failed_start_is_cleared_away_leaves_no_database_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clearing, closed = asyncio.Event(), asyncio.Event()
    close = Database.close

    async def fail(_daemon: Daemon) -> None:
        raise DatabaseUnavailable("gone again")

    async def hang(_writer: Writer, _seconds: float = 10.0) -> None:
        clearing.set()
        await asyncio.Event().wait()

    async def noted(database: Database) -> None:
        await close(database)
        closed.set()

    monkeypatch.setattr(Daemon, "_make_up_a_past", fail)
    monkeypatch.setattr(Writer, "close", hang)
    monkeypatch.setattr(Database, "close", noted)
    async with starting(settings_from(config(tmp_path, f"sqlite:///{tmp_path}/monitor.db"))):
        await clearing.wait()
    assert closed.is_set()
