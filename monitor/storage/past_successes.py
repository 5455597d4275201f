"""Whether an endpoint had worked before some moment of the past, as far as the database still tells.

Closed hours and days say it by their counts; where the moment lies within one, or two targets do, and in the hours that
are still open, the raw rows say it. See `health.vouching`, which says the same of now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, select

from monitor.health.vouching import WORKED_SECONDS
from monitor.outcome import OUTCOME_CODES, Group, Outcome, group_of
from monitor.slot import Era, target_at, targets_within
from monitor.storage import schema
from monitor.storage.codec import DAY, HOUR, counts_decoder, day_of, hour_of
from monitor.storage.database import Database
from monitor.storage.facts import read_rolled_until, read_skew
from monitor.storage.names import names_by_id
from monitor.storage.schema import MILLION

_ALIVE = frozenset(outcome for outcome in Outcome if group_of(outcome) is Group.OK)
_ALIVE_CODES = [OUTCOME_CODES[outcome] for outcome in _ALIVE]
_BUCKETS_A_READ = 48

Eras = Mapping[tuple[str, str], Sequence[Era]]  # (endpoint, location) -> oldest first


class _Bucket(msgspec.Struct, frozen=True, gc=False):
    """A closed hour or day in which an endpoint succeeded, as seen from `location`."""

    start: int
    end: int
    location: str


class PastSuccesses:
    """Reads what it needs of an endpoint when first asked of it, and will be asked of nothing before `since` (UTC
    seconds). `targets_now` are the configured targets, which hold where no era tells. Only the kind of probe vouches
    that decides of the endpoint, as in `health.vouching`: `kind_of` takes its id."""

    def __init__(
        self,
        database: Database,
        eras: Eras,
        targets_now: Mapping[str, str],
        since: float,
        kind_of: Callable[[str], str],
    ) -> None:
        self._database = database
        self._eras = eras
        self._targets_now = targets_now
        self._since = since
        self._buckets: dict[str, list[_Bucket]] = {}
        self._raw: dict[tuple[str, int], list[tuple[float, str]]] = {}  # endpoint, hour -> successes there
        self._rolled_until = 0
        self._skew_ms = 0
        self._locations: Mapping[int, str] = {}
        self._ids: dict[str, int] = {}
        self._kind_of = kind_of
        self._kind_ids: dict[str, int] = {}  # endpoint -> the kind's

    def target_at(self, endpoint: str, location: str, at: float) -> str | None:
        """What was probed at `at`; None if nobody knows any more."""
        return target_at(self._eras.get((endpoint, location), ()), at) or self._targets_now.get(endpoint)

    async def worked_before(self, endpoint: str, location: str, at: float) -> bool:
        """Whether a probe of what `endpoint` was at `at` had succeeded within 30 days before, from anywhere."""
        target = self.target_at(endpoint, location, at)
        if endpoint not in self._buckets:
            await self._read(endpoint)
        earliest = at - WORKED_SECONDS
        open_hours = range(max(self._rolled_until, hour_of(earliest)), hour_of(at) + HOUR, HOUR)
        to_look_into: list[int] = [*open_hours]
        for bucket in self._buckets[endpoint]:
            if bucket.end <= earliest or bucket.start >= at:
                continue
            within = targets_within(self._eras.get((endpoint, bucket.location), ()), bucket.start, bucket.end)
            if bucket.end <= at and len(within) <= 1:
                if self.target_at(endpoint, bucket.location, bucket.end - 1) == target:
                    return True
            else:
                to_look_into += range(bucket.start, bucket.end, HOUR)
        for hour in sorted(set(to_look_into), reverse=True):
            for started_at, seen_from in await self._successes(endpoint, hour):
                if earliest <= started_at < at and self.target_at(endpoint, seen_from, started_at) == target:
                    return True
        return False

    async def _read(self, endpoint: str) -> None:
        found: list[_Bucket] = []
        async with self._database.read() as connection:
            self._rolled_until = await read_rolled_until(connection)
            self._skew_ms = (await read_skew(connection)).ms + 1
            self._locations = await names_by_id(connection, schema.locations)
            kinds = await names_by_id(connection, schema.kinds)
            its_kind = self._kind_of(endpoint)
            self._kind_ids[endpoint] = next((id_ for id_, name in kinds.items() if name == its_kind), -1)
            query = select(schema.endpoints.c.id).where(schema.endpoints.c.name == endpoint)
            self._ids[endpoint] = (await connection.execute(query)).scalar_one()
        earliest = self._since - WORKED_SECONDS
        found += await self._alive(endpoint, schema.hourly_rollups, HOUR, hour_of(earliest))
        # Where hours are gone before thirty days are over.
        oldest = min((bucket.start for bucket in found), default=self._rolled_until)
        days = await self._alive(endpoint, schema.daily_rollups, DAY, day_of(earliest))
        self._buckets[endpoint] = found + [day for day in days if day.end <= oldest]

    async def _alive(self, endpoint: str, table: Table, width: int, first: int) -> list[_Bucket]:
        bucket = table.c["hour" if width == HOUR else "day"]
        found: list[_Bucket] = []
        # An endpoint's buckets lie far apart in the index: they are looked up one by one, some in each query.
        for start in range(first, self._rolled_until, width * _BUCKETS_A_READ):
            starts = range(start, min(start + width * _BUCKETS_A_READ, self._rolled_until), width)
            query = select(bucket.label("start"), table.c.location_id, table.c.counts).where(
                bucket.in_(starts),
                table.c.endpoint_id == self._ids[endpoint],
                table.c.kind_id == self._kind_ids[endpoint],
            )
            async with self._database.read() as connection:
                rows = (await connection.execute(query)).all()
            found += [
                _Bucket(row.start, row.start + width, self._locations[row.location_id])
                for row in rows
                if not _ALIVE.isdisjoint(counts_decoder.decode(row.counts))
            ]
        return found

    async def _successes(self, endpoint: str, hour: int) -> list[tuple[float, str]]:
        """(started_at, location) of the raw rows of an hour."""
        if (endpoint, hour) not in self._raw:
            raw: Any = schema.raw_observations.c
            started_us = raw.due_ms * 1000 + raw.delay_us
            query = select(started_us.label("at_us"), raw.location_id).where(
                raw.due_ms >= hour * 1000 - self._skew_ms,
                raw.due_ms <= (hour + HOUR) * 1000 + self._skew_ms,
                raw.endpoint_id == self._ids[endpoint],
                raw.kind_id == self._kind_ids[endpoint],
                raw.outcome.in_(_ALIVE_CODES),
                started_us >= hour * MILLION,
                started_us < (hour + HOUR) * MILLION,
            )
            async with self._database.read() as connection:
                rows = (await connection.execute(query)).all()
            self._raw[endpoint, hour] = [(row.at_us / MILLION, self._locations[row.location_id]) for row in rows]
        return self._raw[endpoint, hour]
