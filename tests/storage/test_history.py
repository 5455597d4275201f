"""Reads: what they return, in which order, in which portions, and beside which writes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sqlite3
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, catalog_of, observation, on_a_file, stored, varied

from monitor.clock import FakeClock
from monitor.health.incidents import Incident
from monitor.health.state import State
from monitor.outcome import Group, Outcome
from monitor.slot import Cadence, Era, expected_slots
from monitor.storage.eras import RecordedEras, adopt_catalog, record_eras
from monitor.storage.errors import DatabaseUnavailable
from monitor.storage.facts import MADE_UP, read_skew, write_fact
from monitor.storage.incidents import record_incident
from monitor.storage.names import Place
from monitor.storage.window_sums import note_alive


async def streamed(store: Stage, **span: Any) -> list[Any]:
    return [each async for chunk in store.history.stream(**span) for each in chunk]


async def test_the_newest_come_first_and_no_more_than_asked_for(store: Stage) -> None:
    rows = varied(seed=1, count=700, span=3 * DAY)
    await store.write(rows)
    newest = stored(rows)[::-1]
    assert [each.key for each in await store.history.observations(limit=150)] == [each.key for each in newest[:150]]
    assert len(await store.history.observations(limit=10_000)) == 700
    assert await store.history.observations(limit=0) == []


async def test_a_span_goes_by_the_start_and_takes_in_its_first_moment_only(store: Stage) -> None:
    rows = varied(seed=2, count=900, span=2 * DAY)
    await store.write(rows)
    since, until = MIDNIGHT + 7 * HOUR, MIDNIGHT + 31 * HOUR + 0.5
    wanted = [each for each in stored(rows) if since <= each.started_at < until]
    assert await streamed(store, since=since, until=until) == wanted
    assert await streamed(store, since=since, until=until, newest_first=True) == wanted[::-1]
    exact = wanted[3].started_at
    assert wanted[3] in await streamed(store, since=exact)
    assert wanted[3] not in await streamed(store, until=exact)


async def test_an_endpoint_and_a_location_are_picked_out(store: Stage) -> None:
    rows = [observation(number, endpoint=f"m@{number % 3}", location=f"at{number % 2}") for number in range(300)]
    await store.write(rows)
    wanted = [each for each in stored(rows) if each.endpoint == "m@1" and each.location == "at0"]
    assert await streamed(store, endpoint="m@1", location="at0") == wanted
    assert await store.history.observations("m@1", limit=7, location="at0") == wanted[::-1][:7]
    assert await streamed(store, endpoint="nobody") == await store.history.observations(location="nowhere") == []


async def test_a_long_read_comes_in_portions_and_misses_nothing_that_was_there(store: Stage) -> None:
    # many rows due in the same millisecond, more than a portion
    rows = [observation(0, endpoint=f"m@{number}") for number in range(250)]
    rows += [observation(1, endpoint=f"m@{number}", recheck=number % 3) for number in range(250)]
    await store.write(rows)
    sizes, found = [], []
    async for chunk in store.history.stream(chunk=40):
        sizes.append(len(chunk))
        found += chunk
        if len(sizes) == 3:
            await store.write([observation(-5000)])  # what comes meanwhile disturbs nothing
    assert max(sizes) == 40
    assert sorted(each.key for each in found) == sorted(each.key for each in rows)


async def test_a_read_that_is_left_open_does_not_stop_the_writer(store: Stage) -> None:
    await store.write([observation(number) for number in range(50)])
    reading = store.history.stream(chunk=10)
    await anext(reading)
    for number in range(100, 160):
        await store.write([observation(number)])
    if store.database.path is not None:
        with contextlib.closing(sqlite3.connect(store.database.path)) as connection:
            # would be busy if a read transaction were open
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    await reading.aclose()


async def test_many_readers_and_the_writer_at_once(store: Stage) -> None:
    rows = [observation(number, endpoint=f"m@{number % 5}") for number in range(1000)]

    async def read() -> int:
        seen = 0
        while seen < len(rows):
            now = len(await streamed(store))
            assert now >= seen
            seen = now
        return seen

    readers = [asyncio.create_task(read()) for _ in range(6)]
    for start in range(0, len(rows), 50):
        await store.write(rows[start : start + 50])
    assert await asyncio.gather(*readers) == [1000] * 6


async def test_a_row_that_started_long_after_it_was_due_is_still_found(store: Stage) -> None:
    """The wall clock stepped by two days while the schedule's went on."""
    rows = [observation(number) for number in range(10)]
    rows.append(observation(10, started_at=MIDNIGHT + 2 * DAY))
    rows.append(observation(11, started_at=MIDNIGHT - DAY))
    await store.write(rows)
    assert [each.slot - rows[0].slot for each in await streamed(store, since=MIDNIGHT + DAY)] == [10]
    assert [each.slot - rows[0].slot for each in await streamed(store, until=MIDNIGHT)] == [11]
    async with store.database.read() as connection:
        skew = await read_skew(connection)
    assert skew.ms == 2 * DAY * 1000 - 600_000
    assert skew.until_due_ms == (MIDNIGHT + HOUR) * 1000


