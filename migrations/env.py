"""Alembic's environment, for the `alembic` command and, through config.attributes["connection"], for the daemon."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

from monitor.clock import SystemClock
from monitor.secret import Secret
from monitor.settings import DatabaseSettings
from monitor.storage.database import engine_of
from monitor.storage.postgres_schema import in_comparison
from monitor.storage.schema import metadata


def migrate(connection: Connection) -> None:
    """Run inside the transaction of `connection`: all migrations or none. Its foreign keys must not be enforced."""
    is_sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=is_sqlite,
        include_object=in_comparison,
        # SQLite's DDL is transactional once the driver leaves transactions alone, which the engine sees to.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    if is_sqlite and (orphans := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()):
        raise RuntimeError(f"{len(orphans)} rows refer to rows that are gone, the first in {orphans[0][0]}")


async def migrate_by_command() -> None:
    url = context.get_x_argument(as_dictionary=True).get("database") or context.config.get_main_option("sqlalchemy.url")
    engine = engine_of(DatabaseSettings(url or "", password_of_environment()))
    try:
        engine.hold("alembic command", SystemClock().now(), "")
        migrating = engine.migrating()
        try:
            async with migrating.begin() as connection:
                await engine.lock_schema(connection)
                await connection.run_sync(migrate)
        finally:
            await migrating.dispose()
    finally:
        await engine.close()


def password_of_environment() -> Secret | None:
    return Secret("env", "MONITOR_DATABASE_PASSWORD") if "MONITOR_DATABASE_PASSWORD" in os.environ else None


if context.is_offline_mode():
    raise SystemExit("alembic --sql is not supported: a migration may look at the data")

handed_in: Connection | None = context.config.attributes.get("connection")
if handed_in is None:
    asyncio.run(migrate_by_command())
else:
    migrate(handed_in)
