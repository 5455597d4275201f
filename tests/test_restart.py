"""A restart that takes its time: what is probed meanwhile is neither lost nor doubled, and nothing half is served."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import sys
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from daemon_stage import get, running, settings_from, until
from test_daemon_wires import ONE, TWO, config, incidents, observed, report, rows

from monitor.clock import FakeClock
from monitor.daemon import Daemon
from monitor.health.board import Board
from monitor.health.state import State, Transition
from monitor.intake import Intake
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.settings import Settings
from monitor.storage.errors import DatabaseUnavailable
from monitor.storage.lock import read_holder
from monitor.storage.restore import restore_board
from monitor.storage.writer import Writer
from monitor.suspicion.judge import Cause
from monitor.suspicion.outages import OwnOutage


@pytest.mark.parametrize(("share", "lasts"), [(0.0, 5.0), (0.5, 10.0), (0.9, 25.0)])
async def test_what_others_take_of_the_processor_is_no_part_of_the_head_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, lasts: float
) -> None:
    clock = FakeClock()
    settings = settings_from(config(tmp_path, "one"))
    monkeypatch.setattr("monitor.daemon.denied_seconds", lambda: 7.0 + share * clock.monotonic())
    waiting = asyncio.create_task(Daemon(settings, lambda: settings, clock=clock)._head_start())
    await clock.advance(lasts - 0.1)
    assert not waiting.done()
    await clock.advance(0.2)
    assert waiting.done()


class Held:
    """Restores that wait, as on a slow disk: each until it is let go, in one of the ways that are given."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        self.fails = 0  # so many that are let go fail

    async def restore(self, *what: Any) -> Any:
        self.begun += 1
        await self.go.wait()
        if self.fails:
            self.fails -= 1
            raise DatabaseUnavailable("the disk is gone")
        return await restore_board(*what)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held()
    monkeypatch.setattr("monitor.restart.restore_board", held.restore)
    monkeypatch.setattr("monitor.daemon.HEAD_START_SECONDS", 0.0)
    return held


@contextlib.asynccontextmanager
async def restoring(settings: Settings, held: Held) -> AsyncIterator[Daemon]:
    """A daemon in the middle of its restore, which has not been let go."""
    daemon = Daemon(settings, lambda: settings)
    life = asyncio.create_task(daemon.run())
    try:
        await until(lambda: (held.begun and daemon.housekeeping.is_ticking) or life.done())
        yield daemon
    finally:
        daemon.should_exit.set()
        await life


def samples(directory: Path) -> int:
    counted = "SELECT count(*) FROM raw_observations WHERE recheck = 0"
    return int(rows(directory, counted)[0][0])


def shown(daemon: Daemon) -> dict[str, int]:
    """By window, of both endpoints together."""
    windows = ("30m", "1d", "30d")
    return {window: daemon.rooms.board.figures([ONE, TWO], None, window).samples for window in windows}


async def test_slots_that_fall_due_in_a_long_restore_are_probed_and_counted_once(tmp_path: Path, held: Held) -> None:
    settings = settings_from(config(tmp_path, "one", "two", interval="1s"))
    async with restoring(settings, held) as daemon:
        status, body = await get(daemon, "/readyz")
        assert (status, "windows are being restored, and probing has begun" in body) == (503, True)
        before = samples(tmp_path)  # of a slot that fell due before the restore began
        await until(lambda: daemon.rooms.dispatcher.reported >= before + 2)
        assert daemon.rooms.writer.queued >= 2 and samples(tmp_path) == before
        assert (await get(daemon, "/api/v1/routing"))[0] == 503
        assert "llm_endpoint" not in (await get(daemon, "/metrics"))[1]
        assert not daemon.ready.is_set()
        held.go.set()
        await until(daemon.ready.is_set)
        await until(lambda: daemon.rooms.dispatcher.reported >= 4)
    assert daemon.rooms.dispatcher.skipped.keys() <= {"missed"}  # before the first tick
    assert samples(tmp_path) == daemon.rooms.dispatcher.reported
    assert shown(daemon) == dict.fromkeys(("30m", "1d", "30d"), samples(tmp_path))
    async with running(settings) as again:
        assert await of_sql(again, tmp_path)


async def of_sql(daemon: Daemon, directory: Path) -> bool:
    """Whether the windows say what the rows say, at some moment when no row is under way."""

    async def agrees() -> bool:
        await daemon.rooms.writer.flush()
        return shown(daemon) == dict.fromkeys(("30m", "1d", "30d"), samples(directory))

    return bool(await until(agrees))


