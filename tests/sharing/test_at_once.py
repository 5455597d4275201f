"""What two monitors of one database do at once, or one does behind the other's back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
from pair_stage import HOUR, MIDNIGHT, One, pair, row

from monitor.clock import FakeClock
from monitor.health.incidents import Incident, IncidentEvent, IncidentLedger
from monitor.health.state import State, Transition
from monitor.outcome import Outcome
from monitor.reclassification import relive_rewritten
from monitor.scheduling.shards import SHARDS, shard_of
from monitor.settings import DatabaseSettings, RetentionSettings
from monitor.sharing.registry import Registry
from monitor.storage.codec import as_stored
from monitor.storage.database import Job, T
from monitor.storage.facts import Skew, note_skew, read_skew
from monitor.storage.incident_log import IncidentLog
from monitor.storage.incidents import Fence
from monitor.storage.own_outages import record_location_suspect
from monitor.storage.postgres import PostgreSQL
from monitor.storage.reclassify import Change, alone, apply
from monitor.storage.retention import Pruned, prune
from monitor.storage.window_sums import renew_sums, sums_on_record

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
    async with asyncio.timeout(40.0):
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


async def test_states_are_found_anew_where_another_monitor_has_judged_again(postgres_url: str, tmp_path: Path) -> None:
    async with pair(postgres_url, tmp_path, FakeClock(MIDNIGHT + 600)) as (first, second):
        await second.begin()
        wrong = [row(0, number, outcome=Outcome.SERVER_ERROR, ttft_seconds=None) for number in range(4)]
        well = [row(1, number) for number in range(4)]
        await first.write(*wrong, *well)
        await second.follow()
        before = second.board.standing(wrong[0].endpoint, "test")
        unusable: dict[str, bool] = {}
        told: list[Transition] = []
        ended: list[IncidentEvent] = []
        rooms = SimpleNamespace(
            board=second.board,
            history=second.history,
            dispatcher=SimpleNamespace(set_unusable=unusable.__setitem__),
            ledger=IncidentLedger(
                [Incident(wrong[0].endpoint, "test", before.state, before.cause, before.since or 0.0)]
            ),
        )

        async def relive() -> None:
            await relive_rewritten(rooms, second.settings, second.clock, told.append, ended.extend)  # type: ignore[arg-type]

        await relive()
        assert (before.state, told, unusable) == (State.DOWN, [], {})
        judged = [Change(as_stored(one), Outcome.QUOTA) for one in wrong]
        names = first.database.names
        await alone(first.database)(lambda connection: apply(connection, names, judged), lambda _: None)
        for _ in range(2):
            await relive()
            standing = second.board.standing(wrong[0].endpoint, "test")
            assert (standing.state, standing.usable, unusable) == (State.UNKNOWN, False, {wrong[0].endpoint: True})
            assert [(one.previous, one.state) for one in told] == [(State.DOWN, State.UNKNOWN)]
            assert [one.change for one in ended] == ["closed"]


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


async def test_an_incident_that_a_frozen_monitor_writes_late_stays_what_its_successor_made_of_it(
    postgres_url: str, tmp_path: Path
) -> None:
    async with beside(postgres_url) as connection, pair(postgres_url, tmp_path, FakeClock(MIDNIGHT)) as (first, second):
        registry, endpoint = Registry(connection, 1), row(0, 0).endpoint
        logs = [IncidentLog(one.writer.submit, one.database.names) for one in (first, second)]
        down = Incident(endpoint, "test", State.DOWN, "connect", MIDNIGHT)

        async def told(log: IncidentLog, me: int, *incidents: Incident) -> list[tuple[float, float | None]]:
            log.put([IncidentEvent("changed", one) for one in incidents], lambda name: Fence(shard_of(name), me))
            await log.write()
            return sorted((one.started_at, one.ended_at) for one in await second.history.incidents())

        frozen = await registry.enter("first")
        assert await told(logs[0], frozen, down) == []  # not ours yet
        await registry.take(frozen, SHARDS)
        assert await told(logs[0], frozen, down) == [(MIDNIGHT, None)]
        successor = await registry.enter("second")
        await registry.leave(frozen)
        await registry.free(0)
        await registry.take(successor, SHARDS)
        ended = [(MIDNIGHT, MIDNIGHT + 60)]
        assert await told(logs[1], successor, replace(down, ended_at=MIDNIGHT + 60)) == ended
        assert await told(logs[0], frozen, down, replace(down, started_at=MIDNIGHT + 90)) == ended
        # What was given away is the giver's to tell of until somebody takes it.
        await registry.give(successor, [shard_of(endpoint)], 0)
        assert await told(logs[1], successor, down) == [(MIDNIGHT, None)]


async def test_sums_of_a_window_that_two_monitors_make_at_once_are_made_by_one_of_them(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.storage.window_sums._ROWS_A_STEP", 2)
    until = int(MIDNIGHT + HOUR)
    clock = FakeClock(until + 300.0)
    async with beside(postgres_url) as connection, pair(postgres_url, tmp_path, clock) as (first, second):
        await first.begin()
        await first.write(*(row(endpoint, number) for endpoint in range(3) for number in range(3)))
        await first.close(until)
        for before in itertools.count():
            await connection.execute("DELETE FROM window_sums; DELETE FROM meta WHERE name LIKE 'window_sums%'")
            steps, done = itertools.count(), list[bool]()

            async def submit(
                job: Job[T], here: int = before, steps: Iterator[int] = steps, done: list[bool] = done
            ) -> T:
                if next(steps) == here:
                    done.append(await renew_sums(second.history, second.writer.submit, until))
                return await first.writer.submit(job)

            done.append(await renew_sums(first.history, submit, until))
            assert sum(done) == 1
            assert list((await sums_on_record(second.history)).values()) == [until]
            if len(done) == 1:
                break  # it was done before it could be interrupted
        assert before > 4


async def test_who_lives_is_looked_up_in_the_schema_that_the_address_names(postgres_url: str) -> None:
    engine = PostgreSQL(DatabaseSettings(f"{postgres_url}?search_path=apart"))
    connection = await engine.connect_beside()
    try:
        assert await connection.fetchval("SHOW search_path") == "apart"
    finally:
        await connection.close()
        await engine.close()
