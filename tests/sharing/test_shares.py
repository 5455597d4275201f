"""Rounds of two monitors on a real server: who is buried; and what providers allow is kept to together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.catalog.model import Catalog, Endpoint, Model, Price, Provider
from monitor.clock import SystemClock
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.gate import Gate
from monitor.scheduling.shards import cap_share
from monitor.secret import Secret
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings
from monitor.sharing.lease import LEASE_SECONDS
from monitor.sharing.membership import Membership
from monitor.sharing.shares import Shares

pytestmark = pytest.mark.timed

ACME, BOLT = (
    Endpoint("author/model", provider, "", "openai-chat", f"https://{provider}.example/v1", "m", 60.0,
             api_key=Secret("env", "KEY"))
    for provider in ("acme", "bolt")
)  # fmt: skip
CATALOG = Catalog(
    {"acme": Provider("acme", "Acme", 5), "bolt": Provider("bolt", "Bolt", None)},
    {"author/model": Model("author/model", "model", endpoints=(ACME, BOLT))},
    {one.id: one for one in (ACME, BOLT)},
)


class One:
    def __init__(self, url: str, name: str) -> None:
        clock, metrics = SystemClock(), SelfMetrics("test")
        self.clock = clock
        self.gate = Gate(Budget(None, clock.now()))

        async def connect() -> asyncpg.Connection:
            return await asyncpg.connect(url)

        async def probe(turn: Turn) -> ProbeReport:
            raise AssertionError(f"nothing is due: {turn}")

        async def flush() -> None:
            pass

        self.membership = Membership(connect, 1, name, clock, metrics)
        self.dispatcher = Dispatcher(clock, probe, lambda _: None, metrics, self.gate, claims=self.membership)
        writer = SimpleNamespace(flush=flush, spilled=0)
        self.shares = Shares(
            self.membership, connect, 1, self.dispatcher, writer, clock, metrics, lambda _: None  # type: ignore[arg-type]
        )  # fmt: skip
        self.dispatcher.set_catalog(CATALOG, ProbingSettings())

    async def look(self) -> None:
        await self.membership.attempt()
        await self.shares.look()

    def pass_time(self, seconds: float) -> None:
        """For its looks at the others."""
        self.shares._vigil._heard = {
            life: (expires_us, at - seconds) for life, (expires_us, at) in self.shares._vigil._heard.items()
        }

    async def leave(self) -> None:
        await self.shares.finish()
        self.shares.hang_up()
        await self.membership.leave()

    def places(self, provider: str) -> int | None:
        return self.dispatcher._departures.flights._provider_caps[provider]

    def waits(self, endpoint: Endpoint) -> float:
        return self.gate.retry_delay_seconds(endpoint, self.clock.monotonic())


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[One, One]]:
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        await connection.execute("INSERT INTO locations (name) VALUES ('here')")
        both = One(url, "first"), One(url, "second")
        for one in both:
            stack.push_async_callback(one.leave)
            await one.look()
        yield both


async def set_clock(postgres_url: str, seconds: float) -> None:
    """As if the server's clock had been set ahead by so much since the last heartbeats, or back."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("UPDATE monitors SET expires_us = expires_us - $1", round(seconds * 1e6))
    await connection.close()


async def test_a_server_whose_clock_is_set_ahead_has_nobody_buried_that_lives(postgres_url: str) -> None:
    async with two(postgres_url) as (first, second):
        number = second.membership.number
        for one in (first, second):
            one.membership.reached_since -= 2 * LEASE_SECONDS
            await one.look()
        await set_clock(postgres_url, 3600.0)
        await first.look()
        await second.look()
        assert second.membership.number == number
        # What was heard of nobody since then is dead.
        await set_clock(postgres_url, 3600.0)
        await first.look()
        first.pass_time(LEASE_SECONDS)
        await first.look()
        await second.look()
        assert second.membership.number != number