async def test_an_outage_before_a_restore_that_a_stop_cuts_short_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_from(config(tmp_path, "one", "two"))
    async with running(settings) as former:
        former.rooms.writer.put(observed(former, ONE, Outcome.SUCCESS))
    ((last_us,),) = rows(tmp_path, "SELECT max(due_ms) * 1000 FROM raw_observations")
    with contextlib.closing(sqlite3.connect(tmp_path / "monitor.db", isolation_level=None)) as connection:
        crashed = (
            "INSERT INTO own_outages (location_id, cause, reason, started_us) SELECT id, 'route', '', ? FROM locations"
        )
        connection.execute(crashed, (last_us - 5_000_000,))
    waits = asyncio.Event()
    monkeypatch.setattr("monitor.restart.adopt_cadences", lambda *_: waits.wait())
    daemon = Daemon(settings, lambda: settings)
    life = asyncio.create_task(daemon.run())
    await until(lambda: daemon._rooms is not None)
    at = last_us / 1e6 + 60.0
    daemon._intake.on_own_outage(OwnOutage(Cause.NETWORK, "nobody answers", at, at + 30.0))
    daemon.should_exit.set()
    await life
    lasted = rows(tmp_path, "SELECT cause, ended_us - started_us FROM own_outages ORDER BY cause")
    assert lasted == [("network", 30_000_000), ("route", 5_000_000)]


