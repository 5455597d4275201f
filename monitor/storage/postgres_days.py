"""The daily partitions of `raw_observations` on PostgreSQL: made ahead and on demand, dropped when they are past."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

TABLE = "raw_observations"
DAY_MS = 86_400_000
# Advisory locks are numbers: "LLM" and what is done under it.
MIGRATING = 0x4C4C4D01
MAKING_DAYS = 0x4C4C4D02
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# How long a drop may stand in the way of others, who wait behind it, before it gives up and is tried again.
_DROP_LOCK_TIMEOUT = "500ms"
_COUNTED_BYTES = 64 * 1024 * 1024  # some 250,000 rows: to count a day of 14 million may take half a minute


def day_of_ms(due_ms: int) -> int:
    """The UTC day of a due time, in days since the epoch."""
    return due_ms // DAY_MS


def partition_of(day: int) -> str:
    """raw_observations_20231115; days beyond the calendar by their number."""
    try:
        return f"{TABLE}_{_EPOCH + timedelta(days=day):%Y%m%d}"
    except OverflowError:
        return f"{TABLE}_day_{'minus_' if day < 0 else ''}{abs(day)}"


async def days_there(connection: AsyncConnection) -> set[int]:
    """The days that have a partition."""
    return {day for day, _ in await _partitions(connection)}


async def make_days(connection: AsyncConnection, days: Iterable[int]) -> None:
    """Make the partitions of `days` that are not there yet, in a transaction of its own: monitors that want the same
    day wait for each other here, and nobody else waits."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MAKING_DAYS})
    missing = sorted(set(days) - await days_there(connection))
    for day in missing:
        name = partition_of(day)
        # PARTITION OF would lock the whole table against everybody; attaching what is made apart does not.
        await connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {TABLE} INCLUDING ALL)")
        await connection.exec_driver_sql(
            f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM ({day * DAY_MS}) TO ({(day + 1) * DAY_MS})"
        )


async def days_before(connection: AsyncConnection, until_ms: int) -> list[tuple[int, str]]:
    """(day, partition) of the days that end at `until_ms` or before, oldest first."""
    return [(day, name) for day, name in await _partitions(connection) if (day + 1) * DAY_MS <= until_ms]


async def drop_day(connection: AsyncConnection, day: int, name: str) -> int:
    """Drop a partition, unless another monitor has; its rows, of a large one as the statistics have it."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MAKING_DAYS})
    if day not in await days_there(connection):
        return 0
    size = f"SELECT pg_relation_size(oid) AS held, reltuples FROM pg_class WHERE oid = '{name}'::regclass"  # noqa: S608
    known = (await connection.exec_driver_sql(size)).mappings().one()
    count = known["reltuples"]
    if known["held"] <= _COUNTED_BYTES:
        query = f"SELECT count(*) FROM {name}"  # noqa: S608  # as the server's catalogue gave it
        count = (await connection.exec_driver_sql(query)).scalar_one()
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_DROP_LOCK_TIMEOUT}'")
    await connection.exec_driver_sql(f"DROP TABLE {name}")
    return max(int(count), 0)


async def _partitions(connection: AsyncConnection) -> list[tuple[int, str]]:
    rows = await connection.exec_driver_sql(
        "SELECT substring(pg_get_expr(child.relpartbound, child.oid) from $$FROM \\('?(-?[0-9]+)$$)::bigint AS low, "  # noqa: S608
        "child.oid::regclass::text AS name FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid "
        f"WHERE inhparent = '{TABLE}'::regclass"
    )
    return sorted((row.low // DAY_MS, row.name) for row in rows)
