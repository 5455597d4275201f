"""What providers allow, several monitors of one location keep to together: caps are divided, hints passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from monitor.catalog.model import Catalog, Endpoint, Model, Provider
from monitor.clock import SystemClock
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.gate import Gate
from monitor.scheduling.shards import cap_share
from monitor.secret import Secret
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings
from monitor.sharing.membership import Membership
from monitor.sharing.shares import Shares

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


@given(st.integers(1, 600), st.integers(1, 40))
def test_shares_of_a_cap_come_to_the_cap_unless_each_has_but_one(cap: int, monitors: int) -> None:
    shares = [cap_share(cap, rank, monitors) for rank in range(monitors)]
    assert sum(shares) == max(cap, monitors)
    assert max(shares) - min(shares) <= 1
