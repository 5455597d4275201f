"""A database as it is after thirty days of so many endpoints at 60 s: rollups in full, raw rows of the last hour.

Written by the project's own schema and codec. Raw rows older than the tail are left out (15 GB that no restart reads).
"""

from __future__ import annotations

import itertools
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monitor.catalog.target import target_of
from monitor.clock import FakeClock
from monitor.health.tally import Tally
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import Settings
from monitor.slot import Cadence
from monitor.storage.codec import DAY, HOUR, WRITTEN_COLUMNS, as_stored, row_of, tally_columns
from monitor.storage.database import Database
from monitor.storage.eras import record_eras
from monitor.storage.facts import ROLLED_UNTIL, write_fact

# 2026-11-20 13:00:30 UTC: the hour from 12:00 is closed at 13:02, so the raw tail is nearly as long as it can be.
NOW = 1_795_179_630.0
ROLLED = int(NOW // HOUR) * HOUR - HOUR
HOURLY_DAYS, DAILY_DAYS = 35, 400
INTERVAL = 60.0
_SHAPES, _VARIANTS = 100, 2
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_FAULTS = (Outcome.SERVER_ERROR, Outcome.OVERLOADED, Outcome.TIMEOUT_FIRST_TOKEN, Outcome.RATE_LIMITED)


def clock() -> FakeClock:
    return FakeClock(NOW)


class Shape:
    """How fast some endpoints are: log-normal, each figure about a median of its own."""

    def __init__(self, number: int) -> None:
        rng = random.Random(number)
        self.ttft = rng.lognormvariate(-0.7, 0.6)
        self.latency = rng.lognormvariate(0.5, 0.4)
        self.speed = rng.lognormvariate(4.2, 0.5)

    def observation(self, rng: random.Random, endpoint: str, slot: int, due_at: float, location: str) -> Observation:
        started_at = due_at + 0.0005 + rng.random() * 0.004
        headers = rng.lognormvariate(-2.0, 0.3)
        usual: dict[str, Any] = {
            "endpoint": endpoint,
            "location": location,
            "slot": slot,
            "due_at": due_at,
            "started_at": started_at,
            "connect_seconds": rng.lognormvariate(-3.0, 0.3),
            "headers_seconds": headers,
            "clock": "kernel",
        }
        if rng.random() < 0.015:
            fault = rng.choice(_FAULTS)
            return Observation(
                **usual, outcome=fault, http_status=503, error_code="overloaded_error", detail="503 try again later"
            )
        ttft = self.ttft * rng.lognormvariate(0.0, 0.4)
        tokens = rng.randrange(20, 64)
        writing = tokens / (self.speed * rng.lognormvariate(0.0, 0.25))
        return Observation(
            **usual,
            outcome=Outcome.SUCCESS,
            http_status=200,
            first_event_seconds=ttft * 0.98,
            ttft_seconds=ttft,
            first_answer_seconds=ttft,
            latency_seconds=ttft + writing + 0.002,
            max_gap_seconds=writing / 8,
            output_tokens=tokens,
            token_source="usage",
            output_tokens_per_second=(tokens - 1) / writing,
            throughput_tokens_per_second=tokens / (ttft + writing),
            prompt_tokens=rng.randrange(44, 52),
            cached_tokens=0,
            reasoning_tokens=0,
            cost_usd=round(48 * 0.15e-6 + tokens * 0.6e-6, 12),
            answer_ok=rng.random() < 0.99,
            response_id="chatcmpl-" + "".join(rng.choices(_ID_LETTERS, k=29)),
            response_model="gpt-4o-mini-2024-07-18",
            finish_reason="stop",
        )


SHAPES = [Shape(number) for number in range(_SHAPES)]


async def make(path: Path, settings: Settings, tail_seconds: float = NOW - ROLLED + 600.0) -> None:
    """Some minutes of work. `path` must not exist."""
    database = await Database.open(settings.database, FakeClock(NOW))
    begun = NOW - 40 * DAY
    wanted = {
        one.id: (Cadence.of(one.id, one.interval_seconds), target_of(one))
        for one in settings.catalog.endpoints.values()
    }
    async with database.write() as connection:
        await record_eras(connection, database.names, settings.location, wanted, begun)
        await database.names.kinds(connection, ["chat"])
        await write_fact(connection, ROLLED_UNTIL, str(ROLLED))
    await database.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    try:
        _fill(connection, settings, tail_seconds)
    finally:
        connection.close()


def _fill(connection: sqlite3.Connection, settings: Settings, tail_seconds: float) -> None:
    ids = dict(connection.execute("SELECT name, id FROM endpoints").fetchall())
    shape_of = {ids[one]: number % _SHAPES for number, one in enumerate(settings.catalog.endpoints)}
    hours, days = _tallies()
    begun = time.perf_counter()
    today = int(NOW // DAY) * DAY
    for day in range(today - HOURLY_DAYS * DAY, today + DAY, DAY):
        connection.execute("BEGIN")
        for number in range(24):
            if (hour := day + number * HOUR) < ROLLED:
                variant = day // DAY % _VARIANTS
                columns = [hours[shape, variant, number] for shape in range(_SHAPES)]
                _insert(connection, "hourly_rollups", "hour", hour, shape_of, columns, 60)
        connection.execute("COMMIT")
    _told("hourly rollups", begun)
    begun = time.perf_counter()
    for day in range(today - DAILY_DAYS * DAY, today, DAY):
        connection.execute("BEGIN")
        columns = [days[shape, day // DAY % _VARIANTS] for shape in range(_SHAPES)]
        _insert(connection, "daily_rollups", "day", day, shape_of, columns, 1440)
        connection.execute("COMMIT")
    _told("daily rollups", begun)
    begun = time.perf_counter()
    _raw(connection, settings, ids, NOW - tail_seconds)
    _told("raw rows", begun)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _told(what: str, begun: float) -> None:
    print(f"  made: {what} in {time.perf_counter() - begun:.0f} s", flush=True)


def _tallies() -> tuple[dict[tuple[int, int, int], Any], dict[tuple[int, int], Any]]:
    rng = random.Random(2)
    hours, days = {}, {}
    for shape, variant in itertools.product(range(_SHAPES), range(_VARIANTS)):
        day = Tally()
        for number in range(24):
            hour = Tally()
            for slot in range(60):
                hour.add(as_stored(SHAPES[shape].observation(rng, "one", slot, number * 3600.0 + 60 * slot, "here")))
            hours[shape, variant, number] = tally_columns(hour)
            day.merge(hour)
        days[shape, variant] = tally_columns(day)
    return hours, days


def _insert(
    connection: sqlite3.Connection,
    table: str,
    bucket: str,
    start: int,
    shape_of: Mapping[int, int],
    columns: Sequence[dict[str, Any]],
    expected: int,
) -> None:
    names = tuple(columns[0])
    marks = ", ".join("?" * (5 + len(names)))
    statement = (
        f"INSERT INTO {table} ({bucket}, endpoint_id, location_id, kind_id, expected, {', '.join(names)}) "
        f"VALUES ({marks})"
    )
    values = [tuple(one.values()) for one in columns]
    connection.executemany(
        statement, ((start, id_, 1, 1, expected, *values[shape_of[id_]]) for id_ in sorted(shape_of))
    )


def observations(settings: Settings, start: float, end: float, seed: int = 3) -> Iterator[Observation]:
    """Of every slot that falls due in the span, in order."""
    rng = random.Random(seed)
    cadences = [(one, Cadence.of(one, INTERVAL)) for one in settings.catalog.endpoints]
    for minute in range(int((end - start) // INTERVAL) + 1):
        since, until = start + minute * INTERVAL, min(start + (minute + 1) * INTERVAL, end)
        due = []
        for number, (endpoint, cadence) in enumerate(cadences):
            slot = cadence.slot_from(since)
            if cadence.due_at(slot) < until:
                due.append((cadence.due_at(slot), number, endpoint, slot))
        for due_at, number, endpoint, slot in sorted(due):
            yield SHAPES[number % _SHAPES].observation(rng, endpoint, slot, due_at, settings.location)


def _raw(connection: sqlite3.Connection, settings: Settings, ids: dict[str, int], since: float) -> None:
    texts = ("gpt-4o-mini-2024-07-18", "stop", "overloaded_error")
    connection.executemany(
        "INSERT INTO texts (name, last_used_ms) VALUES (?, ?)", [(text, round(NOW * 1000)) for text in texts]
    )
    text_ids = dict(connection.execute("SELECT name, id FROM texts").fetchall())
    statement = (
        f"INSERT INTO raw_observations ({', '.join(WRITTEN_COLUMNS)}) VALUES ({', '.join('?' * len(WRITTEN_COLUMNS))})"
    )
    connection.execute("BEGIN")
    # Three seconds before now the last answers had come in.
    connection.executemany(
        statement,
        (row_of(as_stored(one), ids[one.endpoint], 1, 1, text_ids) for one in observations(settings, since, NOW - 3.0)),
    )
    connection.execute("COMMIT")
