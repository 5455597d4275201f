"""One database: opened, locked, brought to the right schema, and handed out as short transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitor.clock import Clock
from monitor.config.database_address import is_server
from monitor.outcome import OUTCOME_CODES, group_of
from monitor.settings import DatabaseSettings
from monitor.storage import schema
from monitor.storage.engine import Engine, Row
from monitor.storage.errors import CopyUnfinished, DatabaseNotWritable, StorageError, is_outage
from monitor.storage.facts import COPY_OF, read_fact
from monitor.storage.journal import Journal
from monitor.storage.lock import Holder, read_holder
from monitor.storage.names import Names
from monitor.storage.postgres import PostgreSQL
from monitor.storage.sqlite import BUSY_TIMEOUT_MS, SQLite, check_place, path_of
from monitor.storage.upsert import insert_new
from monitor.tasks import to_its_end

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")
Job = Callable[[AsyncConnection], Awaitable[T]]


class _View(NamedTuple):
    connection: AsyncConnection
    one_reader: asyncio.Lock


class Database:
    """An open database. Any number of `read` blocks run at once; `write` blocks run one after another.

    In a daemon every write goes through the Writer, which alone calls `write` and `run`."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.clock = clock
        self.names = Names()
        self.write_connections = 0  # opened since the start
        self._engine = engine
        self._journal = engine.journal
        self._one_writer = asyncio.Lock()
        self._writing_task: asyncio.Task[Any] | None = None
        self._view: ContextVar[_View | None] = ContextVar("view", default=None)
        if engine.writing is not None:
            event.listen(engine.writing.sync_engine, "connect", self._note_connection)

    @classmethod
    async def open(
        cls,
        settings: DatabaseSettings,
        clock: Clock,
        *,
        owner: str = "daemon",
        listen: str = "",
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    ) -> Database:
        """Take the lock, create or upgrade the schema, and open for reading and writing. Every failure is a
        StorageError, and leaves neither lock nor connection behind."""
        database = cls(engine_of(settings, listen, busy_timeout_ms), clock)
        try:
            database._engine.hold(owner, clock.now(), listen)
            await database._engine.upgrade(clock.now())
            await database.run(_name_outcomes)
            await database._refuse_half_a_copy()
            await database.settle()
        except Exception as error:
            await database.close()
            database._retell(error)
            raise
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    async def open_read_only(
        cls, settings: DatabaseSettings, clock: Clock, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS
    ) -> Database:
        """Open for reading alone, without the lock, beside a running daemon or without one. Never changes a schema:
        SchemaTooOld or SchemaTooNew if it is not this program's."""
        engine = engine_of(settings, busy_timeout_ms=busy_timeout_ms, can_write=False)
        try:
            await engine.open_read_only()
        except BaseException:
            await engine.close()
            raise
        return cls(engine, clock)

    @property
    def name(self) -> str:
        """How messages call it: its path, or its address without the password."""
        return self._engine.name

    @property
    def path(self) -> Path | None:
        """Its file, where it is one."""
        return self._engine.path

    @property
    def is_shared(self) -> bool:
        """Whether other monitors write here too: never to a file, which has one daemon."""
        return self._engine.is_shared

    @property
    def keeps_days(self) -> bool:
        """Whether raw rows go by the whole UTC day, by `drop_days`."""
        return self._engine.keeps_days

    @property
    def spill_path(self) -> Path:
        return self._engine.spill_path

    def explained(self, error: BaseException) -> StorageError:
        """The StorageError that `error`, met while working here, amounts to."""
        return self._engine.explained(error)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A read transaction: one consistent view. Keep it short, the write-ahead log cannot shrink under it."""
        view = self._view.get()
        try:
            # A task that was begun in a view, and outlives it, has it still.
            if view is not None and not view.connection.closed:
                async with view.one_reader:
                    yield view.connection
            else:
                async with self._engine.reading.begin() as connection:
                    yield connection
        except Exception as error:
            self._retell(error)
            raise

    @asynccontextmanager
    async def one_view(self) -> AsyncIterator[None]:
        """Where others write too: all that this task reads in the block is of one moment. A file has one writer, and
        who reads in its task needs none."""
        if not self.is_shared or self._view.get() is not None:
            yield
            return
        try:
            async with self._engine.reading.begin() as connection:
                token = self._view.set(_View(connection, asyncio.Lock()))
                try:
                    yield
                finally:
                    self._view.reset(token)
        except Exception as error:
            self._retell(error)
            raise

    async def connect_beside(self) -> asyncpg.Connection:
        """A connection of the caller's own to a shared database, in autocommit."""
        if not isinstance(self._engine, PostgreSQL):
            raise DatabaseNotWritable(f"database {self.name}: a file has no connections of others")
        return await self._engine.connect_beside()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: committed when the block ends, undone (ids of new names too) if it raises."""
        writing = self._to_write
        async with self._one_writer:
            try:
                self._writing_task = asyncio.current_task()
                async with writing.begin() as connection:
                    yield connection
            except BaseException as error:
                self.names.rolled_back()
                if self._journal is not None:
                    self._journal.rolled_back()
                self._retell(error)
                raise
            finally:
                self._writing_task = None
            self.names.committed()
            if self._journal is not None:
                self._journal.committed()

    async def run(self, job: Job[T]) -> T:
        """`job` in one write transaction."""
        async with self.write() as connection:
            return await job(connection)

    async def make_room(self, due_ms: Collection[int]) -> None:
        """To be called before the `write` that inserts raw rows which are due then."""
        with self._retold():
            await self._engine.make_room(due_ms)

    async def insert_raw(self, connection: AsyncConnection, rows: Sequence[Row], *, can_double: bool) -> list[int]:
        """See Engine.insert_raw."""
        return await self._engine.insert_raw(connection, rows, can_double=can_double)

    @property
    def waiting(self) -> int:
        """Rows that are committed and not in the raw table yet."""
        return 0 if self._journal is None else len(self._journal)

    def move_due_in(self) -> float | None:
        """Seconds until `move_waiting` has something to do; None if every committed row is in the raw table."""
        return None if self._journal is None else self._journal.move_due_in(self.clock.monotonic())

    async def move_waiting(self) -> None:
        """To be called by the writer, where `move_due_in` says so: some of the rows that wait, in one transaction."""
        if self._journal is not None:
            async with self.write() as connection:
                await self._journal.move(connection, self.clock.monotonic(), everything=False)

    async def oldest_due_ms(self, connection: AsyncConnection) -> int | None:
        """When the oldest raw row fell due, also of those that wait; None without any. In a `write` block."""
        query = select(func.min(schema.raw_observations.c.due_ms))
        found = [(await connection.execute(query)).scalar()]
        if self._journal is not None:
            found.append(await self._journal.oldest_due_ms(connection))
        return min((each for each in found if each is not None), default=None)

    async def settle(self) -> None:
        """Have every row that is committed by now in the raw table, or shown as if. To be called before it is read, in
        no `write` block."""
        if self._journal is None:
            await self._engine.look_again()
        elif self.move_due_in() is not None:
            if self._writing_task is asyncio.current_task():
                raise RuntimeError("raw rows are to be read before a write block, or after it")
            await to_its_end(self._move_all(self._journal))

    async def _move_all(self, journal: Journal) -> None:
        while self.move_due_in() is not None:
            async with self.write() as connection:
                await journal.move(connection, self.clock.monotonic(), everything=True)

    def let_go(self, until_ms: int) -> bool:
        """Raw rows due before `until_ms` are not wanted any more. Whether moves take them away, by and by."""
        if self._journal is None:
            return False
        self._journal.let_go_ms = until_ms
        return self._journal.is_used

    def rows_let_go(self) -> int:
        """How many of them moves have taken away since this was last asked."""
        if self._journal is None:
            return 0
        gone, self._journal.gone = self._journal.gone, 0
        return gone

    async def drop_days(self, until_ms: int) -> int:
        """Where `keeps_days`: remove the raw rows of the UTC days that end at `until_ms` or before; how many."""
        with self._retold():
            return await self._engine.drop_days(until_ms)

    async def free_pages(self) -> tuple[int, int]:
        """(unused pages, all pages) that `vacuum_step` can give back."""
        with self._retold():
            return await self._engine.free_pages()

    async def vacuum_step(self, pages: int) -> None:
        """Give up to `pages` unused pages back to the file system."""
        with self._retold():
            async with self._one_writer:
                await self._engine.vacuum_step(pages)

    async def ping(self) -> None:
        """Return if the database answers; StorageError if it does not."""
        async with self.read() as connection:
            await connection.execute(select(schema.meta.c.name).limit(1))

    async def backup(self, target: Path) -> None:
        """Write a consistent, compact copy to `target` while others go on. BackupRefused if it exists."""
        await self._engine.backup(target)

    async def close(self) -> None:
        """Close every connection, then let go of the lock. May be called again."""
        await self._engine.close()

    @property
    def _to_write(self) -> AsyncEngine:
        if self._engine.writing is None:
            raise DatabaseNotWritable(f"database {self.name}: opened for reading only")
        return self._engine.writing

    async def _refuse_half_a_copy(self) -> None:
        async with self.read() as connection:
            source = await read_fact(connection, COPY_OF)
        if source is not None:
            raise CopyUnfinished(
                f"database {self.name}: a copy of {source} that was broken off; go on with `monitor db copy`, "
                "or empty it"
            )

    @contextmanager
    def _retold(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._retell(error)
            raise

    def _note_connection(self, *_: object) -> None:
        # Who answers anew may be another database under the same name: a backup, or a standby that lagged.
        self.names.forget()
        if self._journal is not None:
            self._journal.forget()
        self.write_connections += 1

    def _retell(self, error: BaseException) -> None:
        if is_outage(error) and not isinstance(error, StorageError):
            raise self._engine.explained(error) from error


def engine_of(
    settings: DatabaseSettings, listen: str = "", busy_timeout_ms: int = BUSY_TIMEOUT_MS, *, can_write: bool = True
) -> Engine:
    """The engine of the kind that the address names; not opened yet."""
    if is_server(settings.url):
        return PostgreSQL(settings, listen, can_write=can_write)
    return SQLite(settings, busy_timeout_ms, can_write=can_write)


def check_address(settings: DatabaseSettings, *, must_exist: bool) -> None:
    """Raise what can be told of an address without opening it: of a server, only whether it is one."""
    if is_server(settings.url):
        PostgreSQL.check(settings)
    else:
        check_place(path_of(settings.url), must_exist=must_exist)


def holder_of(settings: DatabaseSettings) -> Holder | None:
    """Who holds the file; None if nobody does, and of a server, which takes any number."""
    return None if is_server(settings.url) else read_holder(path_of(settings.url))


async def _name_outcomes(connection: AsyncConnection) -> None:
    """A class that this program knows and the table does not yet."""
    known = set((await connection.execute(select(schema.outcomes.c.name))).scalars())
    new = [
        {"code": code, "name": outcome.value, "group_name": group_of(outcome).value}
        for outcome, code in OUTCOME_CODES.items()
        if outcome.value not in known
    ]
    if new:
        await connection.execute(insert_new(connection.dialect.name, schema.outcomes), new)
