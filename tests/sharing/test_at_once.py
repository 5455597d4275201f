"""What two monitors of one database do at once, or one does behind the other's back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from pair_stage import MIDNIGHT, One, pair, row

from monitor.clock import FakeClock
from monitor.outcome import Outcome
from monitor.settings import RetentionSettings
from monitor.storage.codec import as_stored
from monitor.storage.database import Job
from monitor.storage.facts import Skew, note_skew, read_skew
from monitor.storage.own_outages import record_location_suspect
from monitor.storage.reclassify import Change, alone, apply
from monitor.storage.retention import Pruned, prune

DAY = 86400.0


@asynccontextmanager
async def beside(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def prune_at(one: One) -> Pruned:
    task = asyncio.create_task(prune(one.database, one.writer.submit, one.clock, RetentionSettings()))
    while not task.done():
        await one.clock.advance(0.05)
        await asyncio.sleep(0.002)
    return await task


async def blocked(connection: asyncpg.Connection) -> None:
    """Until somebody waits for a lock."""
    async with asyncio.timeout(20.0):
        while not await connection.fetchval(  # noqa: ASYNC110
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.002)


async def read_back(one: One) -> list[str | None]:
    return [each.finish_reason async for rows in one.history.stream() for each in rows]


async def test_a_text_that_another_monitor_has_pruned_is_written_anew(postgres_url: str, tmp_path: Path) -> None:
    clock = FakeClock(MIDNIGHT)
    async with beside(postgres_url) as connection, pair(postgres_url, tmp_path, clock) as (first, second):
        await first.write(row(0, 0, finish_reason="stop"))
        await second.write(row(1, 0, finish_reason="stop"))
        await connection.execute("TRUNCATE raw_observations")
        await clock.advance(4 * DAY)
        assert (await prune_at(first)).texts == 1
        await second.write(row(1, 1, MIDNIGHT + 4 * DAY, finish_reason="stop"))
        assert await read_back(first) == ["stop"]


async def test_a_text_that_comes_into_use_while_another_monitor_prunes_stays(postgres_url: str, tmp_path: Path) -> None:
    clock = FakeClock(MIDNIGHT)
    async with beside(postgres_url) as connection, pair(postgres_url, tmp_path, clock) as (first, second):
        await second.write(row(1, 0, finish_reason="stop"))
        await connection.execute("TRUNCATE raw_observations")
        await clock.advance(4 * DAY)
        async with second.database.write() as writing:
            await second.database.names.texts(writing, ["stop"], clock.now())
            pruning = asyncio.create_task(prune_at(first))
            await blocked(connection)
        assert (await pruning).texts == 0
        assert await connection.fetchval("SELECT count(*) FROM texts") == 1


async def test_that_a_location_fails_alone_is_put_on_record_once(postgres_url: str, tmp_path: Path) -> None:
    async with beside(postgres_url) as connection, pair(postgres_url, tmp_path, FakeClock(MIDNIGHT)) as (first, second):

        def record(one: One, since: float) -> Job[None]:
            return lambda writing: record_location_suspect(writing, one.database.names, "test", "alone", since, None)

        async with first.database.write() as writing:
            await record(first, MIDNIGHT)(writing)
            other = asyncio.create_task(second.writer.submit(record(second, MIDNIGHT + 1)))
            await blocked(connection)
        await other
        assert await connection.fetchval("SELECT count(*) FROM own_outages") == 1


async def test_a_command_that_rewrites_history_is_heard_of_by_monitors(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await first.begin()
        await first.write(row(0, 0))
        judged = [Change(as_stored(row(0, 0)), Outcome.SERVER_ERROR)]
        submit = alone(second.database)
        told: list[Change] = []
        await submit(lambda connection: apply(connection, second.database.names, judged), told.extend)
        await first.follow()
        assert [set(+tally.outcomes) for _, _, tally in first.writer.hours.rows()] == [{Outcome.SERVER_ERROR}]
        assert told == judged and first.following.must_renew


async def test_what_was_begun_in_a_view_reads_for_itself_when_that_is_over(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT)) as (first, _):
        is_over = asyncio.Event()

        async def read_later() -> int:
            await is_over.wait()
            return await first.history.rolled_until()

        async with first.database.one_view():
            reading = asyncio.create_task(read_later())
        is_over.set()
        assert await reading == 0


async def test_a_clock_error_that_is_found_while_another_monitor_forgets_an_old_one_stays_on_record(
    postgres_url: str, tmp_path: Path
) -> None:
    clock = FakeClock(MIDNIGHT)
    async with beside(postgres_url) as connection, pair(postgres_url, tmp_path, clock) as (first, second):
        await second.write(row(1, 0, started_at=MIDNIGHT + 600))
        await connection.execute("TRUNCATE raw_observations")
        await clock.advance(4 * DAY)
        async with second.database.write() as writing:
            found = await note_skew(writing, Skew(), {round(clock.now() * 1000): 100_000})
            pruning = asyncio.create_task(prune_at(first))
            await blocked(connection)
        await pruning
        async with first.database.read() as reading:
            assert await read_skew(reading) == found