async def test_a_gap_of_decades_is_leapt_over(store: Stage) -> None:
    ahead = observation(0, at=MIDNIGHT + 70 * 365 * DAY)  # a clock that was set wrong, once
    rows = [observation(0), observation(0, at=MIDNIGHT + 200 * DAY), ahead]
    await store.write(rows)
    async with asyncio.timeout(30):  # the years have 600,000 hours
        assert await streamed(store) == stored(rows)
        assert await store.history.observations(limit=3) == stored(rows)[::-1]
        assert await streamed(store, endpoint="m@nobody") == []


async def test_reads_that_are_given_up_half_way_leave_the_readers_usable(store: Stage) -> None:
    """As when a client of the API hangs up."""
    rows = [observation(number) for number in range(2000)]
    await store.write(rows)
    chance = random.Random(5)
    for _ in range(60):
        reading = asyncio.create_task(streamed(store))
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert len(await streamed(store)) == 2000
    await store.write([observation(9000)])
    assert len(await asyncio.gather(*(streamed(store) for _ in range(8)))) == 8


async def test_what_was_spent_counts_rechecks_and_starts_at_the_moment_asked_for(store: Stage) -> None:
    rows = [observation(number, recheck=number % 2, cost_usd=None if number == 4 else 0.001) for number in range(10)]
    await store.write([*rows, observation(20, location="elsewhere", cost_usd=1.0)])
    since = stored(rows)[3].started_at
    assert await store.history.spent_since(since, "local") == pytest.approx(0.006)
    assert await store.history.spent_since(since) == pytest.approx(1.006)
    assert await store.history.spent_since(MIDNIGHT + DAY) == await store.history.spent_since(0, "nowhere") == 0


async def test_what_was_due_on_a_day_is_spent_on_it_although_the_wall_says_otherwise(store: Stage) -> None:
    """The schedule goes on where it was when the wall is set back: a slot of today is then probed yesterday."""
    await store.write([observation(5, cost_usd=0.001, started_at=MIDNIGHT - 3600.0)])
    assert await store.history.spent_since(MIDNIGHT, "local") == pytest.approx(0.001)


async def test_mean_costs_are_of_priced_probes_of_one_location_since_then(store: Stage) -> None:
    rows = [observation(number, cost_usd=None if number == 4 else number / 1000) for number in range(6)]
    other = [observation(5, location="elsewhere", cost_usd=1.0), observation(5, endpoint="m@x", cost_usd=0.0)]
    await store.write([*rows, *other])
    lanes = await store.history.recent_lanes(MIDNIGHT + 120.0, "local")
    assert {lane: known.mean_cost_usd for lane, known in lanes.items()} == {
        (observation().endpoint, "chat"): pytest.approx((0.002 + 0.003 + 0.005) / 3),
        ("m@x", "chat"): 0.0,
    }
    assert await store.history.recent_lanes(0.0, "nowhere") == {}


