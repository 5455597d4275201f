"""Rollups: hours and days closed once, late rows, and the promise that rollups and raw rows never disagree."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, observation, same_tally, stage, stored, varied

from monitor.clock import FakeClock
from monitor.health.tally import Tally, as_outcomes, tally_of
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings
from monitor.slot import Cadence
from monitor.storage.eras import record_eras
from monitor.storage.rollups import HourBook, Place

Buckets = dict[tuple[int, Place], Tally]


def tallied(rows: list[Observation], width: int) -> Buckets:
    """What the rollups of these rows must be."""
    buckets: dict[tuple[int, Place], list[Observation]] = defaultdict(list)
    for row in stored(rows):
        if row.recheck == 0:
            start = int(row.started_at // width) * width
            buckets[start, (row.endpoint, row.location, row.kind)].append(row)
    return {key: tally_of(members) for key, members in buckets.items()}


async def rolled(store: Stage, step: str) -> Buckets:
    found = [rollup async for rows in store.history.rollups(step) for rollup in rows]
    buckets = {(each.start, (each.endpoint, each.location, each.kind)): each.tally for each in found}
    assert len(buckets) == len(found)
    return buckets


def assert_same(found: Buckets, expected: Buckets) -> None:
    assert found.keys() == expected.keys()
    for key, tally in found.items():
        assert same_tally(tally, expected[key]), key


async def assert_rollups_agree_with_raw(store: Stage) -> None:
    rows = await store.rows()
    until = store.writer.hours.rolled_until
    assert until == await store.history.rolled_until()
    hours = tallied(rows, HOUR)
    assert_same(await rolled(store, "hour"), {key: tally for key, tally in hours.items() if key[0] < until})
    days = tallied(rows, DAY)
    assert_same(await rolled(store, "day"), {key: tally for key, tally in days.items() if key[0] + DAY <= until})
    book = {(hour, place): tally for hour, place, tally in store.writer.hours.rows()}
    assert_same(book, {key: tally for key, tally in hours.items() if key[0] >= until})


async def test_closed_hours_and_days_are_the_tallies_of_their_raw_rows(store: Stage) -> None:
    await store.write(varied(seed=3, count=1500, span=2 * DAY))
    assert await store.writer.close_hours(MIDNIGHT + DAY + 5 * HOUR) > 0
    await assert_rollups_agree_with_raw(store)


async def test_closing_the_same_hours_again_changes_nothing(store: Stage) -> None:
    await store.write(varied(seed=4, count=400, span=DAY))
    assert await store.writer.close_hours(MIDNIGHT + DAY) > 0
    before = [await rolled(store, step) for step in ("hour", "day")]
    for until in (MIDNIGHT + DAY, MIDNIGHT + HOUR, MIDNIGHT + DAY + 1800):
        assert await store.writer.close_hours(until) == 0
    assert [await rolled(store, step) for step in ("hour", "day")] == before
    await assert_rollups_agree_with_raw(store)


async def test_a_closing_that_fails_leaves_every_hour_open(store: Stage) -> None:
    await store.write(varied(seed=5, count=300, span=DAY))

    def broken(endpoint: str, location: str, kind: str, start: float, end: float) -> int:
        raise RuntimeError("no eras")

    with pytest.raises(RuntimeError):
        await store.writer.close_hours(MIDNIGHT + DAY, broken)
    assert await store.count("hourly_rollups") == 0
    assert store.writer.hours.rolled_until == 0
    await store.writer.close_hours(MIDNIGHT + DAY)
    await assert_rollups_agree_with_raw(store)


async def test_a_late_row_goes_into_its_own_hour_and_day(store: Stage) -> None:
    await store.write([observation(number) for number in range(600)])
    await store.writer.close_hours(MIDNIGHT + DAY)
    late = [
        observation(5, endpoint="model@new"),  # no row of its own yet
        observation(700),  # an hour without any row
        observation(10, recheck=1),  # counts nowhere
        observation(0, outcome=Outcome.RESET, slot=1, due_at=MIDNIGHT + 0.5),
    ]
    await store.write(late)
    await assert_rollups_agree_with_raw(store)
    await store.write(late)
    await assert_rollups_agree_with_raw(store)


async def test_a_row_of_the_last_moment_belongs_to_the_hour_it_started_in(store: Stage) -> None:
    edge = MIDNIGHT + HOUR
    rows = [
        observation(0, slot=1, due_at=edge - 0.001, started_at=edge - 0.000001),
        observation(0, slot=2, due_at=edge - 0.002, started_at=edge),
    ]
    await store.write(rows)
    await store.writer.close_hours(edge + HOUR)
    starts = [key[0] for key in await rolled(store, "hour")]
    assert starts == [MIDNIGHT, edge]


async def test_a_day_ends_even_if_its_last_hours_were_silent(store: Stage) -> None:
    await store.write([observation(number) for number in range(90)])
    await store.writer.close_hours(MIDNIGHT + 3 * HOUR)
    assert await store.count("daily_rollups") == 0
    await store.writer.close_hours(MIDNIGHT + 3 * DAY)
    assert await store.count("daily_rollups") == 1
    await assert_rollups_agree_with_raw(store)


async def test_expected_slots_come_from_the_eras(store: Stage) -> None:
    endpoint = observation().endpoint
    minute, half = Cadence(60_000, 0), Cadence(30_000, 0)
    names = store.database.names
    noon = MIDNIGHT + 12 * HOUR

    async def first(connection: AsyncConnection) -> int:
        return await record_eras(connection, names, "local", {endpoint: (minute, "t")}, MIDNIGHT + 1800)

    async def second(connection: AsyncConnection) -> int:
        return await record_eras(connection, names, "local", {endpoint: (half, "t")}, noon)

    await store.writer.submit(first)
    await store.writer.submit(second)
    await store.write([observation(number) for number in range(0, 1440, 7)])
    await store.writer.close_hours(MIDNIGHT + DAY)
    hours = {each.start: each.expected async for rows in store.history.rollups("hour") for each in rows}
    assert (hours[MIDNIGHT], hours[MIDNIGHT + HOUR], hours[noon]) == (30, 60, 120)
    (day,) = [each async for rows in store.history.rollups("day") for each in rows]
    assert day.expected == 30 + 11 * 60 + 12 * 120
    # late, into an hour that has no row of that kind yet
    await store.write([observation(3, kind="other")])
    late = [each async for rows in store.history.rollups("hour") for each in rows if each.kind == "other"]
    assert [each.expected for each in late] == [30]


async def test_the_callers_word_on_expected_slots_is_taken(store: Stage) -> None:
    await store.write([observation(number) for number in range(60)])
    await store.writer.close_hours(MIDNIGHT + DAY, lambda endpoint, location, kind, start, end: int(end - start) // 100)
    assert [each.expected async for rows in store.history.rollups("hour") for each in rows] == [36]
    assert [each.expected async for rows in store.history.rollups("day") for each in rows] == [864]


async def test_what_tells_of_successes_covers_its_span_exactly_once(store: Stage) -> None:
    rows = varied(seed=6, count=2500, span=4 * DAY)
    await store.write(rows)
    until = MIDNIGHT + 3 * DAY + 7 * HOUR
    await store.writer.close_hours(until)
    names = set(await store.history.endpoint_names())
    for start in (MIDNIGHT, MIDNIGHT + 5 * HOUR, MIDNIGHT + DAY, MIDNIGHT + 3 * DAY + 2 * HOUR, until, until + HOUR):
        found: dict[Place, Counter[Outcome]] = defaultdict(Counter)
        async for _, columns in store.history.alive_rows(start, until, names):
            for index, place in enumerate(zip(columns.endpoints, columns.locations, columns.kinds, strict=True)):
                found[place].update(as_outcomes(columns.counts[index]))
        wanted: dict[Place, Counter[Outcome]] = defaultdict(Counter)
        for (hour, place), tally in tallied(rows, HOUR).items():
            if start <= hour < until:
                wanted[place].update(tally.outcomes)
        assert found == wanted


async def test_an_hour_of_many_places_is_read_in_portions_and_whole(store: Stage) -> None:
    places = [(f"m@{number}", location) for number in range(260) for location in ("local", "fra")]
    rows = [observation(0, endpoint=endpoint, location=location) for endpoint, location in places]
    await store.write([*rows, *(observation(70, endpoint=endpoint) for endpoint, _ in places[:3])])
    await store.writer.close_hours(MIDNIGHT + 3 * HOUR)
    found = await store.history.hour_rows(MIDNIGHT)
    assert sorted(zip(found.endpoints, found.locations, strict=True)) == sorted(places)
    assert set(found.bucket_starts) == {MIDNIGHT}
    assert all(counts == {"success": 1} for counts in found.counts)
    assert len(await store.history.hour_rows(MIDNIGHT + 2 * HOUR)) == 0


async def test_hour_and_day_rows_are_columns_of_one_bucket(store: Stage) -> None:
    await store.write([observation(number, endpoint=f"m@{number % 3}") for number in range(90)])
    await store.writer.close_hours(MIDNIGHT + DAY)
    hour = await store.history.hour_rows(MIDNIGHT)
    assert (len(hour), sorted(hour.endpoints), set(hour.bucket_starts)) == (3, ["m@0", "m@1", "m@2"], {MIDNIGHT})
    assert [dict(counts) for counts in hour.counts] == [{"success": 20}] * 3
    (day,) = [rows async for rows in store.history.bucket_rows("day", MIDNIGHT)]
    assert [dict(counts) for counts in day.counts] == [{"success": 30}] * 3
    assert len(await store.history.hour_rows(MIDNIGHT + 9 * HOUR)) == 0


async def test_a_restart_rebuilds_the_open_hours_from_raw_rows(settings: DatabaseSettings, clock: FakeClock) -> None:
    rows = varied(seed=7, count=800, span=DAY)
    async with stage(settings, clock) as store:
        await store.write(rows[:700])
        await store.writer.close_hours(MIDNIGHT + 20 * HOUR)
        before = {(hour, place): tally for hour, place, tally in store.writer.hours.rows()}
    async with stage(settings, clock) as store:
        await store.writer.flush()
        assert_same({(hour, place): tally for hour, place, tally in store.writer.hours.rows()}, before)
        await store.write(rows[700:])
        await assert_rollups_agree_with_raw(store)


def test_the_book_passes_over_rechecks_and_late_rows() -> None:
    book = HourBook(rolled_until=MIDNIGHT)
    book.add([observation(0, recheck=1), observation(-1), observation(0)])
    assert [(hour, tally.total) for hour, _, tally in book.rows()] == [(MIDNIGHT, 1)]
    assert [book.is_late(each) for each in (observation(-1), observation(-1, recheck=1), observation(0))] == [
        True,
        True,
        False,
    ]
    book.closed(MIDNIGHT + HOUR)
    assert list(book.rows()) == []
    book.closed(MIDNIGHT)
    assert book.rolled_until == MIDNIGHT + HOUR


async def any_order_and_batching(seed: int, directory: Path) -> None:
    """Rows in any order and in batches of any size, with doubles, hours closed at any moment and restarts between."""
    chance = random.Random(seed)
    rows = varied(seed=seed, count=chance.randrange(50, 300), span=chance.choice((3 * HOUR, 30 * HOUR, 70 * HOUR)))
    rows += chance.choices(rows, k=20)
    settings = DatabaseSettings(f"sqlite:///{directory / 'monitor.db'}")
    done = 0
    while done < len(rows):
        async with stage(settings) as store:
            for _ in range(chance.randrange(1, 8)):
                size = chance.choice((1, 3, 20, 100))
                await store.write(rows[done : done + size])
                done += size
                if chance.random() < 0.4:
                    await store.writer.close_hours(MIDNIGHT + chance.randrange(0, 80 * HOUR))
    async with stage(settings) as store:
        await store.writer.flush()
        assert await store.rows() == stored(list({row.key: row for row in rows}.values()))
        await assert_rollups_agree_with_raw(store)
        await store.writer.close_hours(MIDNIGHT + 96 * HOUR)
        await assert_rollups_agree_with_raw(store)


@hypothesis_settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_order_and_batching_of_rows_and_closings_agrees_with_raw(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(any_order_and_batching(seed, Path(directory)))


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(200))
def test_any_order_and_batching_at_length(seed: int, tmp_path: Path) -> None:
    asyncio.run(any_order_and_batching(seed, tmp_path))
