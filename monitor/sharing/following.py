"""The whole picture: rows that other monitors have committed, each exactly once, by the transactions that wrote them.

A row carries the number of its transaction. What is visible now and was not in the last look's snapshot is new,
whatever the order in which transactions began and ended, and however late its slot. All of it happens in the writer's
task, between two commits of our own, and each look is of one view of the database.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.clock import Clock
from monitor.observation import Observation, ObservationKey
from monitor.self_metrics import SelfMetrics
from monitor.storage import schema
from monitor.storage.database import Database
from monitor.storage.facts import HISTORY_GENERATION, ROLLED_UNTIL
from monitor.storage.raw_reads import RawReads
from monitor.storage.writer import Writer

log = logging.getLogger(__name__)

_ROWS_A_READ = 200  # some 4 ms of decoding
_ROWS_A_TURN = 100  # some 2 ms of taking in
# Rows of ours on the spill that are shown already, by key; beyond, they are forgotten and the windows renewed instead.
_SHOWN_KEPT = 200_000
_EVER_MS = 1 << 62

# asyncpg has types of its own for these: as text they are the server's alone.
_NEW = text(
    "raw_observations.written_xid >= pg_snapshot_xmin(CAST(CAST(:seen AS text) AS pg_snapshot)) "
    "AND NOT pg_visible_in_snapshot(raw_observations.written_xid, CAST(CAST(:seen AS text) AS pg_snapshot))"
)


class Moment(NamedTuple):
    """What a view of the database is of."""

    snapshot: str
    rolled_until: int  # UTC seconds
    generation: int  # counts rewritings of history

    @property
    def newest(self) -> int:
        """The first transaction number that was not given yet."""
        return int(self.snapshot.split(":")[1])


class _NewRows(RawReads):
    """Reads of one view; of rows that are known by their key, nothing is decoded."""

    async def moment(self) -> Moment:
        async with self._database.read() as connection:
            return await moment_of(connection)

    async def written_since(self, seen: str, own: set[ObservationKey]) -> AsyncIterator[list[Observation]]:
        """What is visible now and was not in the snapshot `seen`, but for rows whose key is in `own`; by due time."""
        async with self._database.read() as connection:
            rows = await connection.stream(self._written_since(seen))
            async for part in rows.partitions(_ROWS_A_READ):
                await self._know(connection, part)
                found = [row for row in part if self._key_of(row) not in own]
                if found:
                    yield await self._decoded(connection, found)

    def _written_since(self, seen: str) -> Select[Any]:
        return self._page(-_EVER_MS, _EVER_MS, None, False, _EVER_MS).where(_NEW.bindparams(seen=seen))

    def _key_of(self, row: Any) -> ObservationKey:
        return (*self._place(row), row.slot, row.recheck)


async def moment_of(connection: AsyncConnection) -> Moment:
    snapshot: str = (await connection.execute(text("SELECT CAST(pg_current_snapshot() AS text)"))).scalar_one()
    wanted = schema.meta.select().where(schema.meta.c.name.in_([ROLLED_UNTIL, HISTORY_GENERATION]))
    facts = {row.name: int(row.value) for row in await connection.execute(wanted)}
    return Moment(snapshot, facts.get(ROLLED_UNTIL, 0), facts.get(HISTORY_GENERATION, 0))


class Following:
    """`take_in(rows, shown)` gets rows of others in order of their due times; `shown` are the keys of those that the
    windows have already. Every method but `note_own` and `note_shown` belongs into a job of the writer's, and into
    `Database.one_view`."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        metrics: SelfMetrics,
        take_in: Callable[[Sequence[Observation], Container[ObservationKey]], None],
    ) -> None:
        self.must_renew = False  # history was written anew: the windows are to be restored
        self._writer = writer
        self._clock = clock
        self._metrics = metrics
        self._take_in = take_in
        self._rows = _NewRows(database)
        self._seen: Moment | None = None
        self._own: set[ObservationKey] = set()  # committed by us since the last look
        self._shown: set[ObservationKey] = set()

    @property
    def has_begun(self) -> bool:
        return self._seen is not None

    def note_own(self, rows: Sequence[Observation]) -> None:
        """What we have just committed."""
        self._own.update(one.key for one in rows)
        if self._shown:
            self._shown.difference_update(one.key for one in rows)

    def note_shown(self, rows: Sequence[Observation]) -> None:
        """What is on the spill, and in the windows already."""
        if len(self._shown) > _SHOWN_KEPT:
            self._shown.clear()
            self.must_renew = True
        self._shown.update(one.key for one in rows)

    async def begin(self) -> None:
        """Follow from this view on: what it has is read by others. The book of hours is rebuilt from it."""
        moment = await self._rows.moment()
        await self._writer.look_up_doubts()  # else what is reread now would be reported as well
        await self._writer.reread(moment.rolled_until)
        self._seen = moment
        self._own.clear()

    async def catch_up(self) -> None:
        """Take in what others have committed up to this view."""
        seen = self._seen
        if seen is None:
            return
        moment = await self._rows.moment()
        await self._writer.look_up_doubts()  # else rows of ours would be taken for others', and reported later too
        # All is read before any of it counts: a read that fails is made again from where it began.
        rows: list[Observation] = []
        async for part in self._rows.written_since(seen.snapshot, self._own):
            rows += part
        self._writer.hours.closed(moment.rolled_until)
        for start in range(0, len(rows), _ROWS_A_TURN):
            part = rows[start : start + _ROWS_A_TURN]
            self._writer.hours.add(part)
            try:
                self._take_in(part, self._shown)
            except Exception:
                log.exception("take_in failed rows=%d", len(part))  # read again, they would be counted again
            await self._clock.sleep(0)
        if moment.generation != seen.generation or moment.newest < seen.newest:
            # A server that was restored, or failed over to a copy that lagged, counts its transactions anew.
            log.warning("history_rewritten generation=%d transactions_until=%d", moment.generation, moment.newest)
            await self._writer.reread(moment.rolled_until)
            self._writer.tail = None  # the windows read for themselves
            self.must_renew = True
        self._seen = moment
        self._own.clear()
        self._metrics.observations_followed.inc(len(rows))
