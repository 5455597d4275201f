"""What a restart asks of the past: who was probed, at what cost, and who answered last. From rollups where hours are
closed, since a day of raw rows may be gigabytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from monitor.observation import CHAT
from monitor.outcome import OUTCOME_CODES, OUTCOMES, Group, Outcome, group_of
from monitor.slot import Era
from monitor.storage import schema
from monitor.storage.codec import DAY, HOUR, counts_decoder, hour_of, micros
from monitor.storage.facts import read_rolled_until, read_skew
from monitor.storage.names import Place
from monitor.storage.reading import Reader, oldest_due, started_us
from monitor.storage.schema import MILLION, PICO
from monitor.storage.spending import read_spent

_ALIVE = [OUTCOME_CODES[outcome] for outcome in Outcome if group_of(outcome) is Group.OK]
_ALIVE_NAMES = [outcome.value for outcome in Outcome if group_of(outcome) is Group.OK]

_raw = schema.raw_observations.c
_hourly = schema.hourly_rollups.c
# So many endpoints' successes of one hour are looked up one by one; those of more are found in one go through the hour.
_FEW = 50
_MOST_SLOTS = 400
_KEYS_A_READ = 500


@dataclass(slots=True)
class RecentLane:
    """Probes of one kind of an endpoint: what they cost, and when they were due, in UTC seconds: the last that
    succeeded, the last whose failure was the provider's, the last that our account was refused; -inf for none."""

    cost_pusd: int = 0
    priced: int = 0  # so many had a price
    succeeded_at: float = float("-inf")
    failed_at: float = float("-inf")
    refused_at: float = float("-inf")

    @property
    def mean_cost_usd(self) -> float | None:
        return self.cost_pusd / PICO / self.priced if self.priced else None

    @property
    def is_well(self) -> bool:
        return self.succeeded_at > max(self.failed_at, self.refused_at)

    @property
    def is_refused(self) -> bool:
        return self.refused_at > self.succeeded_at

    def add(self, group: Group, due_at: float, cost_pusd: int, priced: int) -> None:
        self.cost_pusd += cost_pusd
        self.priced += priced
        if group is Group.OK:
            self.succeeded_at = max(self.succeeded_at, due_at)
        elif group is Group.PROVIDER_FAULT:
            self.failed_at = max(self.failed_at, due_at)
        elif group is Group.ACCOUNT:
            self.refused_at = max(self.refused_at, due_at)


