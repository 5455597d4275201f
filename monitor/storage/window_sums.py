"""The long windows as they were at some hour, on record beside the rollups that they are made of.

A start adds to them the hours that have come since and takes away those that have left: some ten hours' rows instead of
thirty days'. They are made of rollups alone, one window each hour, and are believed only as long as no closed hour
has changed since: a late row or a reclassification makes the next start take the long way.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import msgspec
from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.rows import TallyRows
from monitor.health.spans import HOUR, LONG_WINDOWS
from monitor.health.windows import Windows
from monitor.storage import schema
from monitor.storage.codec import DAY
from monitor.storage.database import Job, T
from monitor.storage.facts import read_fact, read_held_fact, read_rolled_until, read_rollup_changes, write_fact
from monitor.storage.history import History, Step
from monitor.storage.names import Place
from monitor.storage.retention import Submit
from monitor.storage.upsert import Insert, insert_for

log = logging.getLogger(__name__)

_FACT = "window_sums"
_AUTHOR = "window_sums_author"  # a word of whoever makes them now: of monitors that think so at once, the last one
_ENDPOINTS_A_GO = 500  # bounds the memory, and how long a matrix takes to grow: some 2 MB and 1 ms
_ROWS_A_TURN = 40  # of thirty days' bins: some 1.5 ms
_ROWS_A_STEP = 250  # of one transaction: some 5 ms
_ALIVE = ("success", "reasoning_cut")

_table = schema.window_sums
_KEY = (_table.c.endpoint_id, _table.c.location_id, _table.c.kind_id)

Ids = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]


class _Record(msgspec.Struct, frozen=True):
    """Of one window: the hour it ended at (UTC seconds), which state of the rollups it is of, and its rows."""

    until: int
    changes: int
    rows: int


_Records = dict[str, _Record]


async def sums_on_record(history: History) -> dict[str, int]:
    """window -> the hour up to which its sums go, of those that can be believed."""
    async with history.database.read() as connection:
        return await _believed(connection)


async def _believed(connection: AsyncConnection) -> dict[str, int]:
    records, changes = await _read(connection), await read_rollup_changes(connection)
    found = {}
    for window, record in records.items():
        if window in LONG_WINDOWS and record.changes == changes:
            count = select(func.count()).where(_table.c.span == LONG_WINDOWS[window])
            if (await connection.execute(count)).scalar() == record.rows:
                found[window] = record.until
    return found


async def _read(connection: AsyncConnection) -> _Records:
    text = await read_fact(connection, _FACT)
    return {} if text is None else msgspec.json.decode(text, type=_Records)


async def renew_sums(history: History, submit: Submit, until: int) -> bool:
    """Write one window anew, as it is at the closed hour `until` (UTC seconds): another one each hour. Whether it was
    written; it is not where closed hours changed meanwhile, another monitor has begun to write sums, or it is on record
    already."""
    window = tuple(LONG_WINDOWS)[until // HOUR % len(LONG_WINDOWS)]
    author = uuid.uuid4().hex

    async def begin(connection: AsyncConnection) -> tuple[int, dict[str, int]] | None:
        await read_held_fact(connection, _AUTHOR)
        if until > await read_rolled_until(connection):
            raise ValueError(f"sums of hours that are open: until={until}")
        believed = await _believed(connection)
        if believed.get(window) == until:
            return None
        # What another has half written by now is on no record, and it writes no more of it.
        await write_fact(connection, _AUTHOR, author)
        return await read_rollup_changes(connection), believed

    begun = await submit(begin)
    if begun is None:
        return False
    changes, believed = begun
    rows: list[dict[str, Any]] = []
    endpoint_ids, ids = await history.endpoint_ids(), await history.ids_by_name()
    # Of a young database thirty days would be read, day by day, that there are not.
    firsts: dict[Step, float] = {step: await history.first_bucket(step) for step in ("day", "hour")}
    for start in range(0, len(endpoint_ids), _ENDPOINTS_A_GO):
        some = endpoint_ids[start : start + _ENDPOINTS_A_GO]
        rows += await _summed(history, window, until, believed, (some[0], some[-1]), ids, firsts)
    rows.sort(key=lambda row: tuple(row[column.name] for column in _KEY))
    try:
        return await _write(partial(_by_author, submit, author), window, _Record(until, changes, len(rows)), rows)
    except _Superseded:
        log.info("window_sums_left_to_another window=%s", window)
        return False


class _Superseded(Exception):
    """Another monitor makes them."""


async def _by_author(submit: Submit, author: str, job: Job[T]) -> T:
    async def checked(connection: AsyncConnection) -> T:
        if await read_held_fact(connection, _AUTHOR) != author:
            raise _Superseded
        return await job(connection)

    return await submit(checked)


async def _summed(
    history: History,
    window: str,
    until: int,
    believed: dict[str, int],
    endpoint_ids: tuple[int, int],
    ids: Ids,
    firsts: Mapping[Step, float],
) -> list[dict[str, Any]]:
    windows = Windows(float(until))
    ranges = windows.restore_ranges(float(until), until, until // DAY * DAY, believed, only=(window,))
    alive: dict[tuple[str, str, str], tuple[int, int]] = {}
    for name in ranges.sums:
        async for rows, buckets in history.sum_rows(LONG_WINDOWS[name], endpoint_ids):
            for part in rows.parts(_ROWS_A_TURN):
                windows.restore_sums(name, part)
                await asyncio.sleep(0)
            places = zip(rows.endpoints, rows.locations, rows.kinds, strict=True)
            alive |= {place: bucket for place, bucket in zip(places, buckets, strict=True) if bucket is not None}
    steps: list[tuple[int, Step]] = [(day, "day") for day in range(*ranges.days, DAY)]
    steps += [(hour, "hour") for span in ranges.hours for hour in range(*span, HOUR)]
    for bucket, step in sorted(each for each in steps if each[0] >= firsts[each[1]]):
        width = DAY if step == "day" else HOUR
        async for page in history.bucket_rows(step, bucket, endpoint_ids):
            for part in page.parts(_ROWS_A_TURN):
                (windows.restore_days if step == "day" else windows.restore_hours)(part)
                note_alive(alive, width, part)
                await asyncio.sleep(0)
    found: list[dict[str, Any]] = []
    for part in windows.sums(window):
        found += sum_columns(LONG_WINDOWS[window], part, ids, alive, until - LONG_WINDOWS[window])
        await asyncio.sleep(0)
    return found


def sum_columns(
    span: int, rows: TallyRows, ids: Ids, alive: Mapping[Place, tuple[int, int]], since: int
) -> list[dict[str, Any]]:
    """`rows` as rows of `window_sums`; `ids` are those of endpoints, locations and kinds."""
    endpoints, locations, kinds = ids
    found = []
    for index, place in enumerate(zip(rows.endpoints, rows.locations, rows.kinds, strict=True)):
        bucket = alive.get(place)
        if bucket is not None and sum(bucket) <= since:
            bucket = None
        found.append(
            {
                "span": span,
                "endpoint_id": endpoints[place[0]],
                "location_id": locations[place[1]],
                "kind_id": kinds[place[2]],
                "counts": msgspec.json.encode(rows.counts[index]).decode(),
                "answers_asked": rows.answers_asked[index],
                "answers_ok": rows.answers_ok[index],
                **{figure: column[index] for figure, column in rows.sketches.items()},
                "meter": rows.meters[index],
                "alive": None if bucket is None else bucket[0],
                "alive_width": None if bucket is None else bucket[1],
            }
        )
    return found


def note_alive(alive: dict[tuple[str, str, str], tuple[int, int]], width: int, rows: TallyRows) -> None:
    """Note in which bucket (start, width) each place last had a success, if it is `rows`' own."""
    for index, counts in enumerate(rows.counts):
        if any(map(counts.__contains__, _ALIVE)):
            place, start = (rows.endpoints[index], rows.locations[index], rows.kinds[index]), rows.bucket_starts[index]
            known = alive.get(place)
            if known is None or start >= known[0]:
                alive[place] = start, width


