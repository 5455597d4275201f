"""One database: opened, locked, brought to the right schema, and handed out as short transactions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitor.clock import Clock
from monitor.outcome import OUTCOME_CODES, group_of
from monitor.settings import DatabaseSettings
from monitor.storage import migrate, schema, sqlite
from monitor.storage.errors import DatabaseMissing, DatabaseNotWritable, StorageError, explained, is_outage
from monitor.storage.lock import FileLock
from monitor.storage.names import Names

log = logging.getLogger(__name__)

T = TypeVar("T")
Job = Callable[[AsyncConnection], Awaitable[T]]


class Database:
    """An open database. Any number of `read` blocks run at once; `write` blocks run one after another.

    In a daemon every write goes through the Writer, which alone calls `write` and `run`."""

    def __init__(
        self, path: Path, clock: Clock, reading: AsyncEngine, writing: AsyncEngine | None, lock: FileLock | None
    ) -> None:
        self.path = path
        self.clock = clock
        self.names = Names()
        self._reading = reading
        self._writing = writing
        self._lock = lock
        self._one_writer = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        settings: DatabaseSettings,
        clock: Clock,
        *,
        owner: str = "daemon",
        listen: str = "",
        busy_timeout_ms: int = sqlite.BUSY_TIMEOUT_MS,
    ) -> Database:
        """Take the lock, create or upgrade the schema, and open for reading and writing. Every failure is a
        StorageError, and leaves neither lock nor connection behind."""
        path = sqlite.path_of(settings.url)
        sqlite.check_place(path, must_exist=False)
        lock = FileLock(path)
        lock.acquire(owner, clock.now(), listen)
        writing = sqlite.write_engine(path, busy_timeout_ms)
        reading = sqlite.read_engine(path, busy_timeout_ms)
        database = cls(path, clock, reading, writing, lock)
        try:
            revision = await migrate.revision_of(writing, path)
            if revision != schema.HEAD:
                await writing.dispose()
                await migrate.upgrade(path, revision, clock.now(), busy_timeout_ms)
            await database.run(_name_outcomes)
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    async def open_read_only(
        cls, settings: DatabaseSettings, clock: Clock, *, busy_timeout_ms: int = sqlite.BUSY_TIMEOUT_MS
    ) -> Database:
        """Open for reading alone, without the lock, beside a running daemon or without one. Never changes a schema:
        SchemaTooOld or SchemaTooNew if it is not this program's."""
        path = sqlite.path_of(settings.url)
        sqlite.check_place(path, must_exist=True)
        reading = sqlite.read_engine(path, busy_timeout_ms)
        try:
            try:
                revision = await migrate.revision_of(reading, path)
            except (DatabaseMissing, DatabaseNotWritable):
                # A write-ahead log needs a shared-memory file beside it; with no log, nobody is writing.
                if path.with_name(path.name + "-wal").exists():
                    raise
                await reading.dispose()
                reading = sqlite.read_engine(path, busy_timeout_ms, immutable=True)
                revision = await migrate.revision_of(reading, path)
            migrate.check_readable(revision, path)
        except BaseException:
            await reading.dispose()
            raise
        return cls(path, clock, reading, None, None)

    @property
    def is_shared(self) -> bool:
        """Whether other monitors write here too: never to a file, which has one daemon."""
        return False

    @property
    def spill_path(self) -> Path:
        return self.path.with_name(self.path.name + ".spill")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A read transaction: one consistent view. Keep it short, the write-ahead log cannot shrink under it."""
        try:
            async with self._reading.begin() as connection:
                yield connection
        except Exception as error:
            self._retell(error)
            raise

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: committed when the block ends, undone (ids of new names too) if it raises."""
        if self._writing is None:
            raise DatabaseNotWritable(f"database {self.path}: opened for reading only")
        async with self._one_writer:
            try:
                async with self._writing.begin() as connection:
                    yield connection
            except BaseException as error:
                self.names.rolled_back()
                self._retell(error)
                raise
            self.names.committed()

    async def run(self, job: Job[T]) -> T:
        """`job` in one write transaction."""
        async with self.write() as connection:
            return await job(connection)

    async def free_pages(self) -> tuple[int, int]:
        """(unused pages, all pages) of the file."""
        async with self.read() as connection:
            return await sqlite.free_pages(connection)

    async def vacuum_step(self, pages: int) -> None:
        """Give up to `pages` unused pages back to the file system."""
        if self._writing is None:
            raise DatabaseNotWritable(f"database {self.path}: opened for reading only")
        async with self._one_writer:
            try:
                async with self._writing.connect() as connection:
                    await sqlite.vacuum_step(connection, pages)
            except Exception as error:
                self._retell(error)
                raise

    async def ping(self) -> None:
        """Return if the database answers; StorageError if it does not."""
        async with self.read() as connection:
            await connection.execute(select(schema.meta.c.name).limit(1))

    async def backup(self, target: Path) -> None:
        """Write a consistent, compact copy to `target` while others go on. BackupRefused if it exists."""
        await asyncio.to_thread(sqlite.copy, self.path, target)

    async def close(self) -> None:
        """Close every connection, then let go of the lock. May be called again."""
        await self._reading.dispose()
        if self._writing is not None:
            await self._writing.dispose()
        if self._lock is not None:
            self._lock.release()

    def _retell(self, error: BaseException) -> None:
        if is_outage(error) and not isinstance(error, StorageError):
            raise explained(error, self.path) from error


async def _name_outcomes(connection: AsyncConnection) -> None:
    """A class that this program knows and the table does not yet."""
    known = set((await connection.execute(select(schema.outcomes.c.name))).scalars())
    new = [
        {"code": code, "name": outcome.value, "group_name": group_of(outcome).value}
        for outcome, code in OUTCOME_CODES.items()
        if outcome.value not in known
    ]
    if new:
        await connection.execute(insert(schema.outcomes), new)
