"""Reading raw observations. A read is a row of short transactions: none holds the write-ahead log for long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.observation import Observation
from monitor.outcome import OUTCOME_CODES, Group, Outcome, group_of
from monitor.storage import schema
from monitor.storage.codec import DAY, HOUR, READ_COLUMNS, micros, observation_of
from monitor.storage.facts import read_skew
from monitor.storage.names import Place
from monitor.storage.reading import Reader
from monitor.storage.schema import MILLION, PICO

ROWS_A_READ = 1000  # observations in one transaction: some 15 ms of reading
_HOUR_MS = HOUR * 1000
# A read of one endpoint passes over the others' rows, so its transactions are bounded by time too, in slices that
# grow while they are quick.
_LONGEST_SLICE_MS = DAY * 1000
_QUICK_SECONDS = 0.02
_SLOW_SECONDS = 0.1

_ALIVE = [OUTCOME_CODES[outcome] for outcome in Outcome if group_of(outcome) is Group.OK]

_raw = schema.raw_observations.c
_KEY = (_raw.due_ms, _raw.endpoint_id, _raw.location_id, _raw.kind_id, _raw.recheck)
_started_us = _raw.due_ms * 1000 + _raw.delay_us


@dataclass(frozen=True, slots=True)
class LastSlot:
    """The last scheduled slot that was recorded, and when it was due: slot numbers change with the interval."""

    slot: int
    due_at: float


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

    async def raw_tail(self, since: float) -> AsyncIterator[Sequence[Observation]]:
        """All observations that started at `since` or later, rechecks too, oldest first, in chunks."""
        async for rows in self.stream(since):
            yield rows

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
        async with self._database.read() as connection:
            bounds = (await connection.execute(select(func.min(_raw.due_ms), func.max(_raw.due_ms)))).one()
            skew_ms = (await read_skew(connection)).ms + 1
            conditions = await self._conditions(connection, since, until, endpoint, location, kind)
        if bounds[0] is None or conditions is None:
            return
        if outcomes is not None:
            conditions.append(_raw.outcome.in_([OUTCOME_CODES[outcome] for outcome in outcomes]))
        low = bounds[0] if since is None else max(bounds[0], round(since * 1000) - skew_ms)
        high = bounds[1] + 1 if until is None else min(bounds[1] + 1, round(until * 1000) + skew_ms)
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
        query = select(func.max(_raw.due_ms) + 1).where(_raw.due_ms < edge)
        if not newest_first:
            query = select(func.min(_raw.due_ms)).where(_raw.due_ms >= edge)
        async with self._database.read() as connection:
            found: int | None = (await connection.execute(query)).scalar()
        return found

    async def spent_since(self, at: float, location: str | None = None) -> float:
        """USD that probes, rechecks too, have cost which started or were due at `at` or later. Slots go by a clock that
        may be ahead of the wall, and what is spent on its day is spent."""
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, None, None, None, location)
            if conditions is None:
                return 0.0
            skew_ms = (await read_skew(connection)).ms + 1
            conditions.append(or_(_started_us >= micros(at), _raw.due_ms >= round(at * 1000)))
            query = select(func.sum(_raw.cost_pusd)).where(_raw.due_ms >= round(at * 1000) - skew_ms, *conditions)
            return float((await connection.execute(query)).scalar() or 0) / PICO

    async def mean_costs(self, since: float, location: str) -> dict[tuple[str, str], float]:
        """(endpoint, kind) -> USD that such a probe has cost on average, of those due at `since` or later that have a
        price."""
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, None, None, None, location)
            if conditions is None:
                return {}
            query = (
                select(_raw.endpoint_id, _raw.kind_id, func.avg(_raw.cost_pusd).label("mean"))
                .where(_raw.due_ms >= round(since * 1000), _raw.cost_pusd.is_not(None), *conditions)
                .group_by(_raw.endpoint_id, _raw.kind_id)
            )
            rows = (await connection.execute(query)).all()
            await self._know_all(connection)
        return {(self._endpoints[row.endpoint_id], self._kinds[row.kind_id]): float(row.mean) / PICO for row in rows}

    async def last_due_at(self, location: str) -> float | None:
        """When the last recorded slot of a location was due; None if there is none."""
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, None, None, None, location)
            if conditions is None:
                return None
            query = select(_raw.due_ms).where(_raw.recheck == 0, *conditions).order_by(_raw.due_ms.desc()).limit(1)
            due_ms = (await connection.execute(query)).scalar()
            return None if due_ms is None else due_ms / 1000

    async def last_slots(self, since: float) -> dict[Place, LastSlot]:
        """The last recorded slot of each (endpoint, location, kind) among those due at `since` or later."""
        newest = (
            select(_raw.endpoint_id, _raw.location_id, _raw.kind_id, func.max(_raw.due_ms).label("due_ms"))
            .where(_raw.due_ms >= round(since * 1000), _raw.recheck == 0)
            .group_by(_raw.endpoint_id, _raw.location_id, _raw.kind_id)
            .subquery()
        )
        same = [_raw[name] == newest.c[name] for name in ("endpoint_id", "location_id", "kind_id", "due_ms")]
        query = select(_raw.endpoint_id, _raw.location_id, _raw.kind_id, _raw.slot, _raw.due_ms)
        query = query.join(newest, and_(*same, _raw.recheck == 0))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
            await self._know(connection, rows)
        return {self._place(row): LastSlot(row.slot, row.due_ms / 1000) for row in rows}

    async def successes_within(self, since: float, until: float | None) -> dict[Place, float]:
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, since, until, None, None) or []
            skew_ms = (await read_skew(connection)).ms + 1
            due = [_raw.due_ms >= round(since * 1000) - skew_ms]
            if until is not None:
                due.append(_raw.due_ms <= round(until * 1000) + skew_ms)
            query = (
                select(_raw.endpoint_id, _raw.location_id, _raw.kind_id, func.max(_started_us).label("at_us"))
                .where(*due, *conditions, _raw.outcome.in_(_ALIVE))
                .group_by(_raw.endpoint_id, _raw.location_id, _raw.kind_id)
            )
            rows = (await connection.execute(query)).all()
            await self._know_all(connection)
        return {self._place(row): row.at_us / MILLION for row in rows}

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

    async def _conditions(
        self,
        connection: AsyncConnection,
        since: float | None,
        until: float | None,
        endpoint: str | None,
        location: str | None,
        kind: str | None = None,
    ) -> list[Any] | None:
        """What a raw row must meet; None if none can."""
        places = await self._place_ids(connection, endpoint, location, kind)
        if places is None:
            return None
        conditions: list[Any] = [_raw[f"{name}_id"] == id_ for name, id_ in places.items()]
        if since is not None:
            conditions.append(_started_us >= micros(since))
        if until is not None:
            conditions.append(_started_us < micros(until))
        return conditions
