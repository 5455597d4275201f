"""The writer's batches on SQLite and on PostgreSQL: rows a second, our CPU and the server's a row, bytes a row on disk;
then a copy of the one into the other.

python -m benchmarks postgres [rows]
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings
from monitor.storage.batch import commit_batch
from monitor.storage.codec import as_stored
from monitor.storage.copying import copy_database
from monitor.storage.database import Database, engine_of
from monitor.storage.facts import Skew
from monitor.storage.rollups import HourBook

MIDNIGHT = 1_700_006_400
ENDPOINTS = 1_000
BATCHES = (85, 500)  # half a second of 10,000 endpoints at 60 s; what the writer takes at once


def main(rows: str = "100000") -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import postgres_server

    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    server = postgres_server.provide(directory)
    try:
        print(f"{int(rows):,} successes of {ENDPOINTS:,} endpoints; fsync off on the server\n")
        print("| database | rows a batch | rows/s | our CPU, us a row | the server's, us a row | bytes a row |")
        print("|---|---|---|---|---|---|")
        urls = []
        for batch in BATCHES:
            for url in (f"sqlite:///{directory}/{batch}.db", server.create(f"bench_{batch}")):
                urls.append(url)
                asyncio.run(_insert(url, int(rows), batch, server))
        print()
        asyncio.run(_copy(urls[-2], server.create("bench_copy")))
    finally:
        postgres_server.stop(directory)
        shutil.rmtree(directory)


def _made(number: int, chance: random.Random) -> Observation:
    minute, endpoint = divmod(number, ENDPOINTS)
    due_at = MIDNIGHT + minute * 60 + endpoint * 60 / ENDPOINTS
    ttft = chance.lognormvariate(-1, 0.5)
    return Observation(
        endpoint=f"author/model-{endpoint}@provider",
        location="local",
        slot=int(due_at // 60),
        due_at=due_at,
        started_at=due_at + chance.random() / 100,
        outcome=Outcome.SUCCESS,
        http_status=200,
        connect_seconds=chance.random() / 5,
        headers_seconds=ttft - 0.002,
        first_event_seconds=ttft - 0.001,
        ttft_seconds=ttft,
        first_answer_seconds=ttft,
        latency_seconds=ttft + chance.lognormvariate(0, 0.5),
        max_gap_seconds=chance.random() / 10,
        output_tokens=48,
        token_source="usage",
        output_tokens_per_second=chance.lognormvariate(4, 0.5),
        throughput_tokens_per_second=chance.lognormvariate(3.5, 0.5),
        prompt_tokens=60,
        cached_tokens=0,
        reasoning_tokens=0,
        cost_usd=chance.random() / 10_000,
        clock="kernel",
        answer_ok=True,
        response_id=f"chatcmpl-{chance.getrandbits(116):029x}",
        response_model="gpt-4o-mini-2024-07-18",
        finish_reason="stop",
    )


async def _insert(url: str, count: int, batch: int, server: object) -> None:
    database = await Database.open(DatabaseSettings(url), SystemClock(), owner="benchmark")
    chance = random.Random(9)
    hours, skew = HourBook(), Skew()
    spent = took = served = 0.0
    await commit_batch(database, _batch(0, ENDPOINTS, chance), hours, skew, MIDNIGHT)  # names, plans, partitions
    size = await _bytes(database)
    for start in range(ENDPOINTS, ENDPOINTS + count, batch):
        rows = _batch(start, batch, chance)
        began, cpu, theirs = time.perf_counter(), time.process_time(), _server_cpu(server)
        _, skew = await commit_batch(database, rows, hours, skew, MIDNIGHT)
        took += time.perf_counter() - began
        spent += time.process_time() - cpu
        served += _server_cpu(server) - theirs
    grown = await _bytes(database) - size
    await database.close()
    kind = url.split(":")[0]
    theirs_text = f"{served / count * 1e6:.0f}" if kind == "postgresql" else "in ours"
    print(
        f"| {kind} | {batch} | {count / took:,.0f} | {spent / count * 1e6:.0f} | {theirs_text} | {grown / count:.0f} |",
        flush=True,
    )


def _batch(start: int, count: int, chance: random.Random) -> Sequence[Observation]:
    return [as_stored(_made(start + number, chance)) for number in range(count)]


async def _bytes(database: Database) -> int:
    if not database.is_shared:
        return (await database.free_pages())[1] * 4096
    async with database.read() as connection:
        of_days = "FROM pg_inherits WHERE inhparent = 'raw_observations'::regclass"
        total = await connection.exec_driver_sql(f"SELECT sum(pg_total_relation_size(inhrelid)) {of_days}")
        return int(total.scalar_one())


def _server_cpu(server: object) -> float:
    """User and system seconds of the server's processes."""
    pid = getattr(server, "pid", 0)
    ticks = 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in [str(pid), *children]:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


async def _copy(source: str, target: str) -> None:
    engines = engine_of(DatabaseSettings(source)), engine_of(DatabaseSettings(target))
    began, cpu = time.perf_counter(), time.process_time()
    done = await copy_database(*engines, MIDNIGHT, lambda *_: None)
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    for engine in engines:
        await engine.close()
    rows = done.rows["raw_observations"]
    print(
        f"`monitor db copy` from SQLite to PostgreSQL: {rows / took:,.0f} raw rows/s, the comparison included, "
        f"{spent / rows * 1e6:.0f} us of our CPU a row, {len(done.differences)} differences"
    )
