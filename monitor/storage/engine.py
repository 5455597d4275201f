"""What a kind of database has to offer, so that `Database` need not know which kind it is.

Engine
├── SQLite      storage/sqlite.py: a file beside one daemon
└── PostgreSQL  storage/postgres.py: a server that several monitors share
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitor.storage.codec import WRITTEN_COLUMNS
from monitor.storage.errors import StorageError
from monitor.storage.journal import Journal

Row = tuple[Any, ...]
KEY_COLUMNS = ("due_ms", "endpoint_id", "location_id", "kind_id", "recheck")
assert WRITTEN_COLUMNS[: len(KEY_COLUMNS)] == KEY_COLUMNS


class DoublesError(Exception):
    """Some rows are there already: the transaction is to be tried again with `can_double`."""


class Engine(ABC):
    """One database's connections, and what only its kind can do. `writing` is None where it was opened for reading."""

    is_shared: ClassVar[bool]  # whether other monitors write here too
    keeps_days: ClassVar[bool]  # whether raw rows go by the whole UTC day, by `drop_days`
    name: str  # how messages call the database; without its password
    path: Path | None  # its file, where it is one
    spill_path: Path
    reading: AsyncEngine
    writing: AsyncEngine | None
    journal: Journal | None = None  # through which rows of a busy fleet go, where there is one

    @abstractmethod
    def hold(self, owner: str, now: float, listen: str) -> None:
        """Take what locks there are on this machine. DatabaseHeld, naming the holder, if another process has one."""

    @abstractmethod
    async def upgrade(self, now: float, directory: Path | None = None) -> Path | None:
        """Bring the schema to the newest of this program (or of `directory`), with what else writing needs. Returns
        the copy that was taken before, if one was."""

    @abstractmethod
    def migrating(self) -> AsyncEngine:
        """A connection that migrations may take their time on. The caller disposes of it."""

    @abstractmethod
    async def open_read_only(self) -> None:
        """Only look at the schema. SchemaTooOld or SchemaTooNew if it is not this program's."""

    @abstractmethod
    async def look_again(self) -> None:
        """Opened for reading: have `reading` show what is committed by now."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection, then let go of the locks. May be called again."""

    @abstractmethod
    def explained(self, error: BaseException) -> StorageError:
        """The error of the tree that `error`, met while working here, amounts to."""

    @abstractmethod
    def patient_reading(self) -> AsyncEngine:
        """A connection for one read that takes hours. The caller disposes of it."""

    @abstractmethod
    async def load(self, connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
        """Insert whole rows of `table`, in the order of its columns, as quickly as can be."""

    @abstractmethod
    async def loaded(self, connection: AsyncConnection, tables: Sequence[Table]) -> None:
        """After `load`: let the next row of each get an id of its own."""

    @abstractmethod
    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Until the end of the transaction, nobody else migrates."""

    @abstractmethod
    async def make_room(self, due_ms: Collection[int]) -> None:
        """To be called before the transaction that inserts raw rows which are due then."""

    @abstractmethod
    async def insert_raw(self, connection: AsyncConnection, rows: Sequence[Row], *, can_double: bool) -> list[int]:
        """Insert values of codec.WRITTEN_COLUMNS, passing over rows whose key exists. The positions of those that are
        new. DoublesError if not all are and `can_double` is False, where telling which costs more than trying again."""

    @abstractmethod
    async def drop_days(self, until_ms: int) -> int:
        """Remove the raw rows of the UTC days that end at `until_ms` or before; how many."""

    @abstractmethod
    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target` while others go on. BackupRefused if it exists."""

    @abstractmethod
    async def free_pages(self) -> tuple[int, int]:
        """(unused pages, all pages) that `vacuum_step` could give back; zeros where the server sees to it."""

    @abstractmethod
    async def vacuum_step(self, pages: int) -> None:
        """Give up to `pages` unused pages back to the file system."""


def positions_of(keys: set[Row], rows: Sequence[Row]) -> list[int]:
    """Where in `rows` the keys that were inserted stand, the first of each."""
    new = []
    for number, row in enumerate(rows):
        if (key := row[: len(KEY_COLUMNS)]) in keys:
            keys.remove(key)
            new.append(number)
    return new