async def _write(submit: Submit, window: str, record: _Record, rows: Sequence[dict[str, Any]]) -> bool:
    """In short transactions, since observations wait for each: what is half written is on no record. In place and in
    order of the key: deleted and inserted anew, each row would be in the write-ahead log twice."""
    span = LONG_WINDOWS[window]

    async def forget(connection: AsyncConnection) -> None:
        await _put(connection, {name: one for name, one in (await _read(connection)).items() if name != window})

    def bringing(batch: Sequence[dict[str, Any]]) -> Job[None]:
        async def bring_some(connection: AsyncConnection) -> None:
            await connection.execute(_written_over(connection.dialect.name), batch)

        return bring_some

    def clearing(after: int) -> Job[int | None]:
        async def clear_some(connection: AsyncConnection) -> int | None:
            """Of the next rows by id, those that are not wanted; the last id that was looked at."""
            page = select(_table.c.id, *_KEY).where(_table.c.span == span, _table.c.id > after)
            found = (await connection.execute(page.order_by(_table.c.id).limit(_ROWS_A_STEP))).all()
            if gone := [row.id for row in found if row[1:] not in wanted]:
                await connection.execute(delete(_table).where(_table.c.id.in_(gone)))
            return found[-1].id if found else None

        return clear_some

    async def count(connection: AsyncConnection) -> int:
        return int((await connection.execute(select(func.count()).where(_table.c.span == span))).scalar() or 0)

    async def confirm(connection: AsyncConnection) -> bool:
        if await read_rollup_changes(connection) != record.changes:
            return False
        await _put(connection, await _read(connection) | {window: record})
        return True

    await submit(forget)
    for start in range(0, len(rows), _ROWS_A_STEP):
        await submit(bringing(rows[start : start + _ROWS_A_STEP]))
    if await submit(count) > len(rows):
        wanted = {tuple(row[column.name] for column in _KEY) for row in rows}
        after: int | None = 0
        while after is not None:
            after = await submit(clearing(after))
    return await submit(confirm)


@cache
def _written_over(dialect: str) -> Insert:
    """Rows over those with the same key; one that is what it was is left alone."""
    statement = insert_for(dialect, _table)
    key = [_table.c.span, *_KEY]
    columns = [column for column in _table.c if column.name not in {"id", *(each.name for each in key)}]
    return statement.on_conflict_do_update(
        index_elements=key,
        set_={column.name: statement.excluded[column.name] for column in columns},
        where=or_(*(column.is_distinct_from(statement.excluded[column.name]) for column in columns)),
    )


async def _put(connection: AsyncConnection, records: _Records) -> None:
    await write_fact(connection, _FACT, msgspec.json.encode(records).decode())
