"""Judging stored observations again, and moving the rollups' counts with them.

Read in short transactions, then written in slices, each with the rollups that it touches in one transaction: whatever
ends it, a slice is old or new as a whole, and the next run finds what is left. A count moves from one class to another
and no sketch is touched, since no told error is part of one; so hours whose raw rows are partly gone stay right.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.catalog.model import Catalog
from monitor.catalog.target import target_of
from monitor.observation import CHAT, Observation
from monitor.outcome import OUTCOME_CODES, Outcome
from monitor.probing.dialects import DIALECTS
from monitor.probing.error_codes import GENERAL
from monitor.probing.rejudging import TOLD_OUTCOMES, judge_again
from monitor.storage import schema, turns
from monitor.storage.codec import DAY, counts_decoder, day_of, hour_of
from monitor.storage.database import Database, Job, T
from monitor.storage.facts import note_rollup_change, read_rolled_until
from monitor.storage.history import History
from monitor.storage.names import Names
from monitor.storage.past_successes import Eras, PastSuccesses
from monitor.storage.reading import oldest_due

ROWS_A_SLICE = 200  # some 50 ms of the writer's time
_PAUSE_SECONDS = 0.02  # between slices, for everybody else
_ROWS_A_TURN = 50  # judged between two turns of the event loop: some 3 ms
_VERDICTS_KEPT = 10_000

_raw = schema.raw_observations.c


class Submit(Protocol):
    """`Writer.submit` in a daemon; see `alone` for where there is no writer."""

    async def __call__(self, job: Job[T], after_commit: Callable[[T], None], /) -> T: ...


@dataclass(frozen=True, slots=True)
class Change:
    """An observation as it is stored, and the class that it gets."""

    observation: Observation
    outcome: Outcome


@dataclass(slots=True)
class Reclassified:
    """What a run came to. `oldest_at`: when the oldest raw row was due (UTC seconds), None if there is none."""

    oldest_at: float | None = None
    judged: int = 0
    changed: Counter[tuple[str, Outcome, Outcome]] = field(default_factory=Counter)  # endpoint, old, new

    def note(self, changes: Iterable[Change]) -> None:
        self.changed.update((one.observation.endpoint, one.observation.outcome, one.outcome) for one in changes)


def alone(database: Database) -> Submit:
    """For who has no writer: of a shared database, beside those that have."""

    async def submit(job: Job[T], after_commit: Callable[[T], None], /) -> T:
        result = await database.run(turns.rewriting(job) if database.is_shared else job)
        after_commit(result)
        return result

    return submit


async def reclassify(
    database: Database,
    submit: Submit,
    catalog: Catalog,
    since: float | None,
    *,
    is_dry: bool = False,
    on_changed: Callable[[Sequence[Change]], None] = lambda _changes: None,
) -> Reclassified:
    """Judge the told errors among the raw rows that started at `since` (UTC seconds) or later. `on_changed` is called
    right after each commit, before anything else is written. May be cancelled between any two slices."""
    history = History(database)
    await database.settle()
    async with database.read() as connection:
        oldest_ms = (await connection.execute(oldest_due)).scalar()
    if oldest_ms is None:
        return Reclassified()
    done = Reclassified(oldest_at=oldest_ms / 1000)
    judge = _Judge(database, await history.eras(), catalog, max(since or 0.0, done.oldest_at or 0.0))

    def applied(changes: Sequence[Change]) -> None:
        done.note(changes)
        on_changed(changes)

    async with aclosing(history.stream(since, outcomes=TOLD_OUTCOMES)) as told:
        async for rows in told:
            done.judged += len(rows)
            changes = await judge.changes(rows)
            if is_dry:
                done.note(changes)
                continue
            for start in range(0, len(changes), ROWS_A_SLICE):
                await submit(_writing(database.names, changes[start : start + ROWS_A_SLICE]), applied)
                await database.clock.sleep(_PAUSE_SECONDS)
    return done


def _writing(names: Names, changes: Sequence[Change]) -> Job[list[Change]]:
    return lambda connection: apply(connection, names, changes)


class _Judge:
    def __init__(self, database: Database, eras: Eras, catalog: Catalog, since: float) -> None:
        targets = {name: target_of(endpoint) for name, endpoint in catalog.endpoints.items()}
        endpoints = catalog.endpoints
        self._past = PastSuccesses(
            database, eras, targets, since, lambda name: endpoints[name].kind if name in endpoints else CHAT
        )
        self._verdicts: dict[tuple[object, ...], tuple[Outcome, Outcome]] = {}

    async def changes(self, rows: Sequence[Observation]) -> list[Change]:
        found: list[Change] = []
        for number, one in enumerate(rows, 1):
            if_worked, otherwise = self._verdict(one)
            outcome = if_worked
            if if_worked is not otherwise and not await self._past.worked_before(
                one.endpoint, one.location, one.started_at
            ):
                outcome = otherwise
            if outcome is not one.outcome:
                found.append(Change(one, outcome))
            if number % _ROWS_A_TURN == 0:
                await asyncio.sleep(0)
        return found

    def _verdict(self, one: Observation) -> tuple[Outcome, Outcome]:
        """The class if the endpoint worked before, and if it did not."""
        target = self._past.target_at(one.endpoint, one.location, one.started_at)
        name = None if target is None else target.split(" ", 1)[0]
        has_token = one.ttft_seconds is not None
        key = (name, one.outcome, one.http_status, one.error_code, one.told, one.finish_reason, has_token, one.detail)
        verdict = self._verdicts.get(key)
        if verdict is None:
            dialect = None if name is None else DIALECTS.get(name)
            codes, kinds = (GENERAL, {}) if dialect is None else (dialect.codes, dialect.finish_kinds)
            verdict = (judge_again(one, codes, kinds, lambda: True), judge_again(one, codes, kinds, lambda: False))
            if len(self._verdicts) >= _VERDICTS_KEPT:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict


async def apply(connection: AsyncConnection, names: Names, changes: Sequence[Change]) -> list[Change]:
    """Write those of `changes` whose rows still are what they were, and move the counts of their closed hours and
    days. In one transaction."""
    endpoint_ids = await names.endpoints(connection, {one.observation.endpoint for one in changes})
    location_ids = await names.locations(connection, {one.observation.location for one in changes})
    kind_ids = await names.kinds(connection, {one.observation.kind for one in changes})
    rolled_until = await read_rolled_until(connection)
    applied: list[Change] = []
    hours: dict[tuple[int, ...], Counter[Outcome]] = {}
    days: dict[tuple[int, ...], Counter[Outcome]] = {}
    for change in changes:
        one = change.observation
        place = endpoint_ids[one.endpoint], location_ids[one.location], kind_ids[one.kind]
        written = await connection.execute(
            update(schema.raw_observations)
            .where(
                _raw.due_ms == round(one.due_at * 1000),
                _raw.endpoint_id == place[0],
                _raw.location_id == place[1],
                _raw.kind_id == place[2],
                _raw.recheck == one.recheck,
                _raw.outcome == OUTCOME_CODES[one.outcome],
            )
            .values(outcome=OUTCOME_CODES[change.outcome])
        )
        if written.rowcount != 1:
            continue  # retention was quicker
        applied.append(change)
        if one.recheck or one.started_at >= rolled_until:
            continue
        moved = Counter({change.outcome: 1, one.outcome: -1})
        hours.setdefault((hour_of(one.started_at), *place), Counter()).update(moved)
        day = day_of(one.started_at)
        if day + DAY <= rolled_until:
            days.setdefault((day, *place), Counter()).update(moved)
    if hours:
        await note_rollup_change(connection)
    await _move_counts(connection, schema.hourly_rollups, "hour", hours)
    await _move_counts(connection, schema.daily_rollups, "day", days)
    return applied


async def _move_counts(
    connection: AsyncConnection, table: Table, bucket: str, moved: Mapping[tuple[int, ...], Counter[Outcome]]
) -> None:
    for (start, endpoint_id, location_id, kind_id), change in moved.items():
        row = (
            await connection.execute(
                select(table.c.id, table.c.counts).where(
                    table.c[bucket] == start,
                    table.c.endpoint_id == endpoint_id,
                    table.c.location_id == location_id,
                    table.c.kind_id == kind_id,
                )
            )
        ).one_or_none()
        if row is None:
            continue  # kept for less long than the raw rows
        counts = Counter(counts_decoder.decode(row.counts))
        counts.update({outcome.value: number for outcome, number in change.items()})
        left = {name: number for name, number in sorted(counts.items()) if number > 0}
        await connection.execute(
            update(table).where(table.c.id == row.id).values(counts=msgspec.json.encode(left).decode())
        )
