"""A monitor reduced to its storage and its health, and what plain SQL says of every window. Times are whole
microseconds of UTC, so that an edge is an edge."""

from __future__ import annotations

import asyncio
import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
from health.health_stage import endpoint, settings
from msgspec import structs
from pytest import approx
from storage_samples import DAY, HOUR, cut_off, on_server, until

from monitor.clock import FakeClock
from monitor.config.database_address import is_server
from monitor.health.board import Board
from monitor.health.recent import ANSWERED, ASKED
from monitor.health.spans import AHEAD_SECONDS
from monitor.observation import Observation
from monitor.outcome import OUTCOMES
from monitor.self_metrics import SelfMetrics
from monitor.settings import DatabaseSettings, RetentionSettings, Settings
from monitor.slot import Cadence
from monitor.storage.database import Database
from monitor.storage.eras import record_catalog
from monitor.storage.history import History
from monitor.storage.hour_turn import close_hours, turn_hours
from monitor.storage.restore import restore_board
from monitor.storage.retention import Pruned, prune
from monitor.storage.sqlite import path_of
from monitor.storage.writer import Writer

US = 1_000_000
HOUR_US, DAY_US = HOUR * US, DAY * US
SHORT = {"5m": 300 * US, "30m": 1800 * US}
LONG = {"1d": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US}
LOCATIONS = ("here", "there")
MODELS = tuple(f"author/{name}" for name in ("one", "two", "three"))
ENDPOINTS = tuple(endpoint(model).id for model in MODELS)
# Percent of the samples at or below: the same of times, and as bad of speeds.
PERCENTS = {
    "ttft_seconds": (50, 90, 99),
    "latency_seconds": (50, 90, 99),
    "output_tokens_per_second": (50, 10, 1),
    "throughput_tokens_per_second": (50, 10, 1),
}
FIGURES = tuple(PERCENTS)
QUANTILES = (0.5, 0.9, 0.99)

Scope = tuple[tuple[str, ...], str | None]  # endpoints, location or all
SCOPES: tuple[Scope, ...] = (
    *(((one,), location) for one in ENDPOINTS for location in (*LOCATIONS, None)),
    (ENDPOINTS, None),
    (ENDPOINTS, LOCATIONS[1]),
)

_COLUMNS = f'endpoint, location, kind, slot, recheck, started_at, outcome, "group", answer_ok, {", ".join(FIGURES)}'


def settings_with(intervals: Sequence[float | None] = (60.0, 60.0, 60.0), location: str = LOCATIONS[0]) -> Settings:
    """The endpoints with these intervals, those with None left out."""
    wanted = zip(MODELS, intervals, strict=True)
    return settings(
        *(endpoint(model, interval_seconds=seconds) for model, seconds in wanted if seconds), location=location
    )


def floor_ratio(part: int, whole: int) -> float | None:
    return part * 10**6 // whole / 10**6 if whole else None


@dataclass
class Expected:
    """The slots that fell due, walked in milliseconds through every cadence that was ever configured."""

    eras: dict[tuple[str, str], list[list[Any]]] = field(default_factory=dict)  # [since, until, interval], in ms

    def configured(self, settings: Settings, now_us: int) -> None:
        now = round(now_us / 1000)
        wanted = {one.id: round(one.interval_seconds * 1000) for one in settings.catalog.endpoints.values()}
        for of in ENDPOINTS:
            eras = self.eras.setdefault((of, settings.location), [])
            if eras and eras[-1][1] is None:
                if wanted.get(of) == eras[-1][2]:
                    continue
                eras[-1][1] = now
            if of in wanted:
                eras.append([now, None, wanted[of]])

    def slots(self, scope: Scope, start_us: int, now_us: int) -> int:
        found = 0
        for (of, location), eras in self.eras.items():
            for since, ended, interval in eras if of in scope[0] and scope[1] in (location, None) else ():
                phase = Cadence.of(of, interval / 1000).phase_ms
                first, end = max(since, round(start_us / 1000)), round(now_us / 1000)
                end = end if ended is None else min(end, ended)
                found += len(range(first + (phase - first) % interval, end, interval))
        return found