async def test_a_database_that_fails_in_mid_restore_stops_no_probe_and_loses_no_row(
    tmp_path: Path, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    held.fails = 1
    settings = settings_from(config(tmp_path, "one", "two", interval="1s"))
    async with restoring(settings, held) as daemon:
        rooms, board = daemon.rooms, daemon.rooms.board
        await until(lambda: rooms.dispatcher.reported >= 2)
        held.go.set()
        await until(daemon.ready.is_set)
        assert held.begun == 2 and daemon.rooms is rooms and rooms.board is not board
        assert "error=the disk is gone" in caplog.text
        assert await of_sql(daemon, tmp_path)
    assert samples(tmp_path) == rooms.dispatcher.reported
    assert shown(daemon)["30d"] == samples(tmp_path)


async def test_a_restore_that_failed_leaves_no_board_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards: list[weakref.ref[Board]] = []

    async def restore(*what: Any) -> Any:
        boards.append(weakref.ref(what[0]))
        if len(boards) > 1:
            return await restore_board(*what)
        del what  # the log keeps the error, and that its frames
        raise DatabaseUnavailable("the disk is gone")

    monkeypatch.setattr("monitor.restart.restore_board", restore)
    async with running(settings_from(config(tmp_path, "one"))) as daemon:
        assert [board() for board in boards] == [None, daemon.rooms.board]


async def test_what_went_to_the_disk_before_anything_was_restored_is_counted_when_it_is_replayed(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Writer.__init__.__kwdefaults__, "queue_limit", 4)
    async with restoring(settings_from(config(tmp_path, "one", "two")), held) as daemon:
        report(daemon, ONE, Outcome.SUCCESS, times=8)
        await until(lambda: daemon.rooms.writer.spilled >= 4)
        held.go.set()
        await until(daemon.ready.is_set)
        # A row can be read from the file a moment before the daemon hears that it is written.
        await until(lambda: shown(daemon) == {"30m": 8, "1d": 8, "30d": 8})
        assert samples(tmp_path) == 8


async def test_a_term_in_mid_restore_writes_what_was_probed(tmp_path: Path, held: Held) -> None:
    settings = settings_from(config(tmp_path, "one", "two", interval="1s"))
    async with restoring(settings, held) as daemon:
        await until(lambda: daemon.rooms.dispatcher.reported >= 2)
    assert read_holder(tmp_path / "monitor.db") is None
    assert samples(tmp_path) == daemon.rooms.dispatcher.reported
    held.go.set()
    async with running(settings) as again:
        assert await of_sql(again, tmp_path)


async def test_kill_9_in_mid_restore_leaves_a_database_that_the_next_start_agrees_with(tmp_path: Path) -> None:
    path = config(tmp_path, "one", "two", interval="1s")
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("restoring_daemon.py")), str(path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await asyncio.wait_for(child.stdout.readline(), 40) == b"probed\n"
    child.send_signal(signal.SIGKILL)
    await child.wait()
    async with running(settings_from(path)) as daemon:
        await until(lambda: daemon.rooms.dispatcher.reported >= 2)
        assert await of_sql(daemon, tmp_path)


def later(daemon: Daemon, endpoint: str, number: int) -> None:
    """A success that is due after what `report` has told."""
    one = observed(daemon, endpoint, Outcome.SUCCESS, number)
    daemon._intake.on_report(ProbeReport(Turn(daemon.settings.catalog.endpoints[endpoint], one.slot, one.due_at), one))


async def test_a_success_in_mid_restore_does_not_end_what_lasted_before(tmp_path: Path, held: Held) -> None:
    held.go.set()
    settings = settings_from(config(tmp_path, "one", "two"))
    async with running(settings) as daemon:
        report(daemon, ONE, Outcome.SERVER_ERROR, times=4)
        await until(lambda: incidents(tmp_path) == [(ONE, "local", True)])
    held.go.clear()
    held.begun = 0
    async with restoring(settings, held) as daemon:
        later(daemon, ONE, 5)
        later(daemon, TWO, 5)
        held.go.set()
        await until(daemon.ready.is_set)
        assert daemon.rooms.board.standing(ONE, "local").state is State.DOWN
        assert daemon.rooms.board.standing(TWO, "local").state is State.OPERATIONAL
        assert incidents(tmp_path) == [(ONE, "local", True)]
        later(daemon, ONE, 6)  # the second of two
        assert daemon.rooms.board.standing(ONE, "local").state is State.OPERATIONAL


async def test_what_others_tell_while_the_past_is_being_told_is_not_undone_by_it(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.go.set()
    settings = settings_from(config(tmp_path, "one", "two"))
    async with running(settings) as daemon:
        report(daemon, ONE, Outcome.SUCCESS, times=4)
        report(daemon, TWO, Outcome.SERVER_ERROR, times=4)
        await until(lambda: incidents(tmp_path) == [(TWO, "local", True)])
    told = Intake.on_transition

    def tell(intake: Intake, transition: Transition) -> None:
        told(intake, transition)
        if transition.endpoint == ONE:
            intake.take_in([observed(again, TWO, Outcome.SUCCESS, number) for number in (5, 6)], ())

    monkeypatch.setattr(Intake, "on_transition", tell)
    held.go.clear()
    held.begun = 0
    async with restoring(settings, held) as again:
        held.go.set()
        await until(again.ready.is_set)
        assert again.rooms.board.standing(TWO, "local").state is State.OPERATIONAL
        assert not again.rooms.ledger.still_open
        await until(lambda: incidents(tmp_path) == [(TWO, "local", False)])


async def test_a_key_that_was_refused_is_asked_seldom_before_anything_is_restored(tmp_path: Path, held: Held) -> None:
    held.go.set()
    settings = settings_from(config(tmp_path, "one", "two", interval="1m"))
    async with running(settings) as daemon:
        report(daemon, ONE, Outcome.AUTH)
    held.go.clear()
    held.begun = 0
    async with restoring(settings, held) as daemon:
        assert daemon.rooms.dispatcher.interval_seconds(ONE) > 60
        assert daemon.rooms.dispatcher.interval_seconds(TWO) == 60


async def test_a_model_that_is_gone_is_not_taken_for_one_that_never_was(tmp_path: Path, held: Held) -> None:
    held.go.set()
    settings = settings_from(config(tmp_path, "one", "two"))
    async with running(settings) as daemon:
        report(daemon, ONE, Outcome.SUCCESS)
    held.go.clear()
    held.begun = 0
    async with restoring(settings, held) as daemon:

        async def judged(endpoint: str, outcome: Outcome, **more: Any) -> Outcome:
            one = msgspec.structs.replace(observed(daemon, endpoint, outcome, 5), **more)
            turn = Turn(daemon.settings.catalog.endpoints[endpoint], one.slot, one.due_at)

            async def probe(turn: Turn) -> ProbeReport:
                return ProbeReport(turn, one)

            return (await daemon.rooms.recall.around(probe)(turn)).observation.outcome

        assert await judged(ONE, Outcome.UNKNOWN_MODEL) is Outcome.GONE
        assert await judged(TWO, Outcome.UNKNOWN_MODEL) is Outcome.UNKNOWN_MODEL
        assert await judged(ONE, Outcome.BAD_REQUEST, told='"unreadable"') is Outcome.MALFORMED
        assert await judged(ONE, Outcome.BAD_REQUEST, told="[]") is Outcome.BAD_REQUEST
        held.go.set()
        await until(daemon.ready.is_set)
        assert await judged(ONE, Outcome.UNKNOWN_MODEL) is Outcome.UNKNOWN_MODEL, "the prober itself knows by now"
