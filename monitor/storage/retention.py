"""Retention in small steps: never a long transaction, never a row that is not rolled up yet."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Table, and_, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.clock import Clock
from monitor.settings import RetentionSettings
from monitor.storage import schema
from monitor.storage.codec import day_of, micros
from monitor.storage.database import Database, Job, T
from monitor.storage.facts import forget_skew, read_rolled_until, read_skew

ROWS_A_STEP = 2_000  # some 20 ms of the writer's time
PAGES_A_STEP = 250  # 1 MB
_PAUSE_SECONDS = 0.02  # between steps, for everybody else
# Free pages are used again by the next hour's rows: only more than this share of the file goes back.
_FREE_SHARE = 0.1
_DAY_MS = 86_400_000
# Where moves of waiting rows take old ones away, a run deletes only what they have not come to within two of its turns;
# and where the closing of hours does, what that has not come to in two hours.
_PATIENCE_MS = 1_200_000
_HOURLY_PATIENCE_SECONDS = 7200


class Submit(Protocol):
    """`Writer.submit` in a daemon, `Database.run` where there is no writer."""

    def __call__(self, job: Job[T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a run of retention removed: rows, and pages given back to the file system."""

    observations: int = 0
    hourly: int = 0
    daily: int = 0
    incidents: int = 0  # and outages of our own
    eras: int = 0
    texts: int = 0
    pages: int = 0


async def prune(
    database: Database, submit: Submit, clock: Clock, retention: RetentionSettings, *, hours_are_closed: bool = False
) -> Pruned:
    """Remove what is older than `retention` says. Raw rows whose hour is not closed and hourly rows whose day is not
    closed stay, whatever their age. `hours_are_closed` says that this goes on beside, and takes old hourly rows of a
    file away. May be cancelled between any two steps."""
    now = clock.now()
    hourly_until = int(now - retention.hourly_seconds)
    if hours_are_closed and not database.is_shared:
        hourly_until -= _HOURLY_PATIENCE_SECONDS
    daily_until = int(now - retention.daily_seconds)

    async def in_steps(step: Job[int]) -> int:
        removed = 0
        while count := await submit(step):
            removed += count
            await clock.sleep(_PAUSE_SECONDS)
        return removed

    async def kept_from_ms(connection: AsyncConnection) -> int:
        rolled_ms = await read_rolled_until(connection) * 1000 - (await read_skew(connection)).ms - 1
        return min(round((now - retention.observations_seconds) * 1000), rolled_ms)

    async def observations(connection: AsyncConnection) -> int:
        until_ms = await kept_from_ms(connection)
        patience_ms = _PATIENCE_MS if database.let_go(until_ms) else 0
        return await delete_oldest_rows(connection, until_ms - patience_ms)

    async def days_of_observations() -> int:
        async with database.read() as connection:
            until_ms = await kept_from_ms(connection)
        return await database.drop_days(until_ms)

    async def hourly(connection: AsyncConnection) -> int:
        until = min(hourly_until, day_of(await read_rolled_until(connection)))
        return await _delete_some(connection, schema.hourly_rollups, schema.hourly_rollups.c.hour < until)

    async def daily(connection: AsyncConnection) -> int:
        return await _delete_some(connection, schema.daily_rollups, schema.daily_rollups.c.day < daily_until)

    async def texts(connection: AsyncConnection) -> int:
        oldest_ms = await database.oldest_due_ms(connection)
        now_ms = round(now * 1000)
        await forget_skew(connection, now_ms if oldest_ms is None else oldest_ms)
        # Their last use is noted by the day; and a row may be due later than now, if the clock went back.
        unused = schema.texts.c.last_used_ms < min(now_ms, oldest_ms or now_ms) - 3 * _DAY_MS
        removed = await _delete_some(connection, schema.texts, unused)
        if removed:
            database.names.forget_texts()
        return removed

    async def incidents(connection: AsyncConnection) -> int:
        return await _delete_some(connection, schema.incidents, schema.incidents.c.ended_us < micros(daily_until))

    async def own_outages(connection: AsyncConnection) -> int:
        return await _delete_some(connection, schema.own_outages, schema.own_outages.c.ended_us < micros(daily_until))

    async def eras(connection: AsyncConnection) -> int:
        return await _delete_some(connection, schema.eras, schema.eras.c.until_us < micros(daily_until))

    return Pruned(
        observations=database.rows_let_go()
        + await (days_of_observations() if database.keeps_days else in_steps(observations)),
        hourly=await in_steps(hourly),
        daily=await in_steps(daily),
        incidents=await in_steps(incidents) + await in_steps(own_outages),
        eras=await in_steps(eras),
        texts=await in_steps(texts),
        pages=await _give_back(database, clock),
    )


async def delete_oldest_rows(connection: AsyncConnection, until_ms: int) -> int:
    """Delete the oldest observations due before `until_ms`, ROWS_A_STEP and those due with the last of them."""
    table = schema.raw_observations
    due = table.c.due_ms
    last = (await connection.execute(select(due).order_by(due).offset(ROWS_A_STEP - 1).limit(1))).scalar()
    within = due < until_ms if last is None else and_(due < until_ms, due <= last)
    return int((await connection.execute(delete(table).where(within))).rowcount)


async def _delete_some(connection: AsyncConnection, table: Table, condition: Any) -> int:
    some = select(table.c.id).where(condition).limit(ROWS_A_STEP)
    # The condition once more: another monitor may have changed a row since, and then it is asked again.
    return int((await connection.execute(delete(table).where(table.c.id.in_(some), condition))).rowcount)


async def _give_back(database: Database, clock: Clock) -> int:
    unused, whole = await database.free_pages()
    before = whole
    while unused > whole * _FREE_SHARE:
        await database.vacuum_step(min(PAGES_A_STEP, unused))
        left, whole = await database.free_pages()
        if left >= unused:
            break  # the file was made without incremental vacuum
        unused = left
        await clock.sleep(_PAUSE_SECONDS)
    return before - whole
