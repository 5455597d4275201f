"""The turn of the hour where clock or database do not do as they should: the windows are those of a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from storage_samples import DAY, HOUR, MIDNIGHT, catalog_of, observation, refusing_writes, until

from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.spans import WINDOWS, floor_hour
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings, Settings
from monitor.storage.database import Database
from monitor.storage.errors import StorageError
from monitor.storage.history import History
from monitor.storage.hour_turn import turn_hours
from monitor.storage.restore import restore_board
from monitor.storage.writer import Writer

ONE, OTHER = "openai/gpt-4o-mini@acme", "author/other@acme"


@dataclass
class House:
    """A writer, its board and its history, wired as the daemon wires them."""

    clock: FakeClock
    settings: Settings
    board: Board
    writer: Writer
    history: History

    async def probe(self, first: int, last: int) -> None:
        """The probes of minutes `first` to `last - 1` since midnight, with the clock going along."""
        for number in range(first, last):
            self.clock.step_wall(MIDNIGHT + number * 60 + 1.0 - self.clock.now())
            for endpoint in (ONE, OTHER):
                self.writer.put(observation(number, endpoint=endpoint))
            if number % 60 == 59:
                await self.writer.flush()
                await self.turn()
        await self.writer.flush()

    async def turn(self) -> None:
        now = self.clock.now()
        with contextlib.suppress(StorageError):
            await turn_hours(self.writer, self.history, self.board, now, hourly_seconds=31.0 * DAY)

    def counts(self, board: Board | None = None) -> dict[str, int]:
        return {window: (board or self.board).figures([ONE, OTHER], None, window).samples for window in WINDOWS}

    async def restarted(self) -> dict[str, int]:
        """What a daemon that began now would say."""
        board = Board(self.settings, self.clock)
        await restore_board(board, self.history, self.clock.now())
        return self.counts(board)

    def settle(self) -> None:
        for _ in self.board.refresh_slices():
            pass


@asynccontextmanager
async def house(settings: DatabaseSettings) -> AsyncIterator[House]:
    clock = FakeClock(now=MIDNIGHT)
    database = await Database.open(settings, clock, busy_timeout_ms=10)
    known = Settings(path=Path("monitor.yaml"), catalog=catalog_of(ONE, OTHER), location="local")
    board = Board(known, clock)
    writer = Writer(
        database, clock, SelfMetrics("test"), lambda rows, shown: None if shown else board.record(rows), board.record
    )
    task = asyncio.create_task(writer.run())
    try:
        yield House(clock, known, board, writer, History(database))
    finally:
        await writer.close()
        await task
        await database.close()


async def test_a_clock_that_was_ahead_for_a_while_takes_nothing_from_the_windows(settings: DatabaseSettings) -> None:
    async with house(settings) as one:
        await one.probe(0, 700)
        before = one.counts()
        one.clock.step_wall(2 * DAY)
        await one.turn()
        one.settle()
        assert one.counts()["1d"] == 0
        one.clock.step_wall(-2 * DAY)
        await one.turn()
        assert one.board.windows.edge_hour == floor_hour(one.clock.now())
        assert one.counts() == before == await one.restarted()
        await one.probe(700, 820)
        one.settle()
        assert one.counts() == await one.restarted()
        assert one.counts()["1d"] == 2 * 820
        assert one.board.windows.clamped_cells == 0


async def test_a_closing_after_days_of_sleep_takes_no_hour_away_that_a_window_still_holds(
    settings: DatabaseSettings,
) -> None:
    async with house(settings) as one:
        await one.probe(0, 60)
        await one.probe(30 * 1440 - 60, 30 * 1440 - 30)
        assert one.counts()["30d"] == 2 * 90
        one.clock.step_wall(6 * DAY)
        await one.turn()  # hours of 36 days ago are older than the retention
        one.settle()
        assert one.counts()["30d"] == 2 * 30
        assert one.counts() == await one.restarted()


async def test_a_clock_that_is_slewed_across_the_hour_restores_nothing(settings: DatabaseSettings) -> None:
    async with house(settings) as one:
        await one.probe(0, 121)
        await one.turn()
        windows, edge_hour = one.board.windows, one.board.windows.edge_hour
        assert edge_hour == MIDNIGHT + 2 * HOUR
        one.clock.step_wall(edge_hour - 200 - one.clock.now())
        await one.turn()
        assert one.board.windows is windows


async def test_nothing_is_restored_over_rows_that_are_shown_and_not_yet_written(settings: DatabaseSettings) -> None:
    async with house(settings) as one:
        await one.probe(0, 130)
        before = one.counts()
        one.clock.step_wall(DAY)
        await one.turn()
        one.clock.step_wall(-DAY)
        async with refusing_writes(settings):
            await one.probe(130, 600)
            assert one.writer.spilled == 940
        windows, end = one.board.windows, one.clock.now()
        one.clock._monotonic += (
            60  # the writer's next attempt is due, and between two chunks of the spill comes the turn
        )
        await one.turn()
        assert one.board.windows is windows
        await until(lambda: not one.writer.spilled, one.clock)
        one.clock.step_wall(end - one.clock.now())
        await one.turn()
        assert one.board.windows is not windows
        assert one.counts()["1d"] == before["1d"] + 940
        assert one.counts() == await one.restarted()


async def test_rows_that_waited_on_disk_for_more_than_a_day_leave_the_day_like_any_other(
    settings: DatabaseSettings,
) -> None:
    async with house(settings) as one:
        await one.turn()
        async with refusing_writes(settings):
            await one.probe(0, 30 * 60)
            assert one.writer.spilled == 2 * 30 * 60
            assert one.counts()["1d"] == 2 * 30 * 60
        end = one.clock.now()
        for _ in range(600):
            await one.clock.advance(0.3)
            one.clock.step_wall(end - one.clock.now())
            await one.turn()
            if not one.writer.spilled:
                break
        await one.turn()
        one.settle()
        assert one.counts() == await one.restarted()
        assert one.counts()["1d"] == 2 * 25 * 60
        assert one.board.windows.clamped_cells == 0