class ResumeReads(Reader):
    async def recent_lanes(self, since: float, location: str) -> dict[tuple[str, str], RecentLane]:
        """By (endpoint, kind), what was due at `since` or later at a location, rechecks too. One walk for all of it: it
        is through a million rows."""
        await self._database.settle()
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, None, None, None, location)
            if conditions is None:
                return {}
            key = (_raw.endpoint_id, _raw.kind_id, _raw.outcome)
            query = (
                select(*key, func.max(_raw.due_ms), func.sum(_raw.cost_pusd), func.count(_raw.cost_pusd))
                .where(_raw.due_ms >= round(since * 1000), *conditions)
                .group_by(*key)
            )
            rows = (await connection.execute(query)).all()
            await self._know_all(connection)
        found: dict[tuple[str, str], RecentLane] = {}
        for endpoint, kind, outcome, due_ms, cost_pusd, priced in rows:
            lane = found.setdefault((self._endpoints[endpoint], self._kinds[kind]), RecentLane())
            lane.add(group_of(OUTCOMES[outcome]), due_ms / 1000, int(cost_pusd or 0), priced)
        return found

    async def spent_since(self, at: float, location: str | None = None) -> float:
        """USD that probes, rechecks too, have cost which started or were due at `at` or later. Slots go by a clock that
        may be ahead of the wall, and what is spent on its day is spent."""
        await self._database.settle()
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, None, None, None, location)
            if conditions is None:
                return 0.0
            skew_ms = (await read_skew(connection)).ms + 1
            rolled_until = await read_rolled_until(connection)
            spent = await read_spent(connection)
        at_us = micros(at)
        known = [hour for hour in sorted(spent) if at <= hour < rolled_until]
        total = sum(usd for hour in known for where, usd in spent[hour].items() if location in (None, where))
        edges = [at_us, *(edge * MILLION for hour in known for edge in (hour, hour + HOUR))]
        spans: list[tuple[int, int | None]] = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if a < b]
        spans.append((edges[-1], None))
        for start_us, end_us in spans:
            due = [_raw.due_ms >= start_us // 1000 - skew_ms, started_us >= start_us]
            if end_us is not None:
                due += [_raw.due_ms <= end_us // 1000 + skew_ms, started_us < end_us]
            total += await self._cost(*conditions, *due)
        before = (_raw.due_ms >= round(at * 1000), _raw.due_ms <= round(at * 1000) + skew_ms, started_us < at_us)
        return (total + await self._cost(*conditions, *before)) / PICO

    async def _cost(self, *conditions: Any) -> int:
        async with self._database.read() as connection:
            found = (await connection.execute(select(func.sum(_raw.cost_pusd)).where(*conditions))).scalar()
        return int(found or 0)

    async def last_due_at(self, location: str) -> float | None:
        """When the last recorded slot of a location was due; None if there is none."""
        await self._database.settle()
        async with self._database.read() as connection:
            conditions = await self._conditions(connection, None, None, None, location)
            if conditions is None:
                return None
            query = select(_raw.due_ms).where(_raw.recheck == 0, *conditions).order_by(_raw.due_ms.desc()).limit(1)
            due_ms = (await connection.execute(query)).scalar()
            return None if due_ms is None else due_ms / 1000

    async def last_probes(self, since: float) -> dict[Place, float]:
        """When the last scheduled probe of each (endpoint, location, kind) was due, of those that had one in the hour
        of `since` or later. Of chat the hour alone, where that is closed."""
        since_hour = hour_of(since)
        key = (_hourly.endpoint_id, _hourly.location_id, _hourly.kind_id)
        await self._database.settle()
        async with self._database.read() as connection:
            await self._know_all(connection)
            rolled_until = await read_rolled_until(connection)
            skew_ms = (await read_skew(connection)).ms + 1
            rows = (
                await connection.execute(
                    select(*key, func.max(_hourly.hour).label("hour")).where(_hourly.hour >= since_hour).group_by(*key)
                )
            ).all()
            await self._know(connection, rows)
        last: dict[Place, float] = {self._place(row): float(row.hour) for row in rows}
        others = {row.hour for row in rows if self._kinds[row.kind_id] != CHAT}
        chat = next((id_ for id_, name in self._kinds.items() if name == CHAT), None)
        open_since = round(max(since, rolled_until) * 1000) - (skew_ms if rolled_until else 0)
        spans: list[tuple[int, int | None, bool]] = [
            (hour * 1000 - skew_ms, (hour + HOUR) * 1000 + skew_ms, True) for hour in sorted(others)
        ]
        for first_ms, last_ms, without_chat in [*spans, (open_since, None, False)]:
            conditions = [_raw.due_ms >= max(first_ms, round(since * 1000)), _raw.recheck == 0]
            if last_ms is not None:
                conditions.append(_raw.due_ms <= last_ms)
            if without_chat:
                conditions.append(_raw.kind_id != chat)
            last |= await self._last_due(conditions)
        return last

    async def _last_due(self, conditions: Sequence[Any]) -> dict[Place, float]:
        places = (_raw.endpoint_id, _raw.location_id, _raw.kind_id)
        query = select(*places, func.max(_raw.due_ms).label("due_ms")).where(*conditions).group_by(*places)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
            await self._know(connection, rows)
        return {self._place(row): row.due_ms / 1000 for row in rows}

    async def exact_successes(
        self, buckets: Mapping[Place, tuple[int, int]], eras: Mapping[Place, Sequence[Era]]
    ) -> dict[Place, float]:
        """When each place last answered, of which it is known that it did in the bucket that starts then and is so many
        seconds wide: to the microsecond where raw rows are still kept, else the start of its hour or day. `eras` tell
        where in an hour to look."""
        await self._database.settle()
        async with self._database.read() as connection:
            await self._know_all(connection)
            skew_ms = (await read_skew(connection)).ms + 1
            oldest_ms = (await connection.execute(oldest_due)).scalar()
        last = {place: float(start) for place, (start, _) in buckets.items()}
        hours = {place: start for place, (start, width) in buckets.items() if width == HOUR}
        hours |= await self._hours_of({place: start for place, (start, width) in buckets.items() if width == DAY})
        last |= {place: float(hour) for place, hour in hours.items()}
        by_hour: dict[int, list[Place]] = {}
        for place, hour in hours.items():
            if oldest_ms is not None and (hour + HOUR) * 1000 + skew_ms > oldest_ms:
                by_hour.setdefault(hour, []).append(place)
        for hour, places in sorted(by_hour.items()):
            unfound = places
            if len(places) <= _FEW:
                found = [(place, await self._success_in_slot(place, hour, eras.get(place, ()))) for place in places]
                last |= {place: at for place, at in found if at is not None}
                unfound = [place for place, at in found if at is None]
            if unfound:
                within = await self._successes_within(hour, skew_ms)
                last |= {place: within[place] for place in unfound if place in within}
        return last

    async def _hours_of(self, days: Mapping[Place, int]) -> dict[Place, int]:
        """The last hour of its day in which each place answered, where hours are still kept."""
        found: dict[Place, int] = {}
        ids = {name: id_ for id_, name in self._endpoints.items()}
        for day in sorted(set(days.values())):
            endpoint_ids = sorted({ids[place[0]] for place, its in days.items() if its == day})
            for start in range(0, len(endpoint_ids), _KEYS_A_READ):
                key = (_hourly.endpoint_id, _hourly.location_id, _hourly.kind_id)
                query = (
                    select(*key, _hourly.hour, _hourly.counts)
                    .where(
                        _hourly.hour.in_(range(day, day + DAY, HOUR)),
                        _hourly.endpoint_id.in_(endpoint_ids[start : start + _KEYS_A_READ]),
                    )
                    .order_by(_hourly.hour)
                )
                async with self._database.read() as connection:
                    rows = (await connection.execute(query)).all()
                for row in rows:
                    place = self._place(row)
                    if days.get(place) == day and any(map(counts_decoder.decode(row.counts).get, _ALIVE_NAMES)):
                        found[place] = row.hour
        return found

    async def _success_in_slot(self, place: Place, hour: int, eras: Sequence[Era]) -> float | None:
        """By the times at which slots fell due, which are the front of the key; None if that finds none."""
        due = [
            round(era.cadence.due_at(slot) * 1000)
            for era in eras
            if era.since < hour + HOUR and (era.until is None or era.until > hour - HOUR)
            for slot in range(era.cadence.slot_at(hour - 1.0), era.cadence.slot_at(hour + HOUR) + 1)[:_MOST_SLOTS]
        ]
        async with self._database.read() as connection:
            places = await self._place_ids(connection, *place)
            if not due or places is None:
                return None
            query = select(func.max(started_us)).where(
                _raw.due_ms.in_(due),
                *(_raw[f"{name}_id"] == id_ for name, id_ in places.items()),
                _raw.outcome.in_(_ALIVE),
                started_us >= hour * MILLION,
                started_us < (hour + HOUR) * MILLION,
            )
            found = (await connection.execute(query)).scalar()
        return None if found is None else found / MILLION

    async def _successes_within(self, hour: int, skew_ms: int) -> dict[Place, float]:
        query = (
            select(_raw.endpoint_id, _raw.location_id, _raw.kind_id, func.max(started_us).label("at_us"))
            .where(
                _raw.due_ms >= hour * 1000 - skew_ms,
                _raw.due_ms <= (hour + HOUR) * 1000 + skew_ms,
                started_us >= hour * MILLION,
                started_us < (hour + HOUR) * MILLION,
                _raw.outcome.in_(_ALIVE),
            )
            .group_by(_raw.endpoint_id, _raw.location_id, _raw.kind_id)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
            await self._know(connection, rows)
        return {self._place(row): row.at_us / MILLION for row in rows}
