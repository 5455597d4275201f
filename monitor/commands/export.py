"""`monitor export`: history, one row per line, under the field names that the README's figures have."""

from __future__ import annotations

import argparse
import asyncio
import csv
import difflib
import io
import sys
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

import msgspec
from rich.console import Console
from rich.progress import Progress, TextColumn

from monitor.clock import Clock, SystemClock
from monitor.commands.terminal import add_config, complain
from monitor.duration import parse_duration
from monitor.health.meter import PREFILL
from monitor.health.sketch import FIGURES
from monitor.settings import Settings, load_settings
from monitor.storage.database import Database
from monitor.storage.history import History, Rollup
from monitor.web.records import bucket_object, incident_object, observation_object

TABLES = ("observations", "rollups", "incidents")
FORMATS = ("jsonl", "csv", "parquet")
_PARQUET_ROWS = 50_000  # a row group: some megabytes of memory

Rows = AsyncIterator[list[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", choices=TABLES, metavar="|".join(TABLES))
    parser.add_argument("--since", type=_duration, metavar="1h", help="only what began so long ago or later")
    parser.add_argument("--endpoint", metavar="E", help="only this endpoint")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="default: jsonl")
    parser.add_argument("--step", choices=("hour", "day"), help="which rollups (default: hour); others have none")
    add_config(parser)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    if arguments.step is not None and arguments.table != "rollups":
        complain(
            f"--step goes with rollups alone: take it away, or write: monitor export rollups --step {arguments.step}"
        )
        return 2
    settings = load_settings(arguments.config)
    if arguments.format == "parquet":
        try:
            import pyarrow  # noqa: F401  # told here, before anything is read
        except ModuleNotFoundError:
            complain("--format parquet needs pyarrow: pip install 'llm-provider-monitor[parquet]', or use jsonl or csv")
            return 2
    return asyncio.run(_export(settings, arguments))


async def _export(settings: Settings, arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    database = await Database.open_read_only(settings.database, clock)
    try:
        history = History(database)
        if arguments.endpoint is not None and not await _is_recorded(history, arguments.endpoint):
            return 1
        rows = _rows(history, clock, arguments, settings.uptime_policy)
        write = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[arguments.format]
        with _progress() as progress:
            task = progress.add_task(arguments.table, total=None)
            await write(_counted(rows, progress, task), sys.stdout.buffer)
        return 0
    finally:
        await database.close()


async def _is_recorded(history: History, endpoint: str) -> bool:
    """Whether the database knows that endpoint; complains if not. A typo must not look like a quiet history."""
    known = await history.endpoint_names()
    if endpoint in known:
        return True
    near = difflib.get_close_matches(endpoint, known, n=3, cutoff=0.3)
    hint = f"; did you mean {', '.join(near)}" if near else ""
    complain(f"the database has nothing of an endpoint {endpoint}{hint}")
    return False


def _progress() -> Progress:
    """A count on standard error where a terminal is there and the rows go elsewhere; else nothing."""
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} rows"))
    return Progress(*columns, console=Console(stderr=True), disable=not shown)


async def _counted(rows: Rows, progress: Progress, task: Any) -> Rows:
    async for chunk in rows:
        progress.advance(task, len(chunk))
        yield chunk


async def _rows(history: History, clock: Clock, arguments: argparse.Namespace, policy: str) -> Rows:
    since = None if arguments.since is None else clock.now() - arguments.since
    if arguments.table == "observations":
        async for found in history.stream(since, endpoint=arguments.endpoint):
            yield [observation_object(one, policy) for one in found]
    elif arguments.table == "rollups":
        async for rollups in history.rollups(arguments.step or "hour", arguments.endpoint, since):
            yield [_rollup_object(one, policy) for one in rollups]
    else:
        yield [incident_object(one) for one in await history.incidents(arguments.endpoint, since, limit=1_000_000)]


def _rollup_object(rollup: Rollup, policy: str) -> dict[str, Any]:
    place = {"endpoint": rollup.endpoint, "location": rollup.location, "step": rollup.step, "kind": rollup.kind}
    return place | bucket_object([rollup], policy)


async def _write_jsonl(rows: Rows, out: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    async for chunk in rows:
        out.write(b"".join(encoder.encode(row) + b"\n" for row in chunk))
    out.flush()


async def _write_csv(rows: Rows, out: BinaryIO) -> None:
    """RFC 4180; booleans as true and false, what does not exist as an empty cell, nested values as JSON."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    head: list[str] | None = None
    try:
        async for chunk in rows:
            for row in chunk:
                if head is None:
                    head = list(row)
                    writer.writerow(head)
                writer.writerow([_cell(row[name]) for name in head])
    finally:
        text.detach()
    out.flush()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return _flat(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return "'" + value  # a provider's text must not become a formula in somebody's spreadsheet
    return value


async def _write_parquet(rows: Rows, out: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    pending: list[dict[str, Any]] = []

    def flush() -> None:
        nonlocal writer, pending
        if not pending:
            return
        if writer is None:
            # Types come from the names: a first batch without a single figure must not make its column null.
            nested = _NESTED if "outcomes" in pending[0] else frozenset()
            schema = pa.schema(
                [(name, pa.string() if name in nested else _arrow_type(pa, name)) for name in pending[0]]
            )
            writer = pq.ParquetWriter(out, schema, compression="zstd")
        flat = [{name: _flat(value) for name, value in row.items()} for row in pending]
        writer.write_table(pa.Table.from_pylist(flat, schema=writer.schema))
        pending = []

    async for chunk in rows:
        pending += chunk
        if len(pending) >= _PARQUET_ROWS:
            flush()
    flush()
    if writer is None:
        pq.write_table(pa.table({}), out)
    else:
        writer.close()
    out.flush()


def _flat(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value


# Of a rollup; an observation has single figures under these names.
_NESTED = frozenset({*FIGURES, PREFILL, "outcomes"})
_TRUTHS = {"recheck", "first_token_shared", "answer_ok"}
_COUNTS = {"id", "slot", "http_status", "expected", "seen", "samples", "successes"}


def _arrow_type(pa: Any, name: str) -> Any:
    if name.endswith(("_seconds", "_per_second", "_usd", "_ratio")):
        return pa.float64()
    if name in _TRUTHS:
        return pa.bool_()
    if name.endswith("_tokens") or name in _COUNTS:
        return pa.int64()
    return pa.string()
