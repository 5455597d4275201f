"""Alembic's environment, for the `alembic` command and, through config.attributes["connection"], for the daemon."""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from monitor.clock import SystemClock
from monitor.storage import sqlite
from monitor.storage.lock import FileLock
from monitor.storage.schema import metadata


def migrate(connection: Connection) -> None:
    """Run inside the transaction of `connection`: all migrations or none. Its foreign keys must not be enforced."""
    is_sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=is_sqlite,
        # SQLite's DDL is transactional once the driver leaves transactions alone, which the engine sees to.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    if is_sqlite and (orphans := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
        raise RuntimeError(f"{len(orphans)} rows refer to rows that are gone, the first in {orphans[0][0]}")


async def migrate_by_command() -> None:
    url = context.get_x_argument(as_dictionary=True).get("database") or context.config.get_main_option("sqlalchemy.url")
    path = sqlite.path_of(url or "")
    sqlite.check_place(path, must_exist=False)
    lock = FileLock(path)
    lock.acquire("alembic command", SystemClock().now())
    engine = sqlite.write_engine(path, migrating=True)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()
        lock.release()


if context.is_offline_mode():
    raise SystemExit("alembic --sql is not supported: a migration may look at the data")

handed_in: Connection | None = context.config.attributes.get("connection")
if handed_in is None:
    asyncio.run(migrate_by_command())
else:
    migrate(handed_in)
