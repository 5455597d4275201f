"""Rollups: the book of hours that are still open, closing hours and days, and rows that come late.

The watermark `rolled_until` divides them: a scheduled observation that started before it is in hourly_rollups (and in
daily_rollups, if its UTC day lies before it too); one that started later is only in raw rows and in the book.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

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
from monitor.storage.facts import ROLLED_UNTIL, write_fact
from monitor.storage.names import Names, Place, names_by_id

# endpoint, location, kind, start, end (UTC seconds) -> slots that fell due
ExpectedOf = Callable[[str, str, str, float, float], int]

# How long after its end an hour is closed: the longest probe (timeout 60 s, held back up to 5 s) that began in its last
# moment has come in by then. One that comes later still is merged as a late row.
CLOSE_AFTER_SECONDS = 120.0

_ROWS_A_TURN = 20  # rollup rows between two turns of the event loop: some 5 ms
_ENDPOINTS_A_READ = 20  # endpoints whose day is merged at once: 480 hourly rows


class HourBook:
    """Tallies of committed scheduled observations, by hour and place, of the hours from `rolled_until` on."""

    def __init__(self, rolled_until: int = 0) -> None:
        self.rolled_until = rolled_until
        self._hours: dict[int, dict[Place, Tally]] = {}

    def is_late(self, observation: Observation) -> bool:
        """Whether its hour is closed already, so that it belongs into the rollups at once."""
        return observation.recheck == 0 and observation.started_at < self.rolled_until

    def add(self, observations: Iterable[Observation]) -> None:
        """Count what was just committed; late rows and rechecks are passed over."""
        for observation in observations:
            if observation.recheck == 0 and (hour := hour_of(observation.started_at)) >= self.rolled_until:
                place = (observation.endpoint, observation.location, observation.kind)
                tallies = self._hours.get(hour)
                if tallies is None:
                    tallies = self._hours[hour] = {}
                tally = tallies.get(place)
                if tally is None:
                    tally = tallies[place] = Tally()
                tally.add(observation)

    def move(self, observation: Observation, outcome: Outcome) -> None:
        """A row that was counted has got another class; one whose hour is closed is passed over."""
        if observation.recheck == 0 and observation.started_at >= self.rolled_until:
            place = (observation.endpoint, observation.location, observation.kind)
            tally = self._hours.get(hour_of(observation.started_at), {}).get(place)
            if tally is not None:
                tally.outcomes.update({outcome: 1, observation.outcome: -1})

    async def rebuild(self, rolled_until: int, tail: AsyncIterator[Sequence[Observation]]) -> None:
        """Start again from the database's watermark and the raw rows from there on."""
        self.rolled_until = rolled_until
        self._hours.clear()
        async for rows in tail:
            self.add(rows)

    def rows(self, before: int | None = None) -> Iterator[tuple[int, Place, Tally]]:
        """(hour, place, tally) of every open hour, or of those that start before `before`, in order of time."""
        for hour in sorted(self._hours):
            if before is None or hour < before:
                for place, tally in self._hours[hour].items():
                    yield hour, place, tally

    def closed(self, until_hour: int) -> None:
        """The transaction that closed the hours before `until_hour` was committed."""
        self.rolled_until = max(self.rolled_until, until_hour)
        for hour in [hour for hour in self._hours if hour < self.rolled_until]:
            del self._hours[hour]

    async def close_hours(
        self, connection: AsyncConnection, names: Names, until_hour: int, expected_of: ExpectedOf | None = None
    ) -> int:
        """Write the open hours before `until_hour` (UTC seconds, cut down to a whole hour) and the UTC days that end
        with them, and move the watermark. Call `closed` once the transaction is committed. Returns the hourly rows
        written; hours that are closed are left alone. Without `expected_of` the database's own eras tell."""
        until_hour = hour_of(until_hour)
        if until_hour <= self.rolled_until:
            return 0
        expected = expected_of or await _expected_by_eras(connection)
        open_rows = list(self.rows(before=until_hour))
        endpoint_ids = await names.endpoints(connection, {place[0] for _, place, _ in open_rows})
        location_ids = await names.locations(connection, {place[1] for _, place, _ in open_rows})
        kind_ids = await names.kinds(connection, {place[2] for _, place, _ in open_rows})
        batch: list[dict[str, Any]] = []
        for number, (hour, (endpoint, location, kind), tally) in enumerate(open_rows, 1):
            batch.append(
                {
                    "hour": hour,
                    "endpoint_id": endpoint_ids[endpoint],
                    "location_id": location_ids[location],
                    "kind_id": kind_ids[kind],
                    "expected": expected(endpoint, location, kind, hour, hour + HOUR),
                    **tally_columns(tally),
                }
            )
            if number % _ROWS_A_TURN == 0 or number == len(open_rows):
                await connection.execute(insert(schema.hourly_rollups), batch)
                batch = []
                await asyncio.sleep(0)
        # The day that was under way at the last watermark may end without an observation in its last hours.
        days = {day_of(hour) for hour, _, _ in open_rows} | {day_of(self.rolled_until)}
        for day in sorted(days):
            if day + DAY <= until_hour:
                await _close_day(connection, day, expected)
        await write_fact(connection, ROLLED_UNTIL, str(until_hour))
        return len(open_rows)


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
            if number % _ROWS_A_TURN == 0:
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
    for observation in observations:
        place = endpoint_ids[observation.endpoint], location_ids[observation.location], kind_ids[observation.kind]
        hours.setdefault((hour_of(observation.started_at), *place), Tally()).add(observation)
        day = day_of(observation.started_at)
        if day + DAY <= rolled_until:
            days.setdefault((day, *place), Tally()).add(observation)
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
