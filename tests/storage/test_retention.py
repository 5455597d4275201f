"""Retention: what goes, what stays, and in which steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, observation, on_a_file, stage

from monitor.clock import SystemClock
from monitor.health.incidents import Incident
from monitor.health.state import State
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings, RetentionSettings
from monitor.slot import Cadence
from monitor.storage import retention
from monitor.storage.database import Database, Job, T
from monitor.storage.eras import record_eras
from monitor.storage.facts import read_skew
from monitor.storage.incidents import record_incident
from monitor.storage.retention import Pruned, prune


class At(SystemClock):
    """The system's clock, but for the date."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now


RULES = RetentionSettings(observations_seconds=DAY, hourly_seconds=3 * DAY, daily_seconds=10 * DAY)


@on_a_file
async def test_each_kind_of_row_goes_at_its_own_age(store: Stage) -> None:
    rows = [observation(number * 10) for number in range(6 * 144)]  # six days
    await store.write(rows)
    await store.writer.close_hours(MIDNIGHT + 6 * DAY)
    pruned = await prune(store.database, store.writer.submit, At(MIDNIGHT + 6 * DAY), RULES)
    assert (pruned.observations, pruned.hourly, pruned.daily) == (5 * 144, 3 * 24, 0)
    assert min(each.due_at for each in await store.rows()) == MIDNIGHT + 5 * DAY
    pruned = await prune(store.database, store.writer.submit, At(MIDNIGHT + 12 * DAY + 1), RULES)
    # all raw rows are that old now, but those within the usual skew of the watermark stay for the rebuild
    assert (pruned.observations, pruned.hourly, pruned.daily) == (144, 3 * 24, 3)
    assert await prune(store.database, store.writer.submit, At(MIDNIGHT + 12 * DAY + 1), RULES) == Pruned()


@on_a_file
async def test_rows_that_are_not_rolled_up_stay_whatever_their_age(store: Stage) -> None:
    await store.write([observation(number) for number in range(180)])
    late = At(MIDNIGHT + 100 * DAY)
    assert (await prune(store.database, store.writer.submit, late, RULES)).observations == 0
    await store.writer.close_hours(MIDNIGHT + 2 * HOUR)
    pruned = await prune(store.database, store.writer.submit, late, RULES)
    assert 110 < pruned.observations < 120
    assert len([each for each in await store.rows() if each.started_at >= MIDNIGHT + 2 * HOUR]) == 60
    # nor do hourly rows go whose day is still to be merged
    assert pruned.hourly == 0
    await store.writer.close_hours(MIDNIGHT + DAY)
    assert (await prune(store.database, store.writer.submit, late, RULES)).hourly == 3


@on_a_file
async def test_a_closing_takes_as_many_old_hours_away_as_it_brings_and_a_prune_leaves_them_to_it(store: Stage) -> None:
    async def hours() -> list[float]:
        return [row.start / HOUR for rows in [one async for one in store.history.rollups("hour")] for row in rows]

    begun = MIDNIGHT / HOUR
    await store.write([observation(number * 30, endpoint=f"m@{number % 2}") for number in range(8)])
    await store.writer.close_hours(MIDNIGHT + DAY)
    now = At(MIDNIGHT + 3 * DAY + 3 * HOUR)
    before = now.now() - RULES.hourly_seconds
    pruned = await prune(store.database, store.writer.submit, now, RULES, hours_are_closed=True)
    assert pruned.hourly == 2  # what closings should have come to by now
    assert await hours() == [begun + hour for hour in (1, 1, 2, 2, 3, 3)]
    await store.write([observation(3 * 1440 + number, endpoint=f"m@{number}") for number in range(3)])
    await store.writer.close_hours(MIDNIGHT + 3 * DAY + HOUR, let_go_before=before)
    assert await hours() == [begun + hour for hour in (2, 3, 3, 72, 72, 72)]  # three came, and four were old
    await store.write([observation(3 * 1440 + 60, endpoint=f"m@{number}") for number in range(3)])
    await store.writer.close_hours(MIDNIGHT + 3 * DAY + 2 * HOUR, let_go_before=before)
    assert await hours() == [begun + hour for hour in (3, 3, 72, 72, 72, 73, 73, 73)]  # nothing else was old


@on_a_file
async def test_a_closing_takes_no_hour_away_whose_day_is_open(store: Stage) -> None:
    for hour in range(24):
        await store.write([observation(hour * 60)])
        await store.writer.close_hours(MIDNIGHT + (hour + 1) * HOUR, let_go_before=MIDNIGHT + 40 * DAY)
    assert await store.count("hourly_rollups") == 24
    (days,) = [rows async for rows in store.history.rollups("day")]
    assert [day.tally.outcomes.total() for day in days] == [24]


