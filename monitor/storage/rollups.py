"""Rollups: the book of hours that are still open, closing hours and days, and rows that come late.

The watermark `rolled_until` divides them: a scheduled observation that started before it is in hourly_rollups (and in
daily_rollups, if its UTC day lies before it too); one that started later is only in raw rows and in the book.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Row, Table, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.columns import Columns
from monitor.health.meter import Meter
from monitor.health.sketch import FIGURES, decode_many, encode
from monitor.health.tally import Tally
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.slot import expected_slots
from monitor.storage import schema
from monitor.storage.codec import (
    DAY,
    HOUR,
    counts_decoder,
    day_of,
    hour_of,
    tally_columns,
    tally_of_columns,
)
from monitor.storage.eras import read_eras, read_kind_eras
from monitor.storage.facts import ROLLED_UNTIL, note_rollup_change, write_fact
from monitor.storage.names import Names, Place, names_by_id
from monitor.storage.open_hour import OpenHour
from monitor.storage.schema import MILLION
from monitor.storage.spending import add_spent, note_spent, spent_by_hour

# endpoint, location, kind, start, end (UTC seconds) -> slots that fell due
ExpectedOf = Callable[[str, str, str, float, float], int]

# How long after its end an hour is closed: the longest probe (timeout 60 s, held back up to 5 s) that began in its last
# moment has come in by then. One that comes later still is merged as a late row.
CLOSE_AFTER_SECONDS = 120.0

_DAYS_A_TURN = 20  # daily rows between two turns of the event loop: some 5 ms
_ENDPOINTS_A_READ = 20  # endpoints whose day is merged at once: 480 hourly rows


class HourBook:
    """Committed scheduled observations, by hour, of the hours from `rolled_until` on; and what all probes have cost."""

    def __init__(self, rolled_until: int = 0) -> None:
        self.rolled_until = rolled_until
        self.summed_until = 0  # for which watermark window sums were last made
        self._hours: dict[int, OpenHour] = {}

    def is_late(self, observation: Observation) -> bool:
        """Whether its hour is closed already, so that it (of a recheck, what it cost) belongs there at once."""
        return observation.started_at < self.rolled_until

    def add(self, observations: Iterable[Observation]) -> None:
        """Count what was just committed; late rows are passed over, and of rechecks only the money counts."""
        for observation in observations:
            if (hour := hour_of(observation.started_at)) >= self.rolled_until:
                self._open(hour).add(observation)

    def add_columns(self, columns: Columns) -> None:
        """The same of many at once."""
        hours = columns.started_us // (HOUR * MILLION) * HOUR
        for hour in np.unique(hours).tolist():
            if hour >= self.rolled_until:
                self._open(hour).add_columns(columns, hours == hour)

    def move(self, observation: Observation, outcome: Outcome) -> None:
        """A row that was counted has got another class; one whose hour is closed is passed over."""
        if observation.recheck == 0 and observation.started_at >= self.rolled_until:
            hour = self._hours.get(hour_of(observation.started_at))
            if hour is not None:
                hour.move(observation, outcome)

    def restart(self, rolled_until: int) -> None:
        """Empty, from the database's watermark on."""
        self.rolled_until = rolled_until
        self._hours.clear()

    def _open(self, hour: int) -> OpenHour:
        found = self._hours.get(hour)
        if found is None:
            found = self._hours[hour] = OpenHour()
        return found

    def rows(self) -> Iterator[tuple[int, Place, Tally]]:
        """(hour, place, tally) of every open hour, in order of time."""
        for hour in sorted(self._hours):
            for share in self._hours[hour].rolled():
                for place, row in share:
                    yield hour, place, tally_of_columns(SimpleNamespace(**row))

    def closed(self, until_hour: int) -> None:
        """The transaction that closed the hours before `until_hour` was committed."""
        self.rolled_until = max(self.rolled_until, until_hour)
        for hour in [hour for hour in self._hours if hour < self.rolled_until]:
            del self._hours[hour]

    async def close_hours(
        self,
        connection: AsyncConnection,
        names: Names,
        until_hour: int,
        expected_of: ExpectedOf | None = None,
        let_go_before: float = -math.inf,
    ) -> int:
        """Write the open hours before `until_hour` (UTC seconds, cut down to a whole hour) and the UTC days that end
        with them, and move the watermark. Call `closed` once the transaction is committed. Returns the hourly rows
        written; hours that are closed are left alone, but that as many rows go of those that started before
        `let_go_before` and are in daily rows. Without `expected_of` the database's own eras tell."""
        until_hour = hour_of(until_hour)
        if until_hour <= self.rolled_until:
            return 0
        expected = expected_of or await _expected_by_eras(connection)
        hours = [hour for hour in sorted(self._hours) if hour < until_hour]
        let_go_before = min(let_go_before, day_of(self.rolled_until))
        written = 0
        for hour in hours:
            written += await _write_hour(connection, names, hour, self._hours[hour], expected, let_go_before)
        await note_spent(connection, {hour: self._hours[hour].spent for hour in hours}, self.rolled_until, until_hour)
        # The day that was under way at the last watermark may end without an observation in its last hours.
        days = {day_of(hour) for hour in hours} | {day_of(self.rolled_until)}
        for day in sorted(days):
            if day + DAY <= until_hour:
                await _close_day(connection, day, expected)
        await write_fact(connection, ROLLED_UNTIL, str(until_hour))
        return written


