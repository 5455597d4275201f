"""What the storage tests share: observations made to order, and a database with its writer running."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import func, select

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import Clock, FakeClock
from monitor.health.tally import Tally
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings
from monitor.slot import Cadence
from monitor.storage import journal, schema
from monitor.storage.codec import as_stored
from monitor.storage.database import Database
from monitor.storage.history import History
from monitor.storage.sqlite import path_of
from monitor.storage.writer import Writer

if TYPE_CHECKING:
    from postgres_server import Server

# For what only a file has; everything else runs on every kind of database.
on_a_file = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

# A UTC midnight, so that hours and days are easy to count from.
MIDNIGHT = 1_700_006_400
HOUR = 3600
DAY = 86400


def observation(number: int = 0, at: float = MIDNIGHT, **fields: Any) -> Observation:
    """The `number`th slot of a minute's cadence from `at` on, a success unless told otherwise."""
    due_at = at + number * 60
    usual: dict[str, Any] = {
        "endpoint": "openai/gpt-4o-mini@acme",
        "location": "local",
        "slot": int(due_at // 60),
        "due_at": due_at,
        "started_at": due_at + 0.005,
        "outcome": Outcome.SUCCESS,
    }
    if fields.get("outcome", Outcome.SUCCESS) is Outcome.SUCCESS:
        usual |= {
            "http_status": 200,
            "connect_seconds": 0.041,
            "headers_seconds": 0.31,
            "first_event_seconds": 0.315,
            "ttft_seconds": 0.32,
            "first_answer_seconds": 0.32,
            "latency_seconds": 1.25,
            "max_gap_seconds": 0.05,
            "output_tokens": 48,
            "token_source": "usage",
            "output_tokens_per_second": 51.25,
            "throughput_tokens_per_second": 38.4,
            "prompt_tokens": 60,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
            "cost_usd": 0.0000378,
            "clock": "kernel",
            "answer_ok": True,
            "response_id": "chatcmpl-0123456789abcdef0123456789abc",
            "response_model": "gpt-4o-mini-2024-07-18",
            "finish_reason": "stop",
        }
    return Observation(**(usual | fields))


def varied(seed: int, count: int, at: float = MIDNIGHT, span: float = DAY, endpoints: int = 3) -> list[Observation]:
    """`count` different observations of some endpoints within `span` seconds from `at`, rechecks and faults among
    them, in no order."""
    chance = random.Random(seed)
    made = []
    seen = set()
    while len(made) < count:
        endpoint = f"author/model@provider-{chance.randrange(endpoints)}"
        cadence = Cadence.of(endpoint, 60)
        slot = cadence.slot_at(at + chance.random() * span) + 1
        recheck = chance.choice((0, 0, 0, 0, 1))
        if (endpoint, slot, recheck) in seen:
            continue
        seen.add((endpoint, slot, recheck))
        due_at = cadence.due_at(slot)
        outcome = chance.choice((Outcome.SUCCESS,) * 5 + (Outcome.REASONING_CUT, Outcome.SERVER_ERROR, Outcome.AUTH))
        fields: dict[str, Any] = {}
        if outcome is Outcome.SUCCESS:
            fields = {
                "ttft_seconds": chance.lognormvariate(-1, 0.7),
                "latency_seconds": chance.lognormvariate(0.5, 0.7),
                "output_tokens_per_second": chance.choice((None, chance.lognormvariate(4, 0.5))),
                "throughput_tokens_per_second": chance.lognormvariate(3, 0.5),
                "answer_ok": chance.choice((True, False, None)),
                "cost_usd": chance.choice((None, chance.random() / 1000)),
            }
        made.append(
            observation(
                endpoint=endpoint,
                slot=slot,
                due_at=due_at,
                started_at=due_at + chance.random() * 3,
                recheck=recheck,
                outcome=outcome,
                **fields,
            )
        )
    return made


def catalog_of(*ids: str) -> Catalog:
    """Endpoints of these ids, probed once a minute."""
    endpoints = {}
    for each in ids:
        model, provider = each.split("@")
        endpoints[each] = Endpoint(model, provider, "", "openai-chat", "https://acme.example/v1", "model", 60.0)
    return Catalog({}, {}, endpoints)


@dataclass
class Stage:
    """A database with its writer running, and what the writer reported."""

    settings: DatabaseSettings
    database: Database
    writer: Writer
    history: History
    metrics: SelfMetrics
    running: asyncio.Task[None]
    committed: list[Observation] = field(default_factory=list)
    shown_again: list[Observation] = field(default_factory=list)
    spilled: list[Observation] = field(default_factory=list)

    async def write(self, observations: Sequence[Observation]) -> None:
        for each in observations:
            self.writer.put(each)
        await self.writer.flush()

    async def rows(self) -> list[Observation]:
        return [each async for chunk in self.history.stream() for each in chunk]

    async def count(self, table: str) -> int:
        async with self.database.read() as connection:
            found: int = (
                await connection.execute(select(func.count()).select_from(schema.metadata.tables[table]))
            ).scalar_one()
            return found

    async def slots(self) -> int:
        """Pages of the journal."""
        async with self.database.read() as connection:
            return int((await connection.exec_driver_sql("SELECT count(*) FROM journal")).scalar_one())


@asynccontextmanager
async def stage(
    settings: DatabaseSettings, clock: Clock | None = None, *, busy_timeout_ms: int = 5000, **options: Any
) -> AsyncIterator[Stage]:
    clock = clock or FakeClock(now=MIDNIGHT)
    database = await Database.open(settings, clock, busy_timeout_ms=busy_timeout_ms)
    metrics = SelfMetrics("test")
    made: list[Stage] = []

    def committed(rows: Sequence[Observation], already_shown: bool) -> None:
        (made[0].shown_again if already_shown else made[0].committed).extend(rows)

    def spilled(rows: Sequence[Observation]) -> None:
        made[0].spilled.extend(rows)

    writer = Writer(database, clock, metrics, committed, spilled, **options)
    running = asyncio.create_task(writer.run())
    made.append(Stage(settings, database, writer, History(database), metrics, running))
    try:
        yield made[0]
    finally:
        if not running.done():
            await writer.close()
            await running
        await database.close()


@asynccontextmanager
async def refusing_writes(settings: DatabaseSettings) -> AsyncIterator[None]:
    """Meanwhile the database answers and takes nothing: somebody holds the file's write lock, or the server has become
    a standby, which ended every connection."""
    if settings.url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(path_of(settings.url), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        return
    name = settings.url.rpartition("/")[2]
    await on_server(settings, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await cut_off(settings)
    yield
    await on_server(settings, f'ALTER DATABASE "{name}" RESET ALL')
    await cut_off(settings)


def settings_of(request: pytest.FixtureRequest) -> DatabaseSettings:
    """Of a database of the kind that the parameter names. "journal" is a file every row of which goes through the
    journal, as those of a busy fleet do."""
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        return DatabaseSettings(server.lend(), spill=str(request.getfixturevalue("tmp_path") / "monitor.spill"))
    if request.param == "journal":
        request.getfixturevalue("every_row_through_the_journal")
    lent: DatabaseSettings = request.getfixturevalue("file_settings")
    return lent


def use_journal_always(set_attribute: Callable[[object, str, object], None] = setattr) -> None:
    """From now on every commit's rows go through the journal, however few or many they are."""
    for name, value in (("MANY_ROWS", 0), ("FEW_ROWS", 0), ("SUSTAINED_COMMITS", 1), ("BULK_ROWS", 1_000_000)):
        set_attribute(journal, name, value)


async def cut_off(settings: DatabaseSettings) -> None:
    """End every connection to a server's database, as a restart of the server does: also one that was being opened
    meanwhile, which the first look does not find."""
    name = settings.url.rpartition("/")[2]
    while await on_server(settings, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"):  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def on_server(settings: DatabaseSettings, statement: str) -> list[Any]:
    """A statement from outside the database."""
    connection = await asyncpg.connect(f"{settings.url.rpartition('/')[0]}/postgres")
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def until(condition: Callable[[], bool], clock: FakeClock | None = None, seconds: float = 60.0) -> None:
    """Return once `condition` holds, of something that happens in another thread or process; `clock` goes on
    meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():
            if clock is not None:
                await clock.advance(0.05)
            await asyncio.sleep(0.002)


def stored(observations: Sequence[Observation]) -> list[Observation]:
    """In the order and the form in which they are read back."""
    return sorted((as_stored(each) for each in observations), key=lambda each: (each.due_at, each.key))


def in_order(observations: Sequence[Observation]) -> list[Observation]:
    return sorted(observations, key=lambda each: (each.due_at, each.key))


def same_tally(one: Tally, other: Tally) -> bool:
    """Counts and sketches alike, money within a pico-dollar for each addition."""
    return (
        +one.outcomes == +other.outcomes
        and (one.answers_asked, one.answers_ok, one.output_tokens)
        == (other.answers_asked, other.answers_ok, other.output_tokens)
        and one.sketches == other.sketches
        and abs(one.cost_usd - other.cost_usd) < 1e-9
    )