async def inside(database: DatabaseSettings, query: str) -> list[Any]:
    """What a server's database answers to somebody else."""
    connection = await asyncpg.connect(database.url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


class Sql:
    """Every row that was ever committed, as the view `observations` gives it, and queries over them. Rows are kept
    here when retention takes them from the database."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, uri=True)
        self._connection.execute(
            f"CREATE TABLE told ({_COLUMNS}, PRIMARY KEY (endpoint, location, kind, slot, recheck))"
        )
        self._connection.execute("CREATE INDEX by_start ON told (endpoint, started_at)")

    def close(self) -> None:
        self._connection.close()

    async def hear(self, database: DatabaseSettings) -> int:
        """Take over what is in the database now; how many rows were ever told."""
        run = self._connection.execute
        if is_server(database.url):
            rows = [tuple(row) for row in await inside(database, f"SELECT {_COLUMNS} FROM observations")]
            marks = ", ".join("?" * len(_COLUMNS.split(", ")))
            self._connection.executemany(f"INSERT OR IGNORE INTO told VALUES ({marks})", rows)
        else:
            run("ATTACH ? AS monitor", (f"file:{path_of(database.url)}?mode=ro",))
            run(f"INSERT OR IGNORE INTO told SELECT {_COLUMNS} FROM monitor.observations")
            run("DETACH monitor")
        return int(run("SELECT count(*) FROM told").fetchone()[0])

    def counts(self, scope: Scope, start_us: int, end_us: float) -> dict[tuple[str, str], tuple[int, int, int]]:
        """(outcome, group) -> count, answers looked at, answers that were right."""
        where, values = _where(scope, start_us, end_us)
        query = f'SELECT outcome, "group", count(*), count(answer_ok), total(answer_ok) FROM told WHERE {where}'
        found = self._connection.execute(f"{query} GROUP BY 1, 2", values)
        return {(outcome, group): (count, asked, int(right)) for outcome, group, count, asked, right in found}

    def quantiles(self, scope: Scope, start_us: int, end_us: float, figure: str) -> dict[float, float]:
        """The nearest ranks; empty if there is no sample."""
        where, values = _where(scope, start_us, end_us)
        outcomes = "('success', 'reasoning_cut')" if figure == "ttft_seconds" else "('success')"
        those = f"FROM told WHERE {where} AND outcome IN {outcomes} AND {figure} IS NOT NULL"
        (samples,) = self._connection.execute(f"SELECT count(*) {those}", values).fetchone()
        if not samples:
            return {}
        query = f"SELECT {figure} {those} ORDER BY {figure} LIMIT 1 OFFSET ?"
        ranks = {percent: -(-percent * samples // 100) for percent in PERCENTS[figure]}
        return {
            percent / 100: self._connection.execute(query, (*values, rank - 1)).fetchone()[0]
            for percent, rank in ranks.items()
        }


def _where(scope: Scope, start_us: int, end_us: float) -> tuple[str, tuple[Any, ...]]:
    endpoints, location = scope
    marks = ", ".join("?" * len(endpoints))
    here = "AND location = ?" if location else ""
    values = (*endpoints, *((location,) if location else ()), start_us / US, end_us / US)
    return (
        f"endpoint IN ({marks}) {here} AND started_at >= ? AND started_at < ? AND kind = 'chat' AND NOT recheck",
        values,
    )


class House:
    """Database, writer, history and board, wired as the daemon wires them, and the SQL to compare them with."""

    def __init__(self, database: DatabaseSettings, now_us: int) -> None:
        self.clock = FakeClock(now=now_us / US)
        self.settings = settings_with()
        self.sql = Sql()
        self.expected = Expected()
        self.hour_us = 0  # the hour that the long windows have come to
        self.acknowledged = 0
        self.database_settings = database
        self._root = Path(database.url.removeprefix("sqlite:///")).parent
        self._kills = 0
        self.copies: list[str] = []  # databases on the server that were made here

    @property
    def now_us(self) -> int:
        return round(self.clock.now() * US)

    @property
    def path(self) -> Path:
        return Path(self.database_settings.url.removeprefix("sqlite:///"))

    async def move_to(self, at_us: int) -> None:
        await self.clock.advance(at_us / US - self.clock.now())
        assert self.clock.now() == at_us / US

    # --- the daemon's life

    async def start(self, meanwhile: Iterable[Observation] = ()) -> None:
        """What the daemon does until it is ready. `meanwhile` come in before, and while, it restores."""
        self.database = await Database.open(self.database_settings, self.clock, busy_timeout_ms=10)
        self.history = History(self.database)
        self._is_recording = False
        self.writer = Writer(self.database, self.clock, SelfMetrics("test"), self._committed, self._spilled)
        self.board = Board(self.settings, self.clock)
        self._running = asyncio.create_task(self.writer.run())
        early = list(meanwhile)
        self.put(early[::2])
        await self._record_catalog()
        await close_hours(self.writer, self.clock.now())

        async def restore(_connection: object) -> None:
            self.put(early[1::2])
            await restore_board(self.board, self.history, self.clock.now(), tail=self.writer.tail)

        def from_now_on(_nothing: object) -> None:
            self._is_recording = True
            self.writer.forget_tail()

        await self.writer.submit(restore, from_now_on)
        self.hour_us = self.now_us // HOUR_US * HOUR_US
        await self.writer.flush()

    async def stop(self) -> None:
        """As after SIGTERM: what is queued is written."""
        await self.writer.close()
        await self._running
        await self.database.close()

    async def cut_short(self) -> None:
        """As after the second SIGTERM: what is queued goes to the spill."""
        self._running.cancel()
        await asyncio.wait([self._running])
        await self.database.close()

    async def killed(self) -> None:
        """As after kill -9: the next start finds the files as they lie now, and what was queued is lost."""
        self._kills += 1
        now = self.database_settings
        if is_server(now.url):
            name = now.url.rpartition("/")[2]
            copy = f"{name[:40]}_{self._kills}"
            self.copies.append(copy)
            spill = f"{now.spill}-{self._kills}"
            with suppress(FileNotFoundError):
                shutil.copy(str(now.spill), spill)
            await on_server(now, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await cut_off(now)
            await on_server(now, f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)')
            await on_server(now, f'CREATE DATABASE "{copy}" TEMPLATE "{name}"')
            there = DatabaseSettings(f"{now.url.rpartition('/')[0]}/{copy}", spill=spill)
        else:
            directory = self._root / f"after-kill-{self._kills}"
            directory.mkdir()
            for file in self.path.parent.glob("monitor.db*"):
                if not file.name.endswith(("-shm", ".lock")):
                    shutil.copy(file, directory)
            there = DatabaseSettings(f"sqlite:///{directory / 'monitor.db'}")
        self.acknowledged -= self.writer.queued
        await self.cut_short()
        self.database_settings = there

    async def reload(self, settings: Settings) -> None:
        self.settings = settings
        await self._record_catalog()
        self.board.configure(settings)

    def put(self, rows: Iterable[Observation]) -> None:
        for row in rows:
            self.writer.put(row)
            self.acknowledged += 1

    async def write(self, rows: Iterable[Observation]) -> None:
        self.put(rows)
        await self.writer.flush()

    async def turn(self) -> None:
        now = self.clock.now()
        await turn_hours(self.writer, self.history, self.board, now, hourly_seconds=31.0 * DAY)
        self.hour_us = max(self.hour_us, self.now_us // HOUR_US * HOUR_US)

    async def recovered(self) -> None:
        """The database works again: the spill is replayed."""
        await self.clock.advance(31)  # the longest pause between two attempts
        await until(lambda: not self.writer.is_failing, self.clock)
        await self.writer.flush()
        assert not self.writer.spilled
        await self.move_to((self.now_us // US + 1) * US)

    async def prune(self, retention: RetentionSettings) -> Pruned:
        await self.writer.flush()
        await self.sql.hear(self.database_settings)
        pruning = asyncio.create_task(prune(self.database, self.writer.submit, self.clock, retention))
        await until(pruning.done, self.clock)
        await self.move_to((self.now_us // US + 1) * US)
        return await pruning

    async def dump(self, table: str) -> list[Any]:
        if is_server(self.database_settings.url):
            return [tuple(row) for row in await inside(self.database_settings, f"SELECT * FROM {table}")]
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(f"SELECT * FROM {table}").fetchall()

    async def rolled_until_us(self) -> int:
        return int(dict(await self.dump("meta"))["rolled_until"]) * US

    async def _record_catalog(self) -> None:
        now, settings, names = self.clock.now(), self.settings, self.database.names
        await self.writer.submit(
            lambda connection: record_catalog(connection, names, settings.location, settings.catalog, now)
        )
        for place, eras in (await self.history.eras()).items():
            self.board.set_eras(*place, eras)
        self.board.take_kind_eras(await self.history.kind_eras())
        self.expected.configured(settings, self.now_us)

    def _committed(self, rows: Sequence[Observation], already_shown: bool) -> None:
        if self._is_recording and not already_shown:
            self.board.record(rows)

    def _spilled(self, rows: Sequence[Observation]) -> None:
        if self._is_recording:
            self.board.record(rows)

    # --- what everything is about

    async def agree(self) -> None:
        """Nothing is lost, and every window of every endpoint is what SQL says, in figures and in views."""
        await self.writer.flush()
        assert await self.sql.hear(self.database_settings) == self.acknowledged
        await self.board.refresh()
        self.agrees(self.board, self.hour_us)
        for view in self.board.views():
            for window, shown in view.windows.items():
                figures = self.board.figures([view.endpoint.id], view.location, window, self.board.quantiles)
                if window not in self.board.performance_windows:
                    figures = structs.replace(figures, quantiles={})
                assert shown == figures, (view.endpoint.id, view.location, window)

    async def agrees_beside(self) -> Board:
        """The same of a board that is restored beside the daemon, whichever hours are closed by now."""
        await self.writer.flush()
        await self.sql.hear(self.database_settings)
        database = await Database.open_read_only(self.database_settings, self.clock)
        board = Board(self.settings, self.clock)
        await restore_board(board, History(database), self.clock.now())
        await database.close()
        self.agrees(board, self.now_us // HOUR_US * HOUR_US)
        return board

    def agrees(self, board: Board, hour_us: int) -> None:
        assert (board.windows.edge_hour * US, board.windows.clamped_cells) == (hour_us, 0)
        for scope in SCOPES:
            for window, span in (SHORT | LONG).items():
                start_us = (self.now_us if window in SHORT else hour_us) - span
                self._agrees(board, scope, window, start_us)

    def _agrees(self, board: Board, scope: Scope, window: str, start_us: int) -> None:
        # A row from the future is one of a clock that has gone back: short windows leave it out until its time comes.
        end_us = self.now_us + AHEAD_SECONDS * US if window in SHORT else math.inf
        told = self.sql.counts(scope, start_us, end_us)
        shown = board.figures(*scope, window, QUANTILES)
        what = (*scope, window, self.now_us, told, shown)
        classes = Counter({outcome: count for (outcome, _), (count, _, _) in told.items()})
        _, asked, right = told.get(("success", "ok"), (0, 0, 0))
        assert counted(board, scope, window, start_us) == (+classes, asked, right), what
        groups: Counter[str] = Counter()
        for (_, group), (count, _, _) in told.items():
            groups[group] += count
        ok, throttled = groups["ok"], groups["throttled"]
        samples, seen = ok + groups["provider_fault"], groups.total() - groups["monitor_fault"]
        expected = self.expected.slots(scope, start_us, self.now_us)
        assert (shown.samples, shown.successes, shown.seen, shown.expected) == (samples, ok, seen, expected), what
        assert shown.uptime_ratio == floor_ratio(ok, samples), what
        assert shown.throttled_ratio == floor_ratio(throttled, samples + throttled), what
        assert shown.answer_ok_ratio == floor_ratio(right, asked), what
        assert shown.coverage_ratio == floor_ratio(min(seen, expected), expected), what
        exact = {figure: self.sql.quantiles(scope, start_us, end_us, figure) for figure in FIGURES}
        assert shown.quantiles.keys() == {figure for figure in FIGURES if exact[figure]}, what
        for figure, quantiles in shown.quantiles.items():
            wanted = exact[figure] if window in SHORT else approx(exact[figure], rel=0.01)
            assert quantiles == wanted, (figure, what)


@asynccontextmanager
async def living(database: DatabaseSettings, now_us: int) -> AsyncIterator[House]:
    """A house that has started."""
    house = House(database, now_us)
    await house.start()
    try:
        yield house
    finally:
        await house.cut_short()
        house.sql.close()
        for copy in house.copies:
            await on_server(database, f'DROP DATABASE "{copy}" WITH (FORCE)')


def shown_by(board: Board) -> dict[tuple[Scope, str], Any]:
    """Everything that the board says of every window, and how many of each class it holds."""
    return {
        (scope, window): (
            board.figures(*scope, window, QUANTILES),
            counted(board, scope, window, round(board.windows.start_of(window, board._clock.now()) * US)),
        )
        for scope in SCOPES
        for window in SHORT | LONG
    }


def counted(board: Board, scope: Scope, window: str, start_us: int) -> tuple[Counter[str], int, int]:
    """Outcome -> count, answers looked at, answers that were right: what the windows themselves hold."""
    endpoints, location = scope
    windows = board.windows
    rows = [row for row, (of, at) in enumerate(windows.keys) if of in endpoints and location in (at, None)]
    if window in LONG:
        counts = windows.counts(window, np.array(rows, dtype=np.int64)).sum(axis=0).tolist()
        classes = {outcome.value: count for outcome, count in zip(OUTCOMES, counts[:ASKED], strict=True)}
        return +Counter(classes), counts[ASKED], counts[ANSWERED]
    counts = windows.recent_pooled(rows, board._clock.now()).counts(start_us / US)[0].tolist()
    found = Counter({outcome.value: count for outcome, count in zip(OUTCOMES, counts, strict=False) if count})
    return found, counts[ASKED], counts[ANSWERED]