async def _write_hour(
    connection: AsyncConnection,
    names: Names,
    hour: int,
    observed: OpenHour,
    expected: ExpectedOf,
    let_go_before: float,
) -> int:
    places = observed.places()
    endpoint_ids = await names.endpoints(connection, {place[0] for place in places})
    location_ids = await names.locations(connection, {place[1] for place in places})
    kind_ids = await names.kinds(connection, {place[2] for place in places})
    written = 0
    for share in observed.rolled():
        batch = [
            {
                "hour": hour,
                "endpoint_id": endpoint_ids[endpoint],
                "location_id": location_ids[location],
                "kind_id": kind_ids[kind],
                "expected": expected(endpoint, location, kind, hour, hour + HOUR),
                **columns,
            }
            for (endpoint, location, kind), columns in share
        ]
        written += len(batch)
        await asyncio.sleep(0)
        await _make_room(connection, let_go_before, len(batch))
        await connection.execute(insert(schema.hourly_rollups), batch)
    return written


async def _make_room(connection: AsyncConnection, let_go_before: float, rows: int) -> None:
    """SQLite's log has each page once that a transaction empties and fills again; emptied alone it costs as much."""
    if let_go_before > 0:
        table = schema.hourly_rollups
        oldest = select(table.c.id).where(table.c.hour < let_go_before).order_by(table.c.hour).limit(rows)
        await connection.execute(delete(table).where(table.c.id.in_(oldest)))


async def _close_day(connection: AsyncConnection, day: int, expected: ExpectedOf) -> None:
    endpoint_names = await names_by_id(connection, schema.endpoints)
    location_names = await names_by_id(connection, schema.locations)
    kind_names = await names_by_id(connection, schema.kinds)
    hourly = schema.hourly_rollups
    hours = [day + HOUR * number for number in range(24)]
    ids = sorted(endpoint_names)
    for start in range(0, len(ids), _ENDPOINTS_A_READ):
        chunk = ids[start : start + _ENDPOINTS_A_READ]
        found: dict[tuple[int, int, int], list[Row[Any]]] = {}
        for row in await connection.execute(
            select(hourly).where(hourly.c.hour.in_(hours), hourly.c.endpoint_id.between(chunk[0], chunk[-1]))
        ):
            found.setdefault((row.endpoint_id, row.location_id, row.kind_id), []).append(row)
        batch = []
        for number, ((endpoint_id, location_id, kind_id), rows) in enumerate(found.items(), 1):
            place = endpoint_names[endpoint_id], location_names[location_id], kind_names[kind_id]
            slots = expected(*place, day, day + DAY)
            batch.append(
                {
                    "day": day,
                    "endpoint_id": endpoint_id,
                    "location_id": location_id,
                    "kind_id": kind_id,
                    "expected": slots,
                    **_merged_columns(rows),
                }
            )
            if number % _DAYS_A_TURN == 0:
                await asyncio.sleep(0)
        if batch:
            await connection.execute(insert(schema.daily_rollups), batch)


