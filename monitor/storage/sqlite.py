"""Everything that only SQLite needs: its addresses, engines, pragmas, transactions, vacuum and copies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Dialect, Table, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.compiler import SQLCompiler

from monitor.clock import utc_text
from monitor.settings import DatabaseSettings
from monitor.storage import journal, migrate, schema
from monitor.storage.codec import WRITTEN_COLUMNS
from monitor.storage.engine import KEY_COLUMNS, DoublesError, Engine, Row, positions_of
from monitor.storage.errors import (
    BackupRefused,
    DatabaseMissing,
    DatabaseNotWritable,
    DatabaseUrlError,
    NotADatabase,
    StorageError,
    explained,
)
from monitor.storage.facts import MADE_UP
from monitor.storage.journal import Journal, show_waiting
from monitor.storage.lock import FileLock
from monitor.storage.upsert import insert_new
from monitor.tasks import to_its_end

log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5000
READERS = 4
_WAL_KEPT_BYTES = 64 * 1024 * 1024  # a write-ahead log that once grew (a long read) shrinks back to this
_MAGIC = b"SQLite format 3\0"


def path_of(url: str) -> Path:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`, absolute and without symbolic links."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseUrlError(
            f"database: {url!r} is not an address; write for example: sqlite:///monitor.db"
        ) from None
    backend = parsed.get_backend_name()
    if backend != "sqlite":
        raise DatabaseUrlError(
            f"database: {backend} cannot be opened; write for example: sqlite:///monitor.db or postgresql://user@host/db"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise DatabaseUrlError(f"database: {url!r} names no file; write for example: sqlite:///monitor.db")
    return Path(parsed.database).absolute().resolve()


def check_place(path: Path, *, must_exist: bool) -> None:
    """Raise the error that SQLite would only hint at: no directory, no file, or a file of another kind."""
    if not path.parent.is_dir():
        raise DatabaseMissing(
            f"database {path}: the directory {path.parent} does not exist; create it: mkdir -p {path.parent}"
        )
    if path.is_dir():
        raise NotADatabase(f"database {path}: this is a directory; name a file in it")
    if not path.exists():
        if must_exist:
            raise DatabaseMissing(f"database {path}: no such file; `monitor run` creates it")
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise explained(error, path) from None
    if start and start != _MAGIC:
        raise NotADatabase(f"database {path}: not a SQLite database; name another file")


class SQLite(Engine):
    is_shared = False
    keeps_days = False

    def __init__(
        self, settings: DatabaseSettings, busy_timeout_ms: int = BUSY_TIMEOUT_MS, *, can_write: bool = True
    ) -> None:
        self.file = self.path = path_of(settings.url)
        check_place(self.file, must_exist=not can_write)
        self.name = str(self.file)
        self.spill_path = self.file.with_name(self.file.name + ".spill")
        self.reading = read_engine(self.file, busy_timeout_ms)
        self.writing = write_engine(self.file, busy_timeout_ms) if can_write else None
        self._busy_timeout_ms = busy_timeout_ms
        self._lock = FileLock(self.file)
        self._journal = Journal()
        self._shown: tuple[int, ...] | None = None  # how far the journal had come
        self.journal = self._journal if can_write else None

    def hold(self, owner: str, now: float, listen: str) -> None:
        self._lock.acquire(owner, now, listen)

    async def upgrade(self, now: float, directory: Path | None = None) -> Path | None:
        writing = self._writing
        revision = await migrate.revision_of(self, writing)
        if revision == schema.HEAD and directory is None:
            return None
        await to_its_end(writing.dispose())
        backup = None
        if revision is not None:
            migrate.check_known(revision, self.name, directory)
            stamp = utc_text(now, "seconds").translate(str.maketrans("", "", "-:"))
            backup = self.file.with_name(f"{self.file.name}.{revision}.{stamp}.backup")
            await asyncio.to_thread(copy, self.file, backup)
            log.info("database upgrade from=%s backup=%s", revision, backup)
        await migrate.upgrade(self, directory, backup)
        return backup

    def migrating(self) -> AsyncEngine:
        return write_engine(self.file, self._busy_timeout_ms, migrating=True)

    async def open_read_only(self) -> None:
        try:
            revision = await migrate.revision_of(self, self.reading)
        except (DatabaseMissing, DatabaseNotWritable):
            # A write-ahead log needs a shared-memory file beside it; with no log, nobody is writing.
            if self.file.with_name(self.file.name + "-wal").exists():
                raise
            await to_its_end(self.reading.dispose())
            self.reading = read_engine(self.file, self._busy_timeout_ms, immutable=True)
            revision = await migrate.revision_of(self, self.reading)
        migrate.check_readable(revision, self.name)
        await to_its_end(self.reading.dispose())
        _show_waiting(self.reading)

    async def look_again(self) -> None:
        async with self.reading.begin() as connection:
            shown = await journal.how_far(connection)
        if shown != self._shown:
            self._shown = shown
            await to_its_end(self.reading.dispose())  # who connects anew sees what waits now

    async def close(self) -> None:
        await to_its_end(self.reading.dispose())
        if self.writing is not None:
            await to_its_end(self.writing.dispose())
        self._lock.release()

    def explained(self, error: BaseException) -> StorageError:
        return explained(error, self.file)

    def patient_reading(self) -> AsyncEngine:
        engine = read_engine(self.file, self._busy_timeout_ms)
        _show_waiting(engine)
        return engine

    async def load(self, connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
        names = [column.name for column in table.columns]
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608  # our own names
        await connection.exec_driver_sql(statement, list(rows))

    async def loaded(self, connection: AsyncConnection, tables: Sequence[Table]) -> None:
        """The next id is one more than the largest."""

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """`hold` has locked the file."""

    async def make_room(self, due_ms: Collection[int]) -> None:
        """One table takes all."""

    async def insert_raw(self, connection: AsyncConnection, rows: Sequence[Row], *, can_double: bool) -> list[int]:
        await self._journal.know(connection)
        if self._journal.takes(len(rows)):
            return await self._journal.add(connection, rows)
        positions = self._journal.not_waiting(rows)
        if len(positions) < len(rows):
            rows = [rows[number] for number in positions]
        return [positions[number] for number in await self._insert(connection, rows, can_double)] if rows else []

    async def _insert(self, connection: AsyncConnection, rows: Sequence[Row], can_double: bool) -> list[int]:
        if can_double:
            return await _insert_and_tell(connection, rows)
        # The driver's own text and tuples: by way of named parameters SQLAlchemy's share is more than the database's.
        result = await connection.exec_driver_sql(_statement(connection.dialect), list(rows))
        if result.rowcount != len(rows):
            raise DoublesError
        return list(range(len(rows)))

    async def drop_days(self, until_ms: int) -> int:
        raise AssertionError("a file keeps no days apart")

    async def backup(self, target: Path) -> None:
        await asyncio.to_thread(copy, self.file, target)

    async def free_pages(self) -> tuple[int, int]:
        async with self.reading.begin() as connection:
            unused = (await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one()
            whole = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
            return int(unused), int(whole)

    async def vacuum_step(self, pages: int) -> None:
        async with self._writing.connect() as connection:
            raw = await connection.get_raw_connection()
            # Not execute(): it takes this pragma for one without rows, and stops after the first page.
            await raw.driver_connection.executescript(f"PRAGMA incremental_vacuum({pages:d})")  # type: ignore[union-attr]

    @property
    def _writing(self) -> AsyncEngine:
        if self.writing is None:
            raise DatabaseNotWritable(f"database {self.name}: opened for reading only")
        return self.writing


async def _insert_and_tell(connection: AsyncConnection, rows: Sequence[Row]) -> list[int]:
    """Which rows are new. Off the usual path, since RETURNING costs ten times a plain insert."""
    key = [schema.raw_observations.c[name] for name in KEY_COLUMNS]
    statement = insert_new("sqlite", schema.raw_observations).returning(*key)
    found = await connection.execute(statement, [dict(zip(WRITTEN_COLUMNS, row, strict=True)) for row in rows])
    return positions_of({tuple(one) for one in found}, rows)


@lru_cache(maxsize=1)
def _statement(dialect: Dialect) -> str:
    """An insert of WRITTEN_COLUMNS that passes over rows whose key exists, as the driver takes it."""
    compiled = insert_new(dialect.name, schema.raw_observations).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler) and tuple(compiled.positiontup or ()) == WRITTEN_COLUMNS
    return str(compiled)


def write_engine(path: Path, busy_timeout_ms: int = BUSY_TIMEOUT_MS, *, migrating: bool = False) -> AsyncEngine:
    """An engine of one connection, whose transactions take the write lock as they begin. A new file gets its vacuum
    mode here, before its first table. `migrating` makes tables safe to rebuild."""
    url = URL.create("sqlite+aiosqlite", database=str(path))
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    pragmas = (
        f"busy_timeout={busy_timeout_ms}",
        "auto_vacuum=INCREMENTAL",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        # A table is rebuilt by dropping it and renaming its copy. Enforced keys would delete the rows that refer to it,
        # and the modern rename refuses while a view does.
        f"foreign_keys={'OFF' if migrating else 'ON'}",
        f"legacy_alter_table={'ON' if migrating else 'OFF'}",
        f"journal_size_limit={_WAL_KEPT_BYTES}",
        # Where SQLite was built to overwrite what is deleted, every page that retention frees would be in the log.
        "secure_delete=FAST",
    )
    # A read that turns into a write cannot wait for a lock (SQLITE_BUSY_SNAPSHOT): take it at the start.
    _prepare(engine, pragmas, "BEGIN IMMEDIATE")
    return engine


def read_engine(path: Path, busy_timeout_ms: int = BUSY_TIMEOUT_MS, *, immutable: bool = False) -> AsyncEngine:
    """An engine that cannot write. `immutable` is for a database in a directory where not even its shared-memory file
    can be made, and to which nobody writes."""
    query = {"uri": "true", "mode": "ro"} | ({"immutable": "1"} if immutable else {})
    url = URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query=query)
    engine = create_async_engine(url, pool_size=READERS, max_overflow=0)
    _prepare(engine, (f"busy_timeout={busy_timeout_ms}",), "BEGIN")
    return engine


def _show_waiting(engine: AsyncEngine) -> None:
    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        show_waiting(cursor)
        cursor.close()

    event.listen(engine.sync_engine, "connect", connected)


def _prepare(engine: AsyncEngine, pragmas: tuple[str, ...], begin: str) -> None:
    # SQLAlchemy's recipe: sqlite3 opens no transactions by itself, `begin` does.
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begun)


def may_be_dropped(path: Path) -> bool:
    """Whether a file, which may be anybody's and of any schema, holds a demo's made-up past, or nothing yet. Blocks."""
    if path.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            made_up = connection.execute("SELECT 1 FROM meta WHERE name = ?", (MADE_UP,)).fetchone()
            # A demo that was stopped in its first second has its tables and nothing in them.
            return made_up is not None or connection.execute("SELECT 1 FROM endpoints").fetchone() is None
    except sqlite3.Error:
        return False


def copy(source: Path, target: Path) -> None:
    """A consistent copy of a database that others may be writing to. BackupRefused if `target` exists. Blocks."""
    if target.exists():
        raise BackupRefused(f"backup {target}: the file exists; name another, or remove it first")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        connection = sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            connection.execute("VACUUM INTO ?", (str(partial),))
        finally:
            connection.close()
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        # Not rename: a link does not replace a file that came into being meanwhile.
        os.link(partial, target)
    except FileExistsError:
        raise BackupRefused(f"backup {target}: the file exists; name another, or remove it first") from None
    except (OSError, sqlite3.Error) as error:
        raise BackupRefused(f"backup {target}: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # where nothing could be written
            partial.unlink(missing_ok=True)