@on_a_file
async def test_pages_that_a_closing_empties_are_in_the_log_once(store: Stage) -> None:
    async def logged(hour: int, let_go_before: float) -> int:
        await store.write([observation(hour * 60, endpoint=f"m@{number}") for number in range(300)])
        before = log.stat().st_size
        await store.writer.close_hours(MIDNIGHT + (hour + 1) * HOUR, let_go_before=let_go_before)
        return log.stat().st_size - before

    log = Path(f"{store.database.path}-wal")
    async with store.database.write() as connection:
        await connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
    await logged(23, 0)
    usual = await logged(24, 0)
    assert await logged(25, MIDNIGHT + DAY) < 1.4 * usual  # emptied apart from it: 1.7
    assert await store.count("hourly_rollups") == 600


@on_a_file
async def test_it_goes_in_small_steps_and_lets_others_write_between(
    store: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_A_STEP", 100)
    await store.write([observation(number) for number in range(1000)])
    await store.writer.close_hours(MIDNIGHT + DAY)
    sizes = []

    async def counting(job: Job[T]) -> T:
        result = await store.writer.submit(job)
        sizes.append(result)
        store.writer.put(observation(5000 + len(sizes)))
        return result

    pruned = await prune(store.database, counting, At(MIDNIGHT + 3 * DAY), replace(RULES, observations_seconds=0))
    assert pruned.observations == 1000
    assert sizes[:10] == [100] * 10
    await store.writer.flush()
    assert len(await store.rows()) == len(sizes)


@on_a_file
async def test_pages_go_back_to_the_file_system(settings: DatabaseSettings) -> None:
    clock = At(MIDNIGHT + 9 * DAY)
    async with stage(settings, clock) as store:
        for start in range(0, 12_000, 3000):
            await store.write([observation(number, detail="d" * 300) for number in range(start, start + 3000)])
        await store.writer.close_hours(MIDNIGHT + 9 * DAY)
        _, before = await store.database.free_pages()
        pruned = await prune(store.database, store.writer.submit, clock, RULES)
        unused, after = await store.database.free_pages()
        assert pruned.observations == 8 * 1440
        assert after < before / 2
        assert unused <= after * 0.1
        assert pruned.pages == before - after
    assert store.database.path.stat().st_size == after * 4096


async def test_closed_incidents_and_eras_go_with_the_daily_rows_and_open_ones_stay(store: Stage) -> None:
    names = store.database.names

    async def enter(connection: AsyncConnection) -> None:
        for endpoint, ends in (("m@a", MIDNIGHT + HOUR), ("m@b", None), ("m@c", MIDNIGHT + 19 * DAY)):
            await record_incident(connection, names, Incident(endpoint, "local", State.DOWN, None, MIDNIGHT, ends))
        for at, interval in ((MIDNIGHT, 60_000), (MIDNIGHT + HOUR, 30_000), (MIDNIGHT + 19 * DAY, 60_000)):
            await record_eras(connection, names, "local", {"m@a": (Cadence(interval, 0), "t")}, at)

    await store.writer.submit(enter)
    pruned = await prune(store.database, store.writer.submit, At(MIDNIGHT + 20 * DAY), RULES)
    assert (pruned.incidents, pruned.eras) == (1, 1)
    assert {each.endpoint for each in await store.history.incidents()} == {"m@b", "m@c"}
    assert len((await store.history.eras())["m@a", "local"]) == 2


async def test_texts_that_nobody_sends_any_more_are_forgotten_and_come_back_when_sent_again(
    settings: DatabaseSettings,
) -> None:
    clock = At(MIDNIGHT)
    async with stage(settings, clock) as store:
        await store.write([observation(number, response_model=f"invented-{number}") for number in range(100)])
        clock._now = MIDNIGHT + 5 * DAY
        await store.write([observation(5 * 1440, response_model="invented-1")])
        assert await store.count("texts") == 101  # and "stop"
        await store.writer.close_hours(MIDNIGHT + 6 * DAY)
        clock._now = MIDNIGHT + 5 * DAY + HOUR
        pruned = await prune(store.database, store.writer.submit, clock, RULES)
        assert (pruned.observations, pruned.texts) == (100, 99)
        await store.write([observation(5 * 1440 + 1, response_model="invented-2")])
        assert [each.response_model for each in await store.rows()] == ["invented-1", "invented-2"]
        assert [each.finish_reason for each in await store.rows()] == ["stop", "stop"]


async def test_an_old_clock_error_is_forgotten_with_its_rows(store: Stage) -> None:
    await store.write([observation(0, started_at=MIDNIGHT + 5 * HOUR), observation(9000, outcome=Outcome.RESET)])
    await store.writer.close_hours(MIDNIGHT + 8 * DAY)
    await prune(store.database, store.writer.submit, At(MIDNIGHT + 7 * DAY), RULES)
    async with store.database.read() as connection:
        assert (await read_skew(connection)).ms == 60_000


@on_a_file
async def test_without_a_daemon_the_database_itself_takes_the_steps(settings: DatabaseSettings) -> None:
    async with stage(settings) as store:
        await store.write([observation(number) for number in range(100)])
        await store.writer.close_hours(MIDNIGHT + DAY)
    clock = At(MIDNIGHT + 3 * DAY)
    database = await Database.open(settings, clock, owner="prune")
    assert (await prune(database, database.run, clock, RULES)).observations == 100
    await database.close()
