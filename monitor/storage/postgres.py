"""Everything that only PostgreSQL needs: its connections, batches, partitions, and the place to spill to."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from sqlalchemy import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from monitor.config.database_address import ServerAddress, server_address
from monitor.secret import SecretError
from monitor.settings import DatabaseSettings
from monitor.storage import migrate, postgres_backup, postgres_days, schema
from monitor.storage.codec import WRITTEN_COLUMNS
from monitor.storage.engine import KEY_COLUMNS, Engine, Row, positions_of
from monitor.storage.errors import DatabaseRefused, DatabaseUrlError, StorageError, sqlstate_of
from monitor.storage.lock import FileLock
from monitor.storage.postgres_errors import explained
from monitor.tasks import to_its_end

if TYPE_CHECKING:
    import asyncpg

log = logging.getLogger(__name__)

READERS = 4
_WRITERS = 2  # the write transaction, and the partitions that it needs
_CONNECT_SECONDS = 10.0
_COMMAND_SECONDS = 30.0
_POOL_SECONDS = 10.0
_BESIDE_SECONDS = 10.0
# A monitor that freezes in the middle of a transaction must not hold up the others for longer.
_IDLE_IN_TRANSACTION = "10s"
# A view holds up nobody; and a restore reckons for seconds between two reads of it.
_IDLE_IN_VIEW = "60s"
_LOCK_NOT_AVAILABLE = "55P03"
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes
_UNACKNOWLEDGED_MS = 20_000


class PostgreSQL(Engine):
    is_shared = True
    keeps_days = True

    def __init__(self, settings: DatabaseSettings, listen: str = "", *, can_write: bool = True) -> None:
        self.address = _address_of(settings)
        self.name = str(self.address)
        self.path = None
        self.spill_path = Path(settings.spill) if settings.spill else _usual_spill(self.address, listen)
        self.reading = self._engine(
            READERS, default_transaction_read_only="on", idle_in_transaction_session_timeout=_IDLE_IN_VIEW
        )
        self.writing = self._engine(_WRITERS) if can_write else None
        self._password = settings.password
        self._lock: FileLock | None = None
        self._days: set[int] = set()

    @staticmethod
    def check(settings: DatabaseSettings) -> None:
        """DatabaseUrlError if the URL is none that can be used."""
        _address_of(settings)

    def hold(self, owner: str, now: float, listen: str) -> None:
        if owner != "daemon":
            return
        # The server takes any number of monitors; the file that this one spills to takes one.
        lock = FileLock(self.spill_path, "spill file", "give this one a `listen:` or `spill:` of its own")
        lock.acquire(owner, now, listen)
        self._lock = lock

    async def upgrade(self, now: float, directory: Path | None = None) -> Path | None:
        if directory is not None or await migrate.revision_of(self, self.reading) != schema.HEAD:
            await migrate.upgrade(self, directory)
        today = postgres_days.day_of_ms(round(now * 1000))
        await self._make_days({today, today + 1})
        return None

    def migrating(self) -> AsyncEngine:
        return self._engine(1, command_seconds=None, idle_in_transaction_session_timeout="60s")

    async def open_read_only(self) -> None:
        migrate.check_readable(await migrate.revision_of(self, self.reading), self.name)

    async def look_again(self) -> None:
        """Every read does."""

    async def close(self) -> None:
        await to_its_end(self.reading.dispose())
        if self.writing is not None:
            await to_its_end(self.writing.dispose())
        if self._lock is not None:
            self._lock.release()

    def explained(self, error: BaseException) -> StorageError:
        return explained(error, self.name)

    def patient_reading(self) -> AsyncEngine:
        return self._engine(
            1, command_seconds=None, default_transaction_read_only="on", idle_in_transaction_session_timeout="0"
        )

    async def load(self, connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
        # The driver knows of no transaction before the first statement has begun one.
        await connection.exec_driver_sql("SELECT 1")
        driver: Any = (await connection.get_raw_connection()).driver_connection
        names = [column.name for column in table.columns]
        await driver.copy_records_to_table(table.name, records=rows, columns=names)

    async def loaded(self, connection: AsyncConnection, tables: Sequence[Table]) -> None:
        for table in tables:
            if "id" in table.columns:
                await connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "  # noqa: S608  # our own names
                    f"coalesce((SELECT max(id) FROM {table.name}), 1), (SELECT count(*) > 0 FROM {table.name}))"
                )
            await connection.exec_driver_sql(f"ANALYZE {table.name}")

    async def lock_schema(self, connection: AsyncConnection) -> None:
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({postgres_days.MIGRATING})")

    async def make_room(self, due_ms: Collection[int]) -> None:
        days = {postgres_days.day_of_ms(due) for due in due_ms}
        if not days <= self._days:
            # The day after too: a batch at midnight must not wait for its partition.
            await self._make_days(days | {max(days) + 1})

    async def insert_raw(self, connection: AsyncConnection, rows: Sequence[Row], *, can_double: bool) -> list[int]:
        try:
            found = (await connection.exec_driver_sql(_statement(), tuple(map(list, zip(*rows, strict=True))))).all()
        except BaseException:
            self._days.clear()  # a partition may have been dropped by somebody
            raise
        if len(found) == len(rows):
            return list(range(len(rows)))
        return positions_of({tuple(one) for one in found}, rows)

    async def drop_days(self, until_ms: int) -> int:
        assert self.writing is not None
        removed = 0
        async with self.reading.begin() as connection:
            past = await postgres_days.days_before(connection, until_ms)
        for day, name in past:
            try:
                async with self.writing.begin() as connection:
                    removed += await postgres_days.drop_day(connection, day, name)
            except DBAPIError as error:
                if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
                    raise
                log.info("partition_in_use name=%s: dropped by the next run", name)
            self._days.discard(day)
        return removed

    async def backup(self, target: Path) -> None:
        await postgres_backup.dump(self.address, self._revealed(), target)

    async def connect_beside(self) -> asyncpg.Connection:
        """A connection of the caller's own, in autocommit, which asks small things and is answered soon."""
        return await self._connect(self._session(), _BESIDE_SECONDS)

    async def free_pages(self) -> tuple[int, int]:
        return 0, 0

    async def vacuum_step(self, pages: int) -> None:
        pass

    def _engine(
        self, connections: int, *, command_seconds: float | None = _COMMAND_SECONDS, **given: str
    ) -> AsyncEngine:
        settings = self._session(jit="off", idle_in_transaction_session_timeout=_IDLE_IN_TRANSACTION) | given

        async def connect(*_: Any, **__: Any) -> asyncpg.Connection[Any]:
            return await self._connect(settings, command_seconds)

        cache = {} if self._caches_statements else {"prepared_statement_cache_size": 0}
        return create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            connect_args=cache,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            # A server that was restarted, or a firewall that cuts what is idle, costs nobody an error.
            pool_pre_ping=True,
            # One consistent view for readers; writers see what others commit, as interning needs it.
            isolation_level="REPEATABLE READ" if "default_transaction_read_only" in given else "READ COMMITTED",
        )

    def _session(self, **given: str) -> dict[str, str]:
        path = self.address.option("search_path")
        where = {"search_path": path} if path else {}
        return {"application_name": "llm-provider-monitor", "timezone": "UTC", **given, **where}

    @property
    def _caches_statements(self) -> bool:
        return self.address.option("statement_cache_size") != "0"

    async def _connect(self, settings: dict[str, str], command_seconds: float | None) -> asyncpg.Connection[Any]:
        # Imported here: it costs 50 ms, which no user of SQLite should pay.
        import asyncpg

        address = self.address
        ours = ("connect_timeout", "statement_cache_size", "search_path")
        query = urlencode([(name, value) for name, value in address.options if name not in ours])
        try:
            connection: asyncpg.Connection[Any] = await asyncpg.connect(
                dsn=f"postgresql:///{quote(address.database, safe='')}?{query}",
                host=address.host,
                port=address.port,
                user=address.user or None,
                password=self._revealed(),
                timeout=float(address.option("connect_timeout") or 0) or _CONNECT_SECONDS,
                command_timeout=command_seconds,
                statement_cache_size=int(address.option("statement_cache_size") or 100),
                server_settings=settings,
            )
        except OSError:
            raise  # a certificate that does not hold is a ValueError too
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            raise DatabaseUrlError(f"database {self.name}: {error}") from None
        _keep_alive(connection)
        return connection

    def _revealed(self) -> str | None:
        try:
            return None if self._password is None else self._password.reveal()
        except SecretError as error:
            raise DatabaseRefused(f"database {self.name}: no password to log in with: {error}") from None

    async def _make_days(self, days: set[int]) -> None:
        assert self.writing is not None
        async with self.writing.begin() as connection:
            there = await postgres_days.days_there(connection)
        if missing := days - there:
            async with self.writing.begin() as connection:
                await postgres_days.make_days(connection, missing)
        self._days = there | days


