"""A monitor's life as its heartbeats tell: cut off it goes on, buried it begins anew, and what is late it waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest
from postgres_proxy import Proxy

from monitor.catalog.model import Endpoint
from monitor.clock import SystemClock
from monitor.probing.report import Turn
from monitor.scheduling.shards import SHARDS, shard_of
from monitor.self_metrics import SelfMetrics
from monitor.sharing.membership import Membership
from monitor.sharing.registry import Registry

pytestmark = pytest.mark.timed


@asynccontextmanager
async def behind_a_proxy(url: str) -> AsyncIterator[tuple[Membership, Proxy, asyncpg.Connection]]:
    """A membership, the proxy that it goes through, and a connection past it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "", parts.port or 0)
    await proxy.open()
    beside = await asyncpg.connect(url)
    await beside.execute("INSERT INTO locations (name) VALUES ('here')")

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url.replace(str(parts.port), str(proxy.port)), timeout=1.0)

    membership = Membership(connect, 1, "test", SystemClock(), SelfMetrics("test"))
    try:
        yield membership, proxy, beside
    finally:
        await membership.leave()
        await beside.close()
        await proxy.close()


def turn() -> Turn:
    return Turn(Endpoint("m", "a", "", "openai-chat", "https://a.example/v1", "m", 60.0), 1, time.time() + 5.0)


async def hold_everything(membership: Membership, beside: asyncpg.Connection) -> None:
    await membership.attempt()
    assert membership.number is not None
    for one in await Registry(beside, 1).take(membership.number, SHARDS):
        membership.holdings.take(one.shard, 0)


def may_send(membership: Membership) -> bool:
    return membership.is_certain and membership.is_ours(turn(), shard_of(turn().lane))


async def test_a_monitor_that_cannot_reach_the_database_goes_on_with_what_it_held(postgres_url: str) -> None:
    async with behind_a_proxy(postgres_url) as (membership, proxy, beside):
        await hold_everything(membership, beside)
        number = membership.number
        await proxy.close()
        membership.lease.lost()  # as after the lease's time
        assert not may_send(membership)
        await membership.attempt()
        assert may_send(membership)
        # Nobody has buried it: it lives on as it was.
        await proxy.open()
        await membership.attempt()
        assert (membership.number, len(membership.holdings)) == (number, SHARDS)
        assert may_send(membership)


async def test_a_monitor_that_was_buried_meanwhile_begins_anew_with_nothing(postgres_url: str) -> None:
    async with behind_a_proxy(postgres_url) as (membership, proxy, beside):
        await hold_everything(membership, beside)
        number = membership.number
        await proxy.close()
        await membership.attempt()
        await beside.execute("UPDATE monitors SET buried = true")
        await proxy.open()
        await membership.attempt()
        assert membership.number != number
        assert membership.is_certain
        assert not may_send(membership)
        assert len(membership.holdings) == 0


async def test_a_connection_that_died_unnoticed_is_made_again_at_once(postgres_url: str) -> None:
    async with behind_a_proxy(postgres_url) as (membership, proxy, beside):
        await hold_everything(membership, beside)
        proxy.cut()
        await asyncio.sleep(0)
        sent = membership.lease.answered_at
        await membership.attempt()
        assert membership.lease.answered_at > sent
        assert may_send(membership)


async def test_a_connection_that_swallows_everything_is_given_up_with_the_heartbeat(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.sharing.membership.ATTEMPT_SECONDS", 0.3)
    async with behind_a_proxy(postgres_url) as (membership, proxy, _):
        await membership.attempt()
        proxy.flow.clear()
        await membership.attempt()
        # Who comes anew is served; who is there waits for ever, as behind a firewall that forgot its connections.
        swallowed, proxy.flow = proxy.flow, asyncio.Event()
        proxy.flow.set()
        sent_at = membership._now()
        await membership.attempt()
        assert membership.lease.answered_at >= sent_at
        swallowed.set()


async def test_who_waits_is_told_as_soon_as_the_heartbeat_is_answered(postgres_url: str) -> None:
    async with behind_a_proxy(postgres_url) as (membership, proxy, beside):
        await hold_everything(membership, beside)
        membership.lease.lost()
        proxy.flow.clear()
        waiting = asyncio.create_task(membership.settled())
        beat = asyncio.create_task(membership.attempt())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        proxy.flow.set()
        await asyncio.wait_for(waiting, 20.0)
        await beat
        assert may_send(membership)


async def test_a_life_that_is_given_up_is_over_for_all(postgres_url: str) -> None:
    async with behind_a_proxy(postgres_url) as (membership, _proxy, beside):
        await hold_everything(membership, beside)
        former = membership.number
        membership.begin_anew("a test")
        assert not may_send(membership)
        await membership.attempt()
        lives = await beside.fetch("SELECT id, buried FROM monitors ORDER BY id")
        assert [tuple(one) for one in lives] == [(former, True), (membership.number, False)]


async def test_a_monitor_that_leaves_is_buried_at_once(postgres_url: str) -> None:
    async with behind_a_proxy(postgres_url) as (membership, _proxy, beside):
        await hold_everything(membership, beside)
        await membership.leave()
        assert await beside.fetchval("SELECT buried FROM monitors")
        await asyncio.wait_for(membership.settled(), 20.0)


@pytest.mark.parametrize("seconds", [3.0, 30.0])
async def test_time_that_nobody_saw_is_looked_into(
    postgres_url: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind_a_proxy(postgres_url) as (membership, _proxy, _beside):
        clock = membership._clock
        await membership.attempt()
        now = clock.monotonic()
        monkeypatch.setattr(membership._clock, "monotonic", lambda: now + seconds, raising=False)
        await membership.attempt()
        assert membership.away_since is not None
        assert now - 5.0 < membership.away_since <= now
