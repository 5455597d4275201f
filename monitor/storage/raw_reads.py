"""Reading raw observations. A read is a row of short transactions: none holds the write-ahead log for long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.columns import NONE, Columns, Ints
from monitor.health.sketch import FIGURES
from monitor.observation import CHAT, Observation
from monitor.outcome import OUTCOME_CODES, Outcome
from monitor.storage import schema
from monitor.storage.codec import DAY, HOUR, READ_COLUMNS, micros, observation_of
from monitor.storage.facts import read_skew
from monitor.storage.packed import PackedRows, packing
from monitor.storage.reading import Reader, newest_due, oldest_due, started_us

ROWS_A_READ = 1000  # observations in one transaction: some 15 ms of reading
_HOUR_MS = HOUR * 1000
# A read of one endpoint passes over the others' rows, so its transactions are bounded by time too, in slices that
# grow while they are quick.
_LONGEST_SLICE_MS = DAY * 1000
_QUICK_SECONDS = 0.02
_SLOW_SECONDS = 0.1

_raw = schema.raw_observations.c
_KEY = (_raw.due_ms, _raw.endpoint_id, _raw.location_id, _raw.kind_id, _raw.recheck)
_COLUMNS_A_READ = 20_000  # rows of columns in one transaction: some 35 ms of the database's, 5 ms of the loop's
_PAGES_AHEAD = 2
_COLUMNS = (
    _raw.delay_us,
    _raw.outcome,
    func.coalesce(_raw.answer_ok, NONE),
    func.coalesce(_raw.output_tokens, 0),
    func.coalesce(_raw.cost_pusd, 0),
    # In the order of FIGURES.
    *(func.coalesce(column, NONE) for column in (_raw.ttft_us, _raw.latency_us, _raw.output_speed, _raw.throughput)),
    _raw.detail,
)


class RawReads(Reader):
    """Reads of raw rows; their spans go by `started_at`."""

    async def observations(
        self,
        endpoint: str | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int = 100,
        location: str | None = None,
        outcomes: Collection[Outcome] | None = None,
        kind: str | None = None,
    ) -> list[Observation]:
        """The newest `limit` observations (of these classes and this kind), rechecks among them, newest first by due
        time."""
        found: list[Observation] = []
        if limit <= 0:
            return found
        chunk = min(limit, ROWS_A_READ)
        stream = self.stream(since, until, endpoint, location, outcomes, kind, newest_first=True, chunk=chunk)
        async with aclosing(stream) as newest:
            async for rows in newest:
                found += rows
                if len(found) >= limit:
                    break
        return found[:limit]

    async def other_kinds_tail(self, since: float) -> AsyncIterator[Sequence[Observation]]:
        """The observations of other kinds than chat that started at `since` or later, rechecks too, in chunks: kind by
        kind, oldest first. Of chat `chat_columns` tells."""
        async with self._database.read() as connection:
            await self._know_all(connection)
            kinds = [name for name in self._kinds.values() if name != CHAT]
        for kind in kinds:
            async for rows in self.stream(since, kind=kind):
                yield rows

    async def chat_columns(self, since: float) -> AsyncGenerator[Columns]:
        """The chat observations that started at `since` or later, rechecks too, oldest first, in chunks. At a fifteenth
        of what `stream` costs; the next chunk is being read while one is worked on."""
        await self._database.settle()
        async with self._database.read() as connection:
            await self._know_all(connection)
            chat = next((id_ for id_, name in self._kinds.items() if name == CHAT), None)
            skew_ms = (await read_skew(connection)).ms + 1
        if chat is None:
            return
        page = (
            select(*(column.label(f"c{number}") for number, column in enumerate((*_KEY, *_COLUMNS))))
            .where(_raw.kind_id == chat, started_us >= micros(since))
            .order_by(*_KEY)
        )
        places: list[tuple[str, str]] = []
        place_of: dict[int, int] = {}
        # Closed in time: a page that is still being read would have the connection when the view over it ends.
        async with aclosing(self._packed_pages(page, round(since * 1000) - skew_ms)) as pages:
            async for packed in pages:
                numbers, details = packed.unpacked()
                ids, place = np.unique(numbers[1] << 32 | numbers[2], return_inverse=True)
                if not self._number_places(ids, place_of, places):
                    async with self._database.read() as connection:
                        await self._know_all(connection)
                    self._number_places(ids, place_of, places)
                own = np.array([place_of[id_] for id_ in ids.tolist()], dtype=np.int64)[place]
                await asyncio.sleep(0)
                yield _as_columns(places, own, numbers, details)

    async def _packed_pages(self, page: Select[Any], first_ms: int) -> AsyncGenerator[PackedRows]:
        """What `page` gives of everything that was due at `first_ms` or later, by the ten thousand."""
        ahead: deque[asyncio.Task[PackedRows]] = deque()
        try:
            edge: int | None = first_ms
            while edge is not None or ahead:
                if edge is not None and len(ahead) < _PAGES_AHEAD:
                    first_ms, edge = edge, await self._edge_after(edge)
                    due = [_raw.due_ms >= first_ms, *([] if edge is None else [_raw.due_ms < edge])]
                    ahead.append(asyncio.create_task(self._packed(page.where(*due))))
                elif (packed := await ahead.popleft()).rows:
                    yield packed
        finally:
            for reading in ahead:
                reading.cancel()
            if ahead:
                await asyncio.wait(ahead)

    async def _edge_after(self, first_ms: int) -> int | None:
        """Where the next page begins; None if there is none."""
        dues = select(_raw.due_ms).where(_raw.due_ms > first_ms).order_by(_raw.due_ms)
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(dues.offset(_COLUMNS_A_READ).limit(1))).scalar()
        return found

    async def _packed(self, page: Select[Any]) -> PackedRows:
        async with self._database.read() as connection:
            query = packing(page.subquery(), connection.dialect.name)
            return PackedRows((await connection.execute(query)).one())

    def _number_places(self, ids: Ints, place_of: dict[int, int], places: list[tuple[str, str]]) -> bool:
        """Give every pair of endpoint's and location's ids a place; False if a name is not known yet."""
        for id_ in ids.tolist():
            if id_ not in place_of:
                endpoint, location = self._endpoints.get(id_ >> 32), self._locations.get(id_ & 0xFFFFFFFF)
                if endpoint is None or location is None:
                    return False
                place_of[id_] = len(places)
                places.append((endpoint, location))
        return True

    async def stream(
        self,
        since: float | None = None,
        until: float | None = None,
        endpoint: str | None = None,
        location: str | None = None,
        outcomes: Collection[Outcome] | None = None,
        kind: str | None = None,
        *,
        newest_first: bool = False,
        chunk: int = ROWS_A_READ,
    ) -> AsyncGenerator[list[Observation]]:
        """Observations (of these classes and this kind) in order of due time, in lists of at most `chunk`. Rows that
        come in or go meanwhile may be seen or not; no other is missed or told twice."""
        clock = self._database.clock
        await self._database.settle()
        async with self._database.read() as connection:
            oldest_ms = (await connection.execute(oldest_due)).scalar()
            newest_ms = (await connection.execute(newest_due)).scalar()
            skew_ms = (await read_skew(connection)).ms + 1
            conditions = await self._conditions(connection, since, until, endpoint, location, kind)
        if oldest_ms is None or newest_ms is None or conditions is None:
            return
        if outcomes is not None:
            conditions.append(_raw.outcome.in_([OUTCOME_CODES[outcome] for outcome in outcomes]))
        low = oldest_ms if since is None else max(oldest_ms, round(since * 1000) - skew_ms)
        high = newest_ms + 1 if until is None else min(newest_ms + 1, round(until * 1000) + skew_ms)
        width = _HOUR_MS
        position = high if newest_first else low
        while low < high and (position > low if newest_first else position < high):
            first, last = (
                (max(position - width, low), position) if newest_first else (position, min(position + width, high))
            )
            edge = first if newest_first else last
            after: tuple[int, ...] | None = None
            is_empty = True
            while True:
                began = clock.monotonic()
                query = self._page(first, last, after, newest_first, chunk).where(*conditions)
                async with self._database.read() as connection:
                    rows = (await connection.execute(query)).all()
                    found = await self._decoded(connection, rows)
                took = clock.monotonic() - began
                if found:
                    is_empty = False
                    yield found
                if len(rows) < chunk:
                    break
                after = tuple(rows[-1][:5])
                # The comparison of whole keys is no bound to SQLite's planner; this is.
                first, last = (first, after[0] + 1) if newest_first else (after[0], last)
            if is_empty:
                # Over a gap (a monitor that was off, a clock that was decades ahead) in one leap.
                beyond = await self._next_due(edge, newest_first)
                if beyond is None:
                    return
                edge = beyond
            position = edge
            if took < _QUICK_SECONDS:
                width = min(width * 2, _LONGEST_SLICE_MS)
            elif took > _SLOW_SECONDS:
                width = max(width // 2, _HOUR_MS)

    async def _next_due(self, edge: int, newest_first: bool) -> int | None:
        """Where the next slice begins that has any row; None if there is none beyond `edge`."""
        query = newest_due.where(_raw.due_ms < edge) if newest_first else oldest_due.where(_raw.due_ms >= edge)
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(query)).scalar()
        return found + 1 if newest_first and found is not None else found

    def _page(
        self, first_ms: int, last_ms: int, after: tuple[int, ...] | None, newest_first: bool, chunk: int
    ) -> Select[Any]:
        code, model, finish, told = (schema.texts.alias(name) for name in ("code", "model", "finish", "told"))
        query = (
            select(*(_raw[name] for name in READ_COLUMNS), code.c.name, model.c.name, finish.c.name, told.c.name)
            .select_from(schema.raw_observations)
            .outerjoin(code, code.c.id == _raw.error_code_id)
            .outerjoin(model, model.c.id == _raw.response_model_id)
            .outerjoin(finish, finish.c.id == _raw.finish_reason_id)
            .outerjoin(told, told.c.id == _raw.told_id)
            .where(_raw.due_ms >= first_ms, _raw.due_ms < last_ms)
            .order_by(*(column.desc() if newest_first else column for column in _KEY))
            .limit(chunk)
        )
        if after is not None:
            query = query.where(tuple_(*_KEY) < tuple_(*after) if newest_first else tuple_(*_KEY) > tuple_(*after))
        return query

    async def _decoded(self, connection: AsyncConnection, rows: Sequence[Any]) -> list[Observation]:
        endpoints, locations, kinds = self._endpoints, self._locations, self._kinds
        try:
            return [observation_of(row, endpoints[row[1]], locations[row[2]], kinds[row[3]]) for row in rows]
        except KeyError:
            await self._know_all(connection)
            return [observation_of(row, endpoints[row[1]], locations[row[2]], kinds[row[3]]) for row in rows]


def _as_columns(
    places: Sequence[tuple[str, str]], place: Ints, numbers: Sequence[Ints], details: Sequence[str | None]
) -> Columns:
    due_ms, _, _, _, recheck, delay_us, outcome, answer, tokens, cost, *figures = numbers
    return Columns(
        places=places,
        place=place,
        due_ms=due_ms,
        started_us=due_ms * 1000 + delay_us,
        recheck=recheck,
        outcome=outcome,
        figures=dict(zip(FIGURES, figures, strict=True)),
        answer=answer,
        output_tokens=tokens,
        cost_pusd=cost,
        details=details,
    )