async def test_a_server_whose_clock_is_set_back_keeps_the_dead_for_two_leases(postgres_url: str) -> None:
    async with two(postgres_url) as (first, second):
        for one in (first, second):
            one.membership.reached_since -= 2 * LEASE_SECONDS
            await one.look()
        await set_clock(postgres_url, -3600.0)
        for passed, held in ((0.0, 128), (LEASE_SECONDS, 128), (LEASE_SECONDS - 1.0, 128), (2.0, 256)):
            first.pass_time(passed)
            await first.look()
            await first.look()
            assert len(first.membership.holdings) == held
        await second.membership.attempt()
        assert len(second.membership.holdings) == 0


async def test_an_end_waits_for_no_database_that_does_not_answer(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.sharing.shares.ATTEMPT_SECONDS", 0.02)
    async with two(postgres_url) as (first, _), asyncio.timeout(20), first.shares._one_at_a_time:
        await first.shares.give_all()
        first.shares._given[0] = 0
        await first.shares.finish()


async def test_a_hint_to_one_monitor_holds_for_all(postgres_url: str) -> None:
    async with two(postgres_url) as (first, second):
        first.gate.delay_key(ACME, 60.0, first.clock.monotonic())
        await first.look()
        await second.look()
        assert 50.0 < first.waits(ACME) <= second.waits(ACME) + 0.1 <= 60.1
        assert first.waits(BOLT) == second.waits(BOLT) == 0.0
        # A shorter one is void, a longer one counts, and what was heard once does not grow with each look.
        second.gate.delay_key(ACME, 5.0, second.clock.monotonic())
        second.gate.delay_key(BOLT, 90.0, second.clock.monotonic())
        for one in (second, first, second, first):
            await one.look()
        assert 50.0 < first.waits(ACME) <= 60.0 < 80.0 < first.waits(BOLT) <= 90.0


async def test_a_hint_that_is_over_is_kept_nowhere(postgres_url: str) -> None:
    async with two(postgres_url) as (first, second):
        for number in range(20):
            first.gate.delay_key(replace(ACME, base_url=f"https://{number}.example"), 60.0, first.clock.monotonic())
        await first.look()
        await second.look()
        assert len(second.shares._heard) == 20
        connection = await asyncpg.connect(postgres_url)
        await connection.execute("UPDATE retry_hints SET until_us = until_us - 3600000000")
        for one in (second, first):
            await one.look()
            assert one.shares._heard == {}
        # Nor could the server's clock, set back, make it hold again.
        assert await connection.fetchval("SELECT count(*) FROM retry_hints") == 0
        await connection.close()


async def test_a_providers_cap_is_of_all_monitors_together(postgres_url: str) -> None:
    async with two(postgres_url) as (first, second):
        await first.look()
        assert (first.places("acme"), second.places("acme")) == (2, 3)
        assert first.places("bolt") is None
        await second.leave()
        await first.look()
        assert first.places("acme") == 5
        first.dispatcher.set_catalog(CATALOG, ProbingSettings())
        assert first.places("acme") == 5


async def test_a_budget_is_of_all_monitors_together(postgres_url: str) -> None:
    async with two(postgres_url) as (first, second):
        await first.look()
        budget, now = first.gate.budget, first.clock.now()
        budget.watch([replace(ACME, price=Price(input=1.0, output=10.0))], 64)
        most = budget.most_usd(ACME.id)
        assert most is not None
        budget.usd_per_day = 1.5 * most
        assert not budget.allows(ACME.id, now), "the other may send one too"
        await second.leave()
        await first.look()
        assert budget.allows(ACME.id, now)


@given(st.integers(1, 600), st.integers(1, 40))
def test_shares_of_a_cap_come_to_the_cap_unless_each_has_but_one(cap: int, monitors: int) -> None:
    shares = [cap_share(cap, rank, monitors) for rank in range(monitors)]
    assert sum(shares) == max(cap, monitors)
    assert max(shares) - min(shares) <= 1
