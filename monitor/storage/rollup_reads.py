"""Reading rollups: closed UTC hours and days."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import Table, func, select, tuple_

from monitor.health.rows import TallyRows, joined
from monitor.health.sketch import FIGURES
from monitor.health.tally import Tally
from monitor.storage import schema
from monitor.storage.codec import DAY, HOUR, counts_decoder, tally_of_columns
from monitor.storage.facts import read_rolled_until
from monitor.storage.reading import Reader

Step = Literal["hour", "day"]

_ROWS_A_TURN = 250  # rows of one bucket between two turns of the event loop: some 2 ms
_BUCKETS_A_TURN = 10  # buckets of one endpoint, with their sketches decoded: the same
_BUCKETS_A_READ = 48


@dataclass(frozen=True, slots=True)
class Rollup:
    """One endpoint, location and kind over one UTC hour or day that starts at `start` (UTC seconds)."""

    start: int
    step: Step
    endpoint: str
    location: str
    kind: str
    expected: int
    tally: Tally


class RollupReads(Reader):
    """Reads of rollups; their spans go by the start of the hour or day."""

    async def rollups(
        self,
        step: Step,
        endpoint: str | None = None,
        since: float | None = None,
        until: float | None = None,
        location: str | None = None,
    ) -> AsyncIterator[list[Rollup]]:
        """Closed hours or days whose start lies in the span, oldest first, one bucket's rows at a time."""
        table, bucket = _rollup_table(step)
        async with self._database.read() as connection:
            places = await self._place_ids(connection, endpoint, location)
            if places is None:
                return
            conditions = [table.c[f"{name}_id"] == id_ for name, id_ in places.items()]
            span = _within(bucket, since, until)
            starts = (await connection.execute(select(bucket).where(*span).distinct().order_by(bucket))).scalars().all()
        for start in starts:
            async with self._database.read() as connection:
                query = select(table).where(bucket == start, *conditions)
                rows = (await connection.execute(query.order_by(table.c.endpoint_id, table.c.location_id))).all()
                await self._know(connection, rows)
            if rows:
                yield [self._rollup(start, step, row) for row in rows]

    async def newest_rollups(
        self,
        step: Step,
        endpoint: str,
        since: float,
        until: float,
        location: str | None,
        limit: int,
        kind: str | None = None,
    ) -> list[list[Rollup]]:
        """The newest `limit` closed hours or days of one endpoint (and kind of probe) whose start lies in the span:
        each bucket's rows, oldest bucket first."""
        table, bucket = _rollup_table(step)
        width = HOUR if step == "hour" else DAY
        first = -(-int(since) // width) * width
        found: list[list[Rollup]] = []
        async with self._database.read() as connection:
            places = await self._place_ids(connection, endpoint, location, kind)
        position = None if places is None else await self._last_bucket(bucket, math.ceil(until))
        while places is not None and position is not None and position >= first and len(found) < limit:
            # An endpoint's buckets lie far apart in the index: they are looked up one by one, some in each query.
            starts = range(position, max(first, position - (_BUCKETS_A_READ - 1) * width) - 1, -width)
            query = select(table).where(bucket.in_(starts), *(table.c[f"{n}_id"] == id_ for n, id_ in places.items()))
            async with self._database.read() as connection:
                rows = (await connection.execute(query.order_by(bucket.desc(), table.c.location_id))).all()
                await self._know(connection, rows)
            for number, (start, of_one) in enumerate(groupby(rows, key=lambda row: int(row[1])), 1):
                found.append([self._rollup(start, step, row) for row in of_one])
                if number % _BUCKETS_A_TURN == 0:
                    await asyncio.sleep(0)
            position = await self._last_bucket(bucket, starts[-1])
        return found[:limit][::-1]

    async def hour_rows(self, hour: int) -> TallyRows:
        """One closed UTC hour, in columns; empty if it has no rows or is still open."""
        return await self._tally_rows("hour", hour)

    async def day_rows(self, day: int) -> TallyRows:
        return await self._tally_rows("day", day)

    async def window_rows(self, start_hour: int, rolled_until: int) -> AsyncIterator[tuple[int, TallyRows]]:
        """(bucket width in seconds, rows of one bucket) that together are [start_hour, rolled_until): whole UTC days
        from daily rows, the hours at both edges from hourly rows. Empty buckets are left out."""
        first_day = -(-start_hour // DAY) * DAY
        last_day = rolled_until // DAY * DAY
        spans: list[tuple[Step, int, int]]
        if first_day < last_day:
            spans = [("hour", start_hour, first_day), ("day", first_day, last_day), ("hour", last_day, rolled_until)]
        else:
            spans = [("hour", start_hour, rolled_until)]
        for step, since, until in spans:
            for start in await self._starts(step, since, until):
                if len(rows := await self._tally_rows(step, start)):
                    yield (HOUR if step == "hour" else DAY), rows

    async def rolled_until(self) -> int:
        """UTC seconds: what started before is in rollups; 0 if nothing was ever rolled up."""
        async with self._database.read() as connection:
            return await read_rolled_until(connection)

    def _rollup(self, start: int, step: Step, row: Any) -> Rollup:
        return Rollup(start, step, *self._place(row), expected=row.expected, tally=tally_of_columns(row))

    async def _last_bucket(self, bucket: Any, before: int) -> int | None:
        """The last bucket of anybody's that starts before `before`."""
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(select(func.max(bucket)).where(bucket < before))).scalar()
        return found

    async def _starts(self, step: Step, since: int, until: int) -> Sequence[int]:
        _, bucket = _rollup_table(step)
        query = select(bucket).where(bucket >= since, bucket < until).distinct().order_by(bucket)
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalars().all()

    async def _tally_rows(self, step: Step, start: int) -> TallyRows:
        table, bucket = _rollup_table(step)
        key = (table.c.endpoint_id, table.c.location_id, table.c.kind_id)
        page = select(table).where(bucket == start).order_by(*key).limit(_ROWS_A_TURN)
        parts: list[TallyRows] = []
        after: tuple[int, int, int] | None = None
        async with self._database.read() as connection:
            while True:
                query = page
                if after is not None:
                    # The first condition is the one that SQLite's planner can use as a bound.
                    query = page.where(table.c.endpoint_id >= after[0], tuple_(*key) > tuple_(*after))
                found = (await connection.execute(query)).all()
                await self._know(connection, found)
                parts.append(self._columns(start, found))
                if len(found) < _ROWS_A_TURN:
                    return joined(parts)
                after = (found[-1].endpoint_id, found[-1].location_id, found[-1].kind_id)

    def _columns(self, start: int, found: Sequence[Any]) -> TallyRows:
        places = [self._place(row) for row in found]
        return TallyRows(
            bucket_starts=[start] * len(found),
            endpoints=[place[0] for place in places],
            locations=[place[1] for place in places],
            kinds=[place[2] for place in places],
            counts=[counts_decoder.decode(row.counts) for row in found],
            answers_asked=[row.answers_asked for row in found],
            answers_ok=[row.answers_ok for row in found],
            sketches={figure: [getattr(row, figure) for row in found] for figure in FIGURES},
            meters=[row.meter for row in found],
        )


def _rollup_table(step: Step) -> tuple[Table, Any]:
    table = schema.hourly_rollups if step == "hour" else schema.daily_rollups
    return table, table.c[step]


def _within(column: Any, since: float | None, until: float | None) -> list[Any]:
    conditions = []
    if since is not None:
        conditions.append(column >= since)
    if until is not None:
        conditions.append(column < until)
    return conditions