async def test_the_last_word_of_a_lane_tells_who_was_well_and_whose_key_was_refused(store: Stage) -> None:
    told = {
        "a@x": (Outcome.SERVER_ERROR, Outcome.SUCCESS),
        "b@x": (Outcome.SUCCESS, Outcome.SERVER_ERROR),
        "c@x": (Outcome.SUCCESS, Outcome.AUTH, Outcome.OFFLINE),
        "d@x": (Outcome.AUTH, Outcome.SUCCESS),
        "e@x": (Outcome.RATE_LIMITED,),
    }
    rows = [
        observation(number, endpoint=endpoint, outcome=outcome)
        for endpoint, outcomes in told.items()
        for number, outcome in enumerate(outcomes)
    ]
    await store.write(rows)
    lanes = await store.history.recent_lanes(MIDNIGHT, "local")
    assert {endpoint: (lane.is_well, lane.is_refused) for (endpoint, _), lane in lanes.items()} == {
        "a@x": (True, False),
        "b@x": (False, False),
        "c@x": (False, True),
        "d@x": (True, False),
        "e@x": (False, False),
    }
    assert lanes["a@x", "chat"].succeeded_at == MIDNIGHT + 60.0


async def test_the_last_due_time_is_that_of_a_scheduled_probe_of_the_location(store: Stage) -> None:
    assert await store.history.last_due_at("local") is None
    await store.write([observation(3), observation(9, recheck=1), observation(20, location="elsewhere")])
    assert await store.history.last_due_at("local") == MIDNIGHT + 180.0
    assert await store.history.last_due_at("nowhere") is None


async def test_last_probes_are_scheduled_ones_and_exact_where_hours_are_open(
    store: Stage,
) -> None:
    await store.write(
        [
            *(observation(number) for number in range(5)),
            observation(9, recheck=1),
            observation(2, endpoint="m@x"),
            observation(3, endpoint="m@x", kind="long"),
        ]
    )
    first = observation()
    exact = {
        (first.endpoint, "local", "chat"): MIDNIGHT + 240,
        ("m@x", "local", "chat"): MIDNIGHT + 120,
        ("m@x", "local", "long"): MIDNIGHT + 180,
    }
    assert await store.history.last_probes(since=MIDNIGHT) == exact
    assert await store.history.last_probes(since=MIDNIGHT + 1000) == {}
    await store.writer.close_hours(MIDNIGHT + HOUR)
    await store.write([observation(70)])
    assert await store.history.last_probes(since=MIDNIGHT) == exact | {
        (first.endpoint, "local", "chat"): MIDNIGHT + 4200,
        ("m@x", "local", "chat"): MIDNIGHT,
    }
    assert await store.history.last_probes(since=MIDNIGHT + HOUR) == {
        (first.endpoint, "local", "chat"): MIDNIGHT + 4200
    }


async def last_successes(store: Stage, since: int) -> dict[Place, float]:
    """As a restart finds them: in the open hours' raw rows, and where those tell of none, in the last closed bucket."""
    rolled_until = await store.history.rolled_until()
    names, eras = set(await store.history.endpoint_names()), await store.history.eras()
    buckets: dict[Place, tuple[int, int]] = {}
    async for width, rows in store.history.alive_rows(since, rolled_until, names):
        note_alive(buckets, width, rows)
    exact: dict[Place, float] = {}
    async for observations in store.history.stream(rolled_until or since):
        for one in observations:
            if one.group is Group.OK:
                place = (one.endpoint, one.location, one.kind)
                exact[place] = max(exact.get(place, 0.0), one.started_at)
    earlier = {place: bucket for place, bucket in buckets.items() if place not in exact}
    slots = {(endpoint, location, "chat"): found for (endpoint, location), found in eras.items()}
    return await store.history.exact_successes(earlier, slots) | exact


async def test_last_successes_are_exact_where_raw_rows_are_and_by_the_hour_where_they_are_gone(
    store: Stage, clock: FakeClock
) -> None:
    down = [observation(number, endpoint="m@down", outcome=Outcome.RESET) for number in range(0, 4000, 10)]
    rows = [
        *down,
        observation(65, endpoint="m@down"),
        observation(1500, endpoint="m@cut", outcome=Outcome.REASONING_CUT),
        observation(1501, endpoint="m@cut", outcome=Outcome.AUTH),
        *(observation(number, endpoint="m@up") for number in range(0, 4000, 30)),
        observation(10, endpoint="m@never", outcome=Outcome.UNKNOWN_MODEL),
    ]
    await store.write(rows)
    exact = {
        ("m@down", "local", "chat"): MIDNIGHT + 65 * 60 + 0.005,
        ("m@cut", "local", "chat"): MIDNIGHT + 1500 * 60 + 0.005,
        ("m@up", "local", "chat"): MIDNIGHT + 3990 * 60 + 0.005,
    }
    assert await last_successes(store, MIDNIGHT) == exact
    await store.writer.close_hours(MIDNIGHT + 2 * DAY + HOUR)
    assert await last_successes(store, MIDNIGHT) == exact
    async with store.database.write() as connection:
        await connection.exec_driver_sql(f"DELETE FROM raw_observations WHERE due_ms < {(MIDNIGHT + 2 * DAY) * 1000}")
    assert await last_successes(store, MIDNIGHT) == exact | {
        ("m@down", "local", "chat"): MIDNIGHT + HOUR,
        ("m@cut", "local", "chat"): MIDNIGHT + DAY + HOUR,
    }
    assert await last_successes(store, MIDNIGHT + 2 * DAY) == {
        ("m@up", "local", "chat"): exact["m@up", "local", "chat"]
    }