def _address_of(settings: DatabaseSettings) -> ServerAddress:
    try:
        return server_address(settings.url)
    except ValueError as error:
        raise DatabaseUrlError(f"database: the URL {error}") from None


def _usual_spill(address: ServerAddress, listen: str) -> Path:
    """In systemd's state directory or the working directory, one for each database and address to listen on."""
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "."
    parts = [address.database, address.host, listen]
    name = "-".join("".join(char if char.isalnum() or char in "._" else "_" for char in part) for part in parts if part)
    return Path(directory).absolute() / f"{name.strip('_')}.spill"


def _keep_alive(connection: asyncpg.Connection[Any]) -> None:
    """A server that vanished without a word is noticed in half a minute, not in two hours."""
    transport = getattr(connection, "_transport", None)
    plug = None if transport is None else transport.get_extra_info("socket")
    if plug is None or plug.family == socket.AF_UNIX:
        return
    with suppress(OSError):
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": _UNACKNOWLEDGED_MS}.items():
            if hasattr(socket, name):
                plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@lru_cache(maxsize=1)
def _statement() -> str:
    """An insert of a batch, column by column, that passes over rows whose key exists and tells the keys of the rest."""
    table = schema.raw_observations
    types = {"BIGINT": "bigint", "INTEGER": "integer", "SMALLINT": "smallint", "TEXT": "text"}
    arrays = ", ".join(
        f"${number}::{types[str(table.c[name].type)]}[]" for number, name in enumerate(WRITTEN_COLUMNS, 1)
    )
    columns = ", ".join(WRITTEN_COLUMNS)
    return (
        f"INSERT INTO raw_observations ({columns}) SELECT * FROM unnest({arrays}) "  # noqa: S608
        f"ON CONFLICT DO NOTHING RETURNING {', '.join(KEY_COLUMNS)}"
    )
