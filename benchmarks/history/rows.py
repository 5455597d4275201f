"""What a raw row takes: in the file, in the write-ahead log, and of the processor; and how long a commit takes and the
loop is held.

Rows are written as a daemon writes them: as they are done, a commit every FLUSH_SECONDS, with what moves rows about
later. Every frame that comes into the log is counted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.history.past import NOW, observations
from benchmarks.history.run import Turns
from monitor.clock import FakeClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import Settings
from monitor.storage import journal
from monitor.storage.batch import commit_batch
from monitor.storage.codec import as_stored
from monitor.storage.database import Database
from monitor.storage.facts import Skew
from monitor.storage.retention import ROWS_A_STEP, delete_oldest_rows
from monitor.storage.rollups import HourBook
from monitor.storage.writer import FLUSH_SECONDS

WARMING_SECONDS = 90.0  # until the journal has its size
SECONDS = 360.0
_DAY = 86_400.0
_TIMEOUT_SECONDS = 20.0
_OLD_MS = round((NOW + WARMING_SECONDS + SECONDS) * 1000)  # all may go, the oldest first


@dataclass(frozen=True, slots=True)
class Measured:
    file_bytes: float  # a row
    log_bytes: float  # a row
    cpu_seconds: float  # a row
    commits: Sequence[float]  # seconds of each, in order of size
    moves: Sequence[float]
    held: Sequence[float]  # seconds of the loop thread's own CPU, over 4 ms
    waited: int  # rows that the journal held at most


async def measure(path: Path, settings: Settings, *, prunes: bool = False) -> Measured:
    """`path` must not exist. With `prunes` as many old rows go as new ones come, and the file does not grow."""
    clock = FakeClock(NOW)
    database = await Database.open(settings.database, clock)
    try:
        made = list(observations(settings, NOW, NOW + WARMING_SECONDS + SECONDS))
        rows = sorted(made, key=_ended_at)
        hours, skew = HourBook(), Skew()
        async with database.write() as connection:
            await database.names.endpoints(connection, settings.catalog.endpoints)
        async with database.write() as connection:
            # The log's frames are then all there to be counted; what a checkpoint writes goes to the file.
            await connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        log = path.with_name(path.name + "-wal")
        turns = Turns()
        watching = asyncio.create_task(turns.watch())
        commits: list[float] = []
        moves: list[float] = []
        many = waited = pages = log_bytes = old = 0
        begun = 0.0
        for _, batch in itertools.groupby(rows, key=lambda one: _ended_at(one) // FLUSH_SECONDS):
            stored = [as_stored(one) for one in batch]
            await clock.advance(max(_ended_at(stored[-1]) - clock.now(), 0.0))
            if not begun and clock.now() > NOW + WARMING_SECONDS:
                await database.settle()
                pages, log_bytes, begun = (await database.free_pages())[1], log.stat().st_size, time.process_time()
                many = old = 0
                for told in (commits, moves, turns.held):
                    told.clear()
            asked = time.perf_counter()
            _, skew = await commit_batch(database, stored, hours, skew, NOW)
            commits.append(time.perf_counter() - asked)
            many += len(stored)
            waited = max(waited, database.waiting)
            if prunes and begun:
                old += 0 if database.let_go(_OLD_MS) else len(stored)
                if old >= ROWS_A_STEP:
                    old -= await database.run(lambda connection: delete_oldest_rows(connection, _OLD_MS))
            if database.move_due_in() == 0.0:
                asked = time.perf_counter()
                await database.move_waiting()
                moves.append(time.perf_counter() - asked)
        await database.settle()
        cpu = time.process_time() - begun
        watching.cancel()
        pages, log_bytes = (await database.free_pages())[1] - pages, log.stat().st_size - log_bytes
    finally:
        await database.close()
    held = sorted(seconds for _, seconds in turns.held)
    return Measured(
        pages * 4096 / many, log_bytes / many, cpu / many, sorted(commits), sorted(moves), held, waited
    )  # fmt: skip


def _ended_at(one: Observation) -> float:
    """When it came to the writer: p50 1.2 s, p99 4 s after it was due; a timeout much later."""
    begun = one.started_at + (one.connect_seconds or 0.0)
    if one.outcome is Outcome.TIMEOUT_FIRST_TOKEN:
        return begun + _TIMEOUT_SECONDS
    return begun + (one.latency_seconds or one.headers_seconds or 0.0)


async def main(directory: Path, settings: Settings) -> float:
    """The bytes that rows add to the log in a day, as many old ones deleted."""
    rows_a_day = len(settings.catalog.endpoints) * _DAY / 60
    log_bytes = 0.0
    for what, many_rows in (("as they are", journal.MANY_ROWS), ("without a journal", journal.BULK_ROWS)):
        journal.MANY_ROWS = many_rows
        _tell(what, await _measured(directory, settings), rows_a_day)
        pruned = (await _measured(directory, settings, prunes=True)).log_bytes
        log_bytes = log_bytes or pruned * rows_a_day
        print(
            f"    the log, as many old rows deleted: {pruned:.0f} bytes a row, {pruned * rows_a_day / 1e9:.2f} GB a day"
        )
    return log_bytes


async def _measured(directory: Path, settings: Settings, *, prunes: bool = False) -> Measured:
    found = await measure(directory / "rows.db", settings, prunes=prunes)
    for name in ("rows.db", "rows.db-wal", "rows.db-shm", "rows.db.lock"):
        (directory / name).unlink(missing_ok=True)
    return found


def _tell(what: str, found: Measured, rows_a_day: float) -> None:
    print(f"  raw rows, {what}: {found.file_bytes:.1f} bytes in the file, {found.cpu_seconds * 1e6:.0f} us of CPU")
    print(f"    write-ahead log: {found.log_bytes:.0f} bytes a row, {found.log_bytes * rows_a_day / 1e9:.2f} GB a day")
    print(f"    raw rows of 7 days: {found.file_bytes * rows_a_day * 7 / 1e9:.2f} GB")
    for name, took in (("a commit", found.commits), ("a move", found.moves)):
        if took:
            middle, late, last = took[len(took) // 2], took[len(took) * 99 // 100], took[-1]
            print(f"    {name}: p50 {middle * 1e3:.1f} ms, p99 {late * 1e3:.1f} ms, longest {last * 1e3:.1f} ms")
    over, longest = sum(one > 0.005 for one in found.held), max(found.held, default=0.0)
    print(f"    loop held for more than 5 ms: {over} times, longest {longest * 1e3:.1f} ms")
    print(f"    rows that waited in the journal: {found.waited} at most")