async def test_each_kind_of_probe_has_a_last_success_of_its_own(store: Stage) -> None:
    rows = [observation(65, kind="long"), observation(200, kind="long", outcome=Outcome.RESET), observation(1500)]
    await store.write(rows)
    exact = {
        (rows[0].endpoint, "local", "long"): rows[0].started_at,
        (rows[2].endpoint, "local", "chat"): rows[2].started_at,
    }
    assert await last_successes(store, MIDNIGHT) == exact
    await store.writer.close_hours(MIDNIGHT + 2 * DAY)
    assert await last_successes(store, MIDNIGHT) == exact


async def test_rollups_are_picked_by_span_endpoint_and_location(store: Stage) -> None:
    await store.write([observation(number, endpoint=f"m@{number % 2}") for number in range(300)])
    await store.writer.close_hours(MIDNIGHT + DAY)
    found = [
        (each.start, each.endpoint)
        async for rows in store.history.rollups("hour", "m@1", since=MIDNIGHT + HOUR, until=MIDNIGHT + 3 * HOUR)
        for each in rows
    ]
    assert found == [(MIDNIGHT + HOUR, "m@1"), (MIDNIGHT + 2 * HOUR, "m@1")]
    assert [rows async for rows in store.history.rollups("day", location="nowhere")] == []


async def test_facts_are_written_read_and_removed(store: Stage) -> None:
    for value in ("yes", "still", None):

        async def job(connection: AsyncConnection, value: str | None = value) -> None:
            await write_fact(connection, MADE_UP, value)

        await store.writer.submit(job)
        assert await store.history.fact(MADE_UP) == value


# ---- eras


async def test_eras_begin_and_end_with_the_configuration(store: Stage) -> None:
    names = store.database.names
    minute, slow = Cadence(60_000, 7), Cadence(300_000, 7)

    async def record(wanted: dict[str, tuple[Cadence, str]], at: float, location: str = "local") -> int:
        return await store.writer.submit(lambda connection: record_eras(connection, names, location, wanted, at))

    assert await record({"m@a": (minute, "t1"), "m@b": (minute, "t1")}, 100.5) == 2
    assert await record({"m@a": (minute, "t1"), "m@b": (minute, "t1")}, 200) == 0
    assert await record({"m@c": (minute, "t1")}, 250, "elsewhere") == 1
    assert await record({"m@a": (slow, "t1")}, 300) == 3  # a new interval, and b is gone
    assert await record({"m@a": (slow, "t2"), "m@b": (minute, "t1")}, 400) == 3  # a new target, and b is back
    assert await store.history.eras() == {
        ("m@a", "local"): (Era(100.5, 300, minute, "t1"), Era(300, 400, slow, "t1"), Era(400, None, slow, "t2")),
        ("m@b", "local"): (Era(100.5, 300, minute, "t1"), Era(400, None, minute, "t1")),
        ("m@c", "elsewhere"): (Era(250, None, minute, "t1"),),
    }


