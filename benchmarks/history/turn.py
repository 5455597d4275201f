"""The turn of an hour with a writer at work: how long it holds the loop, and how long rows wait meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.history.past import NOW, ROLLED, observations
from benchmarks.history.run import ShiftedClock, Turns
from monitor.health.board import Board
from monitor.health.spans import HOUR
from monitor.observation import Observation
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.storage.database import Database
from monitor.storage.history import History
from monitor.storage.hour_turn import close_hours, turn_hours
from monitor.storage.restore import restore_board
from monitor.storage.rollups import CLOSE_AFTER_SECONDS
from monitor.storage.sqlite import path_of
from monitor.storage.writer import Writer

SECONDS = 5.0  # of traffic before and after


async def measure(settings: Settings) -> int:
    """The bytes that the closing of the hour adds to the write-ahead log, with an hour of 35 days ago let go."""
    clock = ShiftedClock(NOW - time.time())
    database = await Database.open(settings.database, clock)
    history, board = History(database), Board(settings, clock)
    put_at: dict[tuple[str, int], float] = {}
    waits: list[float] = []

    def committed(rows: Sequence[Observation], _already_shown: bool) -> None:
        now = time.monotonic()
        waits.extend(now - put_at.pop((one.endpoint, one.slot), now) for one in rows)
        board.record(rows)

    writer = Writer(database, clock, SelfMetrics("bench"), committed, lambda rows: None)
    running = asyncio.create_task(writer.run())

    async def restore() -> None:
        await restore_board(board, history, NOW, [], writer.tail)

    await writer.stand_still(restore, lambda _: None)
    writer.forget_tail()
    await board.refresh()
    traffic = asyncio.create_task(_traffic(settings, writer, put_at))
    await asyncio.sleep(SECONDS)
    _told("before", waits)
    waits.clear()
    log = await growing_log(database, settings)
    turns = Turns()
    watching = asyncio.create_task(turns.watch())
    begun, cpu = time.monotonic(), time.process_time()
    turned_at, log_bytes = ROLLED + HOUR + CLOSE_AFTER_SECONDS + 1.0, log.stat().st_size
    await close_hours(writer, turned_at, let_go_before=turned_at - settings.retention.hourly_seconds)
    log_bytes = log.stat().st_size - log_bytes
    await turn_hours(writer, history, board, turned_at)
    while board.windows.settle():
        await asyncio.sleep(0)
    watching.cancel()
    held = sorted((seconds for _, seconds in turns.held), reverse=True)
    print(f"  the turn: {time.process_time() - cpu:.1f} s of CPU, {time.monotonic() - begun:.1f} s long")
    longest = ", ".join(f"{one * 1000:.1f}" for one in held[:3])
    print(f"  loop held for more than 5 ms: {sum(one > 0.005 for one in held)} times, longest {longest} ms")
    _told("meanwhile", waits)
    traffic.cancel()
    await writer.close()
    await running
    await database.close()
    return log_bytes


async def growing_log(database: Database, settings: Settings) -> Path:
    """The write-ahead log, of which from here on nothing is written over: its frames can be counted."""
    path = path_of(settings.database.url)
    async with database.write() as connection:
        await connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
    return path.with_name(path.name + "-wal")


async def _traffic(settings: Settings, writer: Writer, put_at: dict[tuple[str, int], float]) -> None:
    rate = len(settings.catalog.endpoints) / 60
    begun = time.monotonic()
    for done, one in enumerate(observations(settings, NOW, NOW + 300.0)):
        while done > (time.monotonic() - begun) * rate:
            await asyncio.sleep(0.01)
        put_at[one.endpoint, one.slot] = time.monotonic()
        writer.put(one)


def _told(when: str, waits: Sequence[float]) -> None:
    ordered = sorted(waits) or [0.0]
    print(
        f"  rows {when}: {len(ordered)} acknowledged, p50 {ordered[len(ordered) // 2]:.2f} s, last {ordered[-1]:.2f} s"
    )
