"""Three monitors on one PostgreSQL, killed and frozen at random: every due slot has one row, and every request beyond
the rows was in flight when its monitor was hit."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
from daemon_stage import Subprocess, until
from sharing_stage import (
    Event,
    Reckoning,
    end_all,
    freeze,
    kill,
    lateness,
    misfortunes,
    monitors,
    reckon,
    remembering_fleet,
    starved,
)

log = logging.getLogger(__name__)

MONITORS = 3
ENDPOINTS = int(os.environ.get("SHARING_ENDPOINTS", "300"))
SECONDS = float(os.environ.get("SHARING_SECONDS", "900"))
SEED = int(os.environ.get("SHARING_SEED", "1"))
INTERVAL_SECONDS = 10.0
_START_SECONDS = 120.0  # on a machine that does much else
_AWAY_SECONDS = (5.0, 25.0)  # how long a killed monitor stays away


async def _suffer(processes: Sequence[Subprocess], events: list[Event], began: float) -> None:
    """Everything that happens to them. At least one is left alone at any time."""
    back: list[asyncio.Task[None]] = []
    busy: set[int] = set()
    for after, what, number, seconds in misfortunes(SEED, SECONDS, MONITORS):
        await asyncio.sleep(max(began + after - time.time(), 0.0))
        if number in busy or len(busy) >= MONITORS - 1:
            continue
        busy.add(number)
        process = processes[number]

        async def come_back(number: int = number, process: Subprocess = process, seconds: float = seconds) -> None:
            await asyncio.sleep(_AWAY_SECONDS[0] + seconds)
            await process.start(_START_SECONDS)
            busy.discard(number)

        async def thaw(number: int = number, process: Subprocess = process, seconds: float = seconds) -> None:
            await freeze(process, number + 1, seconds, events)
            busy.discard(number)

        if what == "kill":
            await kill(process, number + 1, events)
            back.append(asyncio.create_task(come_back()))
        else:
            back.append(asyncio.create_task(thaw()))
        print(f"{time.time() - began:7.1f} s: {what} of monitor {number + 1}", flush=True)
    await asyncio.gather(*back)


async def _closed_hours_differ(database: str) -> list[str]:
    """Hourly rows whose counts are not those of the raw rows, or that are missing."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            """
            WITH rolled AS (SELECT value::bigint AS until FROM meta WHERE name = 'rolled_until'),
            raw AS (
                SELECT (due_ms * 1000 + delay_us) / 3600000000 * 3600 AS hour, endpoint_id, count(*) AS observations,
                    sum(output_tokens) AS tokens
                FROM raw_observations WHERE recheck = 0 GROUP BY 1, 2
            ),
            rolls AS (
                SELECT hour, endpoint_id, output_tokens,
                    (SELECT sum(value::int) FROM json_each_text(counts::json)) AS observations
                FROM hourly_rollups
            )
            SELECT hour, endpoint_id, raw.observations, rolls.observations AS rolled, raw.tokens, rolls.output_tokens
            FROM raw FULL JOIN rolls USING (hour, endpoint_id)
            WHERE hour < (SELECT until FROM rolled)
            AND (raw.observations, coalesce(raw.tokens, 0)) IS DISTINCT FROM (rolls.observations, rolls.output_tokens)
            """
        )
        closed = await connection.fetchval("SELECT count(*) FROM hourly_rollups")
    finally:
        await connection.close()
    print(f"closed hourly rows {closed}, that differ from the raw rows {len(rows)}")
    return [str(dict(row)) for row in rows]


def _tell(found: Reckoning, events: Sequence[Event]) -> None:
    counts = Counter(one.what for one in events)
    print(", ".join(f"{what}s {count}" for what, count in sorted(counts.items())))
    print("\n".join(found.lines()), flush=True)


@pytest.mark.prove
@pytest.mark.timeout(SECONDS + 300.0)
async def test_every_due_slot_has_one_row_whatever_happens_to_the_monitors(tmp_path: Path, postgres_url: str) -> None:
    events: list[Event] = []
    async with remembering_fleet(ENDPOINTS, SEED) as server, lateness() as lags:
        processes = monitors(server, tmp_path, postgres_url, f"{INTERVAL_SECONDS:g}s", MONITORS)
        try:
            await asyncio.gather(*(process.start(_START_SECONDS) for process in processes))
            await asyncio.sleep(15.0)
            began = time.time()
            await _suffer(processes, events, began)
            await until(lambda: time.time() > began + SECONDS, SECONDS + 60.0)
            ended = time.time()
            await asyncio.sleep(12.0)
        finally:
            await end_all(processes)
            logs = Path(os.environ.get("SHARING_LOGS", tmp_path))
            for number, process in enumerate(processes, 1):
                (logs / f"monitor-{number}.log").write_text("\n".join(process.log))
            print(f"logs in {logs}")
        events += starved(processes, events)
        found = await reckon(postgres_url, server, began, ended, INTERVAL_SECONDS, events, lags)
    _tell(found, events)
    assert found.missing == []
    assert found.unasked == []
    assert found.unexplained == []
    assert found.late_ratio <= 0.05
    assert await _closed_hours_differ(postgres_url) == []