def _merged_columns(rows: Sequence[Row[Any]]) -> dict[str, int | str | bytes | None]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(counts_decoder.decode(row.counts))
    merged: dict[str, int | str | bytes | None] = {
        "counts": msgspec.json.encode(dict(sorted(counts.items()))).decode(),
        "answers_asked": sum(row.answers_asked for row in rows),
        "answers_ok": sum(row.answers_ok for row in rows),
        "output_tokens": sum(row.output_tokens for row in rows),
        "cost_pusd": sum(row.cost_pusd for row in rows),
        "meter": _merged_meter([row.meter for row in rows if row.meter is not None]),
    }
    for figure in FIGURES:
        _, bins, samples = decode_many([getattr(row, figure) for row in rows])
        sketch: Counter[int] = Counter()
        for bin_, count in zip(bins.tolist(), samples.tolist(), strict=True):
            sketch[bin_] += count
        merged[figure] = encode(sketch)
    return merged


def _merged_meter(meters: Sequence[str]) -> str | None:
    if not meters:
        return None
    whole = Meter()
    for meter in meters:
        whole.merge(Meter.decoded(meter))
    return whole.encoded()


async def merge_late(
    connection: AsyncConnection, names: Names, observations: Sequence[Observation], rolled_until: int
) -> None:
    """Add observations whose hour is closed (`HourBook.is_late`) to their hourly rows, and to their daily rows where
    the day is closed too. Must share the transaction that inserts them."""
    endpoint_ids = await names.endpoints(connection, {observation.endpoint for observation in observations})
    location_ids = await names.locations(connection, {observation.location for observation in observations})
    kind_ids = await names.kinds(connection, {observation.kind for observation in observations})
    hours: dict[tuple[int, int, int, int], Tally] = {}
    days: dict[tuple[int, int, int, int], Tally] = {}
    await add_spent(connection, spent_by_hour(observations))
    for observation in observations:
        if observation.recheck:
            continue
        place = endpoint_ids[observation.endpoint], location_ids[observation.location], kind_ids[observation.kind]
        hours.setdefault((hour_of(observation.started_at), *place), Tally()).add(observation)
        day = day_of(observation.started_at)
        if day + DAY <= rolled_until:
            days.setdefault((day, *place), Tally()).add(observation)
    if hours:
        await note_rollup_change(connection)
    await _merge_into(connection, schema.hourly_rollups, "hour", HOUR, hours)
    await _merge_into(connection, schema.daily_rollups, "day", DAY, days)


async def _merge_into(
    connection: AsyncConnection,
    table: Table,
    bucket: str,
    width: int,
    tallies: Mapping[tuple[int, int, int, int], Tally],
) -> None:
    for (start, endpoint_id, location_id, kind_id), tally in tallies.items():
        key = {bucket: start, "endpoint_id": endpoint_id, "location_id": location_id, "kind_id": kind_id}
        here = [table.c[name] == value for name, value in key.items()]
        row = (await connection.execute(select(table).where(*here))).one_or_none()
        if row is None:
            eras = await read_eras(connection, endpoint_id, location_id)
            kind_eras = await read_kind_eras(connection, endpoint_id, location_id, kind_id)
            expected = sum(expected_slots(found, start, start + width) for found in (*(kind_eras or eras).values(),))
            await connection.execute(insert(table).values(**key, expected=expected, **tally_columns(tally)))
        else:
            tally.merge(tally_of_columns(row))
            await connection.execute(update(table).where(table.c.id == row.id).values(**tally_columns(tally)))


async def _expected_by_eras(connection: AsyncConnection) -> ExpectedOf:
    eras, kind_eras = await read_eras(connection), await read_kind_eras(connection)

    def expected(endpoint: str, location: str, kind: str, start: float, end: float) -> int:
        own = kind_eras.get((endpoint, location, kind))
        return expected_slots(eras.get((endpoint, location), ()) if own is None else own, start, end)

    return expected
