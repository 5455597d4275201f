"""What a raw row takes: in the file, and in the write-ahead log at a commit every half second."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from benchmarks.history.past import NOW, observations
from monitor.clock import FakeClock
from monitor.outcome import Outcome
from monitor.settings import Settings
from monitor.storage.batch import commit_batch
from monitor.storage.codec import as_stored
from monitor.storage.database import Database
from monitor.storage.facts import Skew
from monitor.storage.rollups import HourBook
from monitor.storage.writer import FLUSH_SECONDS

SECONDS = 360.0
_DAY = 86_400.0


async def measure(path: Path, settings: Settings) -> tuple[float, float, float]:
    """(bytes a row of a success in the file, bytes of log a row, CPU seconds a row); `path` must not exist. The rows
    are those of six minutes, every one a success."""
    database = await Database.open(settings.database, FakeClock(NOW))
    try:
        rows = [one for one in observations(settings, NOW, NOW + SECONDS) if one.outcome is Outcome.SUCCESS]
        hours, skew = HourBook(), Skew()
        async with database.write() as connection:
            await database.names.endpoints(connection, settings.catalog.endpoints)
        async with database.write() as connection:
            # The log's frames are then all there to be counted; what a checkpoint writes goes to the file.
            await connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        log = path.with_name(path.name + "-wal")
        pages_before, log_before = (await database.free_pages())[1], log.stat().st_size
        begun = time.process_time()
        for _, batch in itertools.groupby(rows, key=lambda one: one.due_at // FLUSH_SECONDS):
            stored = [as_stored(one) for one in batch]
            _, skew = await commit_batch(database, stored, hours, skew, NOW)
        cpu = time.process_time() - begun
        pages, log_bytes = (await database.free_pages())[1], log.stat().st_size
    finally:
        await database.close()
    many = len(rows)
    return (pages - pages_before) * 4096 / many, (log_bytes - log_before) / many, cpu / many


async def main(directory: Path, settings: Settings) -> None:
    path = directory / "rows.db"
    in_file, in_log, cpu = await measure(path, settings)
    rows_a_day = len(settings.catalog.endpoints) * _DAY / 60
    print(f"  raw row of a success: {in_file:.1f} bytes in the file, {cpu * 1e6:.0f} us of CPU")
    print(f"  write-ahead log: {in_log:.0f} bytes a row, {in_log * rows_a_day / 1e9:.2f} GB a day")
    print(f"  raw rows of 7 days: {in_file * rows_a_day * 7 / 1e9:.2f} GB")
    for name in ("rows.db", "rows.db-wal", "rows.db-shm", "rows.db.lock"):
        if (directory / name).exists():
            (directory / name).unlink()
