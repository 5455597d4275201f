"""Two monitors' storage on one PostgreSQL, in one process, on one clock, each following the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.catalog.model import Catalog, Endpoint, Model, Provider
from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.observation import Observation, ObservationKey
from monitor.outcome import Outcome
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings, Settings
from monitor.sharing.following import Following
from monitor.slot import Cadence
from monitor.storage import turns
from monitor.storage.database import Database
from monitor.storage.eras import adopt_catalog
from monitor.storage.history import History
from monitor.storage.restore import restore_board
from monitor.storage.writer import Writer

MIDNIGHT = 1_700_006_400.0
HOUR = 3600
_numbers = itertools.count()
ENDPOINTS = ("author/model@one", "author/model@two", "author/model@three")


def catalog() -> Catalog:
    endpoints = [
        Endpoint(*each.split("@"), "", "openai-chat", "https://api.example/v1", "m", 60.0) for each in ENDPOINTS
    ]
    providers = {one.provider: Provider(one.provider, one.provider, None) for one in endpoints}
    models = {"author/model": Model("author/model", "model", endpoints=tuple(endpoints))}
    return Catalog(providers, models, {one.id: one for one in endpoints})


def row(endpoint: int, number: int, at: float = MIDNIGHT, **fields: Any) -> Observation:
    """The `number`th slot of an endpoint after `at`; well, unless told otherwise."""
    name = ENDPOINTS[endpoint]
    cadence = Cadence.of(name, 60.0)
    slot = cadence.slot_from(at) + number
    due_at = cadence.due_at(slot)
    usual: dict[str, Any] = {
        "endpoint": name,
        "location": "test",
        "slot": slot,
        "due_at": due_at,
        "started_at": due_at + 0.25,
        "outcome": Outcome.SUCCESS,
        "ttft_seconds": 0.5 + endpoint / 8,
        "latency_seconds": 1.5,
        "output_tokens": 10 + number,
        "token_source": "usage",
    }
    return Observation(**(usual | fields))


class One:
    """One of the two. `others` are the rows that it heard of."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = database
        self.history = History(database)
        self.clock = clock
        self.settings = Settings(Path("monitor.yaml"), catalog(), location="test")
        self.board = Board(self.settings, clock)
        self.others: list[Observation] = []
        self.own: list[Observation] = []
        self.writer = Writer(database, clock, SelfMetrics("test"), self._committed, lambda rows: None)
        self.following = Following(database, self.writer, clock, SelfMetrics("test"), self._heard)

    def _committed(self, rows: Sequence[Observation], already_shown: bool) -> None:
        self.following.note_own(rows)
        self.own += rows
        self.board.record(rows)

    def _heard(self, rows: Sequence[Observation], shown: Container[ObservationKey]) -> None:
        self.others += rows
        for each in rows:
            self.board.observe(each, foreign=True)
        self.board.record(rows)

    async def write(self, *rows: Observation) -> None:
        for each in rows:
            self.writer.put(each)
        await self.writer.flush()

    async def adopt(self) -> None:
        await self.writer.submit(
            lambda connection: adopt_catalog(self.database, connection, "test", self.settings.catalog, self.clock.now())
        )

    async def begin(self) -> None:
        async def restore(_connection: object) -> None:
            async with self.database.one_view():
                await self.following.begin()
                await restore_board(self.board, self.history, self.clock.now(), [])

        await self.writer.submit(restore)

    async def follow(self, *, is_patient: bool = False) -> None:
        async def look(_connection: object) -> None:
            async with self.database.one_view():
                await self.following.catch_up(is_patient=is_patient)

        await self.writer.submit(look)

    async def close(self, until: int) -> int:
        async def before(connection: AsyncConnection) -> None:
            await turns.keep_rows_out(connection)
            async with self.database.one_view():
                await self.following.catch_up()

        return await self.writer.close_hours(until, before=before)

    def samples(self, window: str = "1d") -> int:
        return self.board.figures(ENDPOINTS, None, window).samples


@asynccontextmanager
async def pair(url: str, directory: Path, clock: FakeClock) -> AsyncIterator[tuple[One, One]]:
    async with AsyncExitStack() as stack:
        both = []
        for _ in range(2):
            spill = directory / f"{next(_numbers)}.spill"
            database = await Database.open(DatabaseSettings(url, spill=str(spill)), clock, owner="test")
            stack.push_async_callback(database.close)
            one = One(database, clock)
            life = asyncio.create_task(one.writer.run())
            stack.push_async_callback(_end, one.writer, life)
            await one.adopt()
            both.append(one)
        yield both[0], both[1]


async def _end(writer: Writer, life: asyncio.Task[None]) -> None:
    await writer.close()
    await life