@pytest.mark.parametrize("seed", range(12))
async def test_eras_never_overlap_even_when_the_clock_goes_back(store: Stage, seed: int) -> None:
    chance = random.Random(seed)
    names, place = store.database.names, ("m@a", "local")
    for _ in range(8):
        at, cadence = 1000.0 + chance.randint(-50, 50), Cadence(chance.choice((1000, 2000)), 0)
        wanted = {} if chance.random() < 0.3 else {"m@a": (cadence, chance.choice("ab"))}
        await store.writer.submit(lambda connection: record_eras(connection, names, "local", wanted, at))  # noqa: B023
        eras = (await store.history.eras()).get(place, ())
        if wanted:
            assert (eras[-1].until, (eras[-1].cadence, eras[-1].target)) == (None, wanted["m@a"])
        for era, following in itertools.pairwise(eras):
            assert era.until is not None
            assert era.since < era.until <= following.since
    once = sum(expected_slots([era], 900, 1200) for era in eras)
    assert once <= 300


@on_a_file
async def test_one_daemon_a_file_so_a_renamed_location_leaves_nothing_in_force(store: Stage) -> None:
    ends = catalog_of("m@a")

    async def adopt(location: str, at: float) -> RecordedEras:
        return await store.writer.submit(
            lambda connection: adopt_catalog(store.database, connection, location, ends, at)
        )

    await adopt("local", 100)
    found = await adopt("fra", 250)
    assert found.endpoints == await store.history.eras()
    assert [(place, era.since, era.until) for place, eras in found.endpoints.items() for era in eras] == [
        (("m@a", "local"), 100, 250),
        (("m@a", "fra"), 250, None),
    ]
    # a clock that has gone back does not end them before they began
    back = await adopt("local", 200)
    assert [(era.since, era.until) for era in back.endpoints["m@a", "fra"]] == [(250, 250)]
    assert [(era.since, era.until) for era in back.endpoints["m@a", "local"]] == [(100, 250), (250, None)]


async def test_a_catalog_that_is_recorded_and_cannot_be_read_back_is_not_recorded(
    store: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_args: object) -> None:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr("monitor.storage.eras.read_eras", fails)
    with pytest.raises(DatabaseUnavailable):
        await store.writer.submit(
            lambda connection: adopt_catalog(store.database, connection, "local", catalog_of("m@a"), 100)
        )
    monkeypatch.undo()
    assert await store.history.eras() == {}


# ---- incidents


async def test_incidents_begin_end_and_are_found_by_the_moments_they_lasted(store: Stage) -> None:
    names = store.database.names

    async def tell(endpoint: str, state: State, cause: str | None, at: float, until: float | None = None) -> None:
        incident = Incident(endpoint, "local", state, cause, at, until, None if cause is None else "x\ud800")
        await store.writer.submit(lambda connection: record_incident(connection, names, incident))

    await tell("m@a", State.DEGRADED, "slow", 100)
    await tell("m@a", State.DEGRADED, "slow", 100, 200)  # the same one, ended
    await tell("m@a", State.DEGRADED, "reset", 200)
    await tell("m@a", State.DOWN, "reset", 200, 300)  # it deepened before it ended
    await tell("m@b", State.DOWN, None, 400)
    found = await store.history.incidents()
    assert [(each.endpoint, each.state, each.cause, each.started_at, each.ended_at) for each in found] == [
        ("m@b", "down", None, 400.0, None),
        ("m@a", "down", "reset", 200.0, 300.0),
        ("m@a", "degraded", "slow", 100.0, 200.0),
    ]
    assert found[1].detail == "x\ufffd"

    async def states(**span: Any) -> list[tuple[str, str]]:
        return [(each.endpoint, each.state) for each in await store.history.incidents(**span)]

    assert await states(endpoint="m@a", limit=1) == [("m@a", "down")]
    assert await states(since=250, until=350) == [("m@a", "down")]
    assert await states(since=350) == [("m@b", "down")]
    assert await states(until=150) == [("m@a", "degraded")]
    assert await states(location="elsewhere") == []


async def test_an_incident_is_one_row_however_often_it_is_written(store: Stage) -> None:
    begun = Incident("m@a", "local", State.DEGRADED, "throttled", 100.0, detail="slow down")
    for one in (
        begun,
        replace(begun, state=State.DOWN, cause="reset"),
        replace(begun, state=State.DOWN, ended_at=160.5),
    ):
        await store.writer.submit(lambda connection, one=one: record_incident(connection, store.database.names, one))
    (found,) = await store.history.incidents()
    assert (found.state, found.cause, found.detail, found.started_at, found.ended_at) == (
        "down",
        "throttled",
        "slow down",
        100.0,
        160.5,
    )
