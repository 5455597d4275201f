"""Everything that only SQLite needs: its addresses, engines, pragmas, transactions, vacuum and copies."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Insert, Table, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from monitor.storage.errors import (
    BackupRefused,
    DatabaseMissing,
    DatabaseUrlError,
    NotADatabase,
    explained,
)
from monitor.storage.facts import MADE_UP

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
        raise DatabaseUrlError(f"database: {backend} cannot be opened yet; write for example: sqlite:///monitor.db")
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


def insert_new(dialect: str, table: Table) -> Insert:
    """An insert that passes over rows whose key exists."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


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


async def free_pages(connection: AsyncConnection) -> tuple[int, int]:
    """(unused pages, all pages) of the file."""
    unused = (await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one()
    whole = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
    return int(unused), int(whole)


async def vacuum_step(connection: AsyncConnection, pages: int) -> None:
    """Give up to `pages` unused pages back to the file system. The connection must not be in a transaction."""
    raw = await connection.get_raw_connection()
    # Not execute(): it takes this pragma for one without rows, and stops after the first page.
    await raw.driver_connection.executescript(f"PRAGMA incremental_vacuum({pages:d})")  # type: ignore[union-attr]


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
