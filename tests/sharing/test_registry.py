"""Lives and shards in a real PostgreSQL: whoever freezes or dies, no shard has two holders that may send for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.probing.report import Turn
from monitor.scheduling.due import DueSlot
from monitor.scheduling.lanes import WatchedLane
from monitor.scheduling.shards import SHARDS, shard_of
from monitor.self_metrics import SelfMetrics
from monitor.sharing.gaps import missing, slots_in_question
from monitor.sharing.lease import LEASE_SECONDS
from monitor.sharing.membership import Membership
from monitor.sharing.registry import Held, Registry
from monitor.slot import Cadence
from monitor.storage.postgres_days import DAY_MS, day_of_ms, partition_of

pytestmark = pytest.mark.timed

REACH_MS = 60_000


@asynccontextmanager
async def registries(url: str, count: int) -> AsyncIterator[list[Registry]]:
    connections = [await asyncpg.connect(url) for _ in range(count)]
    try:
        await connections[0].execute("INSERT INTO locations (name) VALUES ('here'), ('there')")
        yield [Registry(connection, 1) for connection in connections]
    finally:
        for connection in connections:
            await connection.close()


async def let_expire(registry: Registry, number: int, seconds_ago: float = 1.0) -> None:
    """As if its heartbeat had been missing for so long that the lease is over."""
    await registry._connection.execute(
        "UPDATE monitors SET expires_us = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2 WHERE id = $1",
        number, round(seconds_ago * 1e6),
    )  # fmt: skip


def shards(held: list[Held]) -> set[int]:
    return {one.shard for one in held}


async def test_free_shards_are_taken_once_however_many_want_them(postgres_url: str) -> None:
    async with registries(postgres_url, 4) as them:
        lives = [await one.enter(f"m{number}") for number, one in enumerate(them)]
        taken = await asyncio.gather(*(one.take(me, 100) for one, me in zip(them, lives, strict=True)))
        sets = [shards(each) for each in taken]
        assert sum(map(len, sets)) == len(set().union(*sets))
        assert max(map(len, sets)) <= 100
        # What one had locked while another counted is passed over, until the next look.
        rest = shards(await them[0].take(lives[0], SHARDS))
        assert rest | set().union(*sets) == set(range(SHARDS))
        assert not rest & set().union(*sets)
        assert await them[0].neighbours(lives[0]) == (4, True, 0)
        assert await them[1].neighbours(lives[1]) == (4, False, 1)


async def test_the_dead_are_buried_once_and_what_they_held_is_looked_after(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        a, b = await first.enter("a"), await second.enter("b")
        held = shards(await first.take(a, 100))
        assert await second.bury_expired(b) == []
        await let_expire(second, a)
        assert await second.bury_expired(b) == [f"a#{a}"]
        assert await second.bury_expired(b) == []
        await second.free(REACH_MS)
        assert await first.held(a) == []
        assert await first.take(a, 5) == []
        assert not await first.beat(a)
        taken = {one.shard: one for one in await second.take(b, SHARDS)}
        since = {shard for shard, one in taken.items() if one.gaps_since_ms is not None}
        assert since == held
        ago_ms = time.time() * 1000 - taken[min(held)].gaps_since_ms
        assert REACH_MS + 1000 * LEASE_SECONDS < ago_ms < REACH_MS + 1000 * LEASE_SECONDS + 5000


async def test_a_standby_that_lacks_the_newest_lives_gives_nobodys_number_again(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        former, a = await second.enter("former"), await first.enter("a")
        # As if the server had failed over to a copy that did not get this far.
        await first._connection.execute("DELETE FROM monitors WHERE id = $1", a)
        await first._connection.execute("SELECT setval('monitors_id_seq', 1)")
        b = await second.enter("b")
        assert b not in (former, a)
        assert not await first.beat(a)
        await first.leave(a)
        assert await second.beat(b)


async def test_who_comes_later_has_the_higher_number(postgres_url: str) -> None:
    async with registries(postgres_url, 1) as (one,):
        await one._connection.execute(
            "INSERT INTO monitors (location_id, name, started_us, expires_us, buried) VALUES (1, 'older', 0, 0, false)"
        )
        lives = [await one._connection.fetchval("SELECT id FROM monitors")]
        for number in range(5):
            lives.append(await one.enter(f"m{number}"))
            await asyncio.sleep(0.002)
        assert lives == sorted(set(lives))


async def test_what_nobody_minded_for_long_is_not_looked_after(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        a, b = await first.enter("a"), await second.enter("b")
        await first.take(a, 10)
        await let_expire(second, a, 3600.0)
        await second.bury_expired(b)
        await second.free(REACH_MS)
        assert all(one.gaps_since_ms is None for one in await second.take(b, SHARDS))


async def test_an_outage_of_its_own_ends_with_the_monitor_whenever_that_writes_it_down(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        a, b = await first.enter("a"), await second.enter("b")
        add = (
            "INSERT INTO own_outages (location_id, cause, reason, started_us, author) "
            "VALUES (1, $1, '', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - $2, $3)"
        )
        await first._connection.execute(add, "network", 60_000_000, a)
        await first._connection.execute(add, "route", 60_000_000, b)
        await let_expire(second, a, 20.0)
        assert await second.end_outages() == 0
        await second.bury_expired(b)
        await second.free(REACH_MS)
        assert await second.end_outages() == 1
        await first._connection.execute(add, "resolver", 10_000_000, a)  # frozen in mid-write until now
        assert await second.end_outages() == 1
        rows = await first._connection.fetch(
            "SELECT cause, ended_us - started_us AS us FROM own_outages ORDER BY cause"
        )
        lasted = {row["cause"]: row["us"] and row["us"] / 1e6 for row in rows}
        assert lasted == {"network": pytest.approx(40.0 - LEASE_SECONDS, abs=1.0), "resolver": 0.0, "route": None}


async def test_one_that_is_late_and_not_buried_lives_on(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        a, b = await first.enter("a"), await second.enter("b")
        await first.take(a, 10)
        await let_expire(second, a)
        assert await first.beat(a)
        assert await second.bury_expired(b) == []
        assert len(await first.held(a)) == 10


async def test_a_taker_begins_where_the_giver_ends(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        a, b = await first.enter("a"), await second.enter("b")
        await first.take(a, SHARDS)
        until_ms = round(time.time() * 1000) + 2_500
        assert sorted(await first.give(a, [3, 4], until_ms)) == [3, 4]
        assert await first.give(a, [3], until_ms) == []
        assert sorted(await second.take(b, 10)) == [Held(3, until_ms + 1, until_ms), Held(4, until_ms + 1, until_ms)]
        await second.looked_after(b, await second.held(b))
        assert sorted(await second.held(b)) == [Held(3, None, until_ms), Held(4, None, until_ms)]
        await first.finished(a, [3])
        assert sorted(await second.held(b)) == [Held(3, None, None), Held(4, None, until_ms)]
        # The giver dies before it is done: what it still had in hand is looked after by the taker.
        await let_expire(second, a)
        await second.bury_expired(b)
        await second.free(REACH_MS)
        assert sorted(await second.held(b)) == [Held(3, None, None), Held(4, until_ms - REACH_MS, None)]


async def test_a_monitor_of_another_location_is_left_alone(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        there = Registry(second._connection, 2)
        a, b = await first.enter("a"), await there.enter("b")
        assert len(await first.take(a, SHARDS)) == SHARDS == len(await there.take(b, SHARDS))
        await let_expire(first, b)
        assert await first.bury_expired(a) == []
        assert (await first.neighbours(a)).here == 1


async def test_a_former_life_that_is_not_over_yet_is_no_company(postgres_url: str) -> None:
    async with registries(postgres_url, 2) as (first, second):
        there = Registry(second._connection, 2)
        await first.enter("host 127.0.0.1:8080")
        await there.enter("elsewhere 127.0.0.1:8080")
        assert await first.is_alone("host 127.0.0.1:8080")
        assert not await first.is_alone("host 127.0.0.1:8081")


async def test_missing_slots_are_those_without_a_row(postgres_url: str) -> None:
    async with registries(postgres_url, 1) as (one,):
        connection = one._connection
        await connection.execute("INSERT INTO endpoints (name) VALUES ('m@a'), ('m@b')")
        await connection.execute("INSERT INTO kinds (name) VALUES ('chat')")
        now_ms = round(time.time() * 1000)
        cadence = Cadence(10_000, 0)
        last = cadence.slot_at(now_ms / 1000)
        await connection.execute(
            "INSERT INTO eras (endpoint_id, location_id, since_us, interval_ms, phase_ms, target) "
            "VALUES (1, 1, 0, 10000, 0, ''), (2, 1, $1, 10000, 0, '')",
            round(cadence.due_at(last) * 1e6),
        )
        for day in {day_of_ms(round(cadence.due_at(last - back) * 1000)) for back in (1, 2)}:
            await connection.execute(
                f"CREATE TABLE IF NOT EXISTS {partition_of(day)} PARTITION OF raw_observations "
                f"FOR VALUES FROM ({day * DAY_MS}) TO ({(day + 1) * DAY_MS})"
            )
        insert = (
            "INSERT INTO raw_observations (due_ms, endpoint_id, location_id, kind_id, recheck, slot, delay_us, "
            "outcome, kernel_clock, first_token_shared) VALUES ($1, 1, 1, 1, $2, $3, 0, 0, 0, 0)"
        )
        for back, recheck in ((1, 0), (2, 1)):
            await connection.execute(insert, round(cadence.due_at(last - back) * 1000), recheck, last - back)
        lanes = [WatchedLane(name, name, "chat", cadence, shard_of(name)) for name in ("m@a", "m@b")]
        gaps = [Held(lane.shard, now_ms - 25_000, None) for lane in lanes]
        slots = list(slots_in_question(lanes, gaps, now_ms, 100.0))
        # The second endpoint is watched since its last slot; a recheck is no row of its slot.
        wanted = [("m@a", last - 2), ("m@a", last), ("m@b", last)]
        if slots[0][1].slot > last - 2:
            wanted.remove(("m@a", last - 2))
        assert sorted((slot.lane, slot.slot) for slot in await missing(connection, 1, slots)) == sorted(wanted)


def test_only_what_may_have_been_in_hand_is_in_question() -> None:
    quick, slow = Cadence(1_000, 0), Cadence(600_000, 0)
    lanes = [WatchedLane("q", "q", "chat", quick, 1), WatchedLane("s", "s", "chat", slow, 2)]
    now_ms = 1_800_000_000_000
    gaps = [Held(1, now_ms - 900_000, None), Held(2, now_ms - 900_000, None), Held(3, None, None)]
    found = [slot for _, slot in slots_in_question(lanes, gaps, now_ms, 20.0)]
    assert [slot.slot for slot in found if slot.lane == "q"] == list(range(1_800_000_000 - 21, 1_800_000_000 + 1))
    assert [slot for slot in found if slot.lane == "s"] == [
        DueSlot("s", 2_999_999, 1_799_999_400.0), DueSlot("s", 3_000_000, 1_800_000_000.0)
    ]  # fmt: skip
    given = [Held(1, now_ms - 900_000, now_ms - 5_000)]
    assert min(slot.slot for _, slot in slots_in_question(lanes, given, now_ms, 20.0)) == 1_800_000_000 - 4


def _turn() -> Turn:
    endpoint = Endpoint("m", "a", "", "openai-chat", "https://a.example/v1", "m", 60.0)
    return Turn(endpoint, 1, time.time() + 1.0)


async def test_no_two_living_monitors_may_send_for_one_shard(postgres_url: str) -> None:
    """Random heartbeats, takings and freezes (no heartbeat until others may bury it) of three, on a real database."""
    draw = random.Random(1)
    async with registries(postgres_url, 1) as (watcher,):
        them = [
            Membership(lambda: asyncpg.connect(postgres_url), 1, f"m{number}", SystemClock(), SelfMetrics("test"))
            for number in range(3)
        ]
        shard = shard_of(_turn().lane)
        for one in them:
            await one.attempt()
        for _ in range(60):
            one = draw.choice(them)
            step = draw.choice(("beat", "beat", "take", "freeze"))
            if step == "beat":
                await one.attempt()
            elif step == "take" and one.number is not None:
                await watcher.bury_expired(one.number)
                await watcher.free(REACH_MS)
                for held in await watcher.take(one.number, SHARDS):
                    one.holdings.take(held.shard, 0)
            elif one.number is not None:
                # Frozen for longer than the lease, by both clocks.
                await let_expire(watcher, one.number)
                one.lease._certain_until -= LEASE_SECONDS + 1.0
            assert sum(each.is_certain and each.is_ours(_turn(), shard) for each in them) <= 1
        for one in them:
            await one.leave()
