"""Reading rollups: closed UTC hours and days."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
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

_ROWS_A_READ = 1000  # rows of one bucket in one transaction: some 3 ms of a thread's, 1 ms of the loop's
_ENDPOINTS_A_READ = 20  # of which all of thirty days is read at once
_TALLY_COLUMNS = ("counts", "answers_asked", "answers_ok", *FIGURES, "meter")
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
        return joined([part async for part in self.bucket_rows("hour", hour)])

    async def bucket_rows(
        self, step: Step, start: int, endpoint_ids: tuple[int, int] | None = None
    ) -> AsyncIterator[TallyRows]:
        """The rows of one closed hour or day (of the endpoints whose ids lie in that span, both ends included) in
        parts, in order of place; a part is a transaction of its own."""
        table, bucket = _rollup_table(step)
        columns = [table.c[name] for name in _TALLY_COLUMNS]
        async for rows in self._pages(table, [bucket == start], columns, endpoint_ids):
            yield self._columns(start, rows)

    async def sum_rows(
        self, span: int, endpoint_ids: tuple[int, int] | None = None
    ) -> AsyncIterator[tuple[TallyRows, list[tuple[int, int] | None]]]:
        """The rows of a window's sums in the same way; beside them the bucket (start, width in seconds) in which each
        last had a success."""
        table = schema.window_sums
        columns = [table.c[name] for name in (*_TALLY_COLUMNS, "alive", "alive_width")]
        async for rows in self._pages(table, [table.c.span == span], columns, endpoint_ids):
            alive = [None if row[-2] is None else (row[-2], row[-1]) for row in rows]
            yield self._columns(0, [row[:-2] for row in rows]), alive

    async def alive_rows(
        self, start_hour: int, rolled_until: int, endpoints: Collection[str]
    ) -> AsyncIterator[tuple[int, TallyRows]]:
        """(bucket width in seconds, rows without sketches) that together are [start_hour, rolled_until) of some
        endpoints: whole UTC days from daily rows, the hours at both edges from hourly rows."""
        first_day, last_day = -(-start_hour // DAY) * DAY, rolled_until // DAY * DAY
        spans: list[tuple[Step, int, int]] = [("hour", start_hour, rolled_until)]
        if first_day < last_day:
            spans = [("hour", start_hour, first_day), ("day", first_day, last_day), ("hour", last_day, rolled_until)]
        async with self._database.read() as connection:
            await self._know_all(connection)
        ids = sorted(id_ for id_, name in self._endpoints.items() if name in endpoints)
        for step, since, until in spans:
            table, bucket = _rollup_table(step)
            for first in range(0, len(ids), _ENDPOINTS_A_READ):
                key = (table.c.endpoint_id, table.c.location_id, table.c.kind_id)
                query = select(bucket, *key, table.c.counts).where(
                    bucket >= since,
                    bucket < until,
                    bucket.in_(range(since, until, HOUR if step == "hour" else DAY)),
                    table.c.endpoint_id.in_(ids[first : first + _ENDPOINTS_A_READ]),
                )
                async with self._database.read() as connection:
                    rows = (await connection.execute(query)).all()
                    await self._know(connection, rows)
                places = [self._place(row) for row in rows]
                yield (
                    HOUR if step == "hour" else DAY,
                    TallyRows(
                        bucket_starts=[row[0] for row in rows],
                        endpoints=[place[0] for place in places],
                        locations=[place[1] for place in places],
                        kinds=[place[2] for place in places],
                        counts=[_counts_of(row.counts) for row in rows],
                        answers_asked=[0] * len(rows),
                        answers_ok=[0] * len(rows),
                    ),
                )

    async def _pages(
        self, table: Table, conditions: Sequence[Any], columns: Sequence[Any], endpoint_ids: tuple[int, int] | None
    ) -> AsyncIterator[Sequence[Any]]:
        """Rows of a place's key and `columns`, by the thousand, in order of the key; with names for all of them."""
        key = (table.c.endpoint_id, table.c.location_id, table.c.kind_id)
        page = select(*key, *columns).where(*conditions).order_by(*key).limit(_ROWS_A_READ)
        if endpoint_ids is not None:
            page = page.where(table.c.endpoint_id <= endpoint_ids[1])
        query = page if endpoint_ids is None else page.where(table.c.endpoint_id >= endpoint_ids[0])
        while True:
            async with self._database.read() as connection:
                found = (await connection.execute(query)).all()
                await self._know(connection, found)
            if found:
                yield found
            if len(found) < _ROWS_A_READ:
                return
            after = found[-1][:3]
            # The first condition is the one that SQLite's planner can use as a bound.
            query = page.where(table.c.endpoint_id >= after[0], tuple_(*key) > tuple_(*after))

    async def rolled_until(self) -> int:
        """UTC seconds: what started before is in rollups; 0 if nothing was ever rolled up."""
        async with self._database.read() as connection:
            return await read_rolled_until(connection)

    async def first_bucket(self, step: Step) -> float:
        """The start of the first closed hour or day of anybody's; infinite if there is none."""
        _, bucket = _rollup_table(step)
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(select(func.min(bucket)))).scalar()
        return math.inf if found is None else found

    def _rollup(self, start: int, step: Step, row: Any) -> Rollup:
        return Rollup(start, step, *self._place(row), expected=row.expected, tally=tally_of_columns(row))

    async def _last_bucket(self, bucket: Any, before: int) -> int | None:
        """The last bucket of anybody's that starts before `before`."""
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(select(func.max(bucket)).where(bucket < before))).scalar()
        return found

    def _columns(self, start: int, found: Sequence[Any]) -> TallyRows:
        endpoint, location, kind, counts, asked, answered, *sketches, meters = (
            list(each) for each in zip(*found, strict=True)
        )
        endpoints, locations, kinds = self._endpoints, self._locations, self._kinds
        return TallyRows(
            bucket_starts=[start] * len(found),
            endpoints=[endpoints[id_] for id_ in endpoint],
            locations=[locations[id_] for id_ in location],
            kinds=[kinds[id_] for id_ in kind],
            counts=[_counts_of(text) for text in counts],
            answers_asked=asked,
            answers_ok=answered,
            sketches=dict(zip(FIGURES, sketches, strict=True)),
            meters=meters,
        )


# Most hours of most endpoints have one of a few hundred.
@lru_cache(maxsize=4096)
def _counts_of(text: str) -> dict[str, int]:
    return counts_decoder.decode(text)


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
