"""The whole picture: rows that other monitors have committed, each exactly once, by the transactions that wrote them.

A row carries the number of its transaction. What is visible now and was not in the last look's snapshot is new,
whatever the order in which transactions began and ended, and however late its slot. All of it happens in the writer's
task, between two commits of our own, and each look is of one view of the database.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import aclosing
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

_ROWS_A_READ = 100  # some 2 ms of decoding, and as much of taking in
# Rows of ours on the spill that are shown already, by key; beyond, they are forgotten and the windows renewed instead.
_SHOWN_KEPT = 200_000
_EVER_MS = 1 << 62

# What pg_visible_in_snapshot denies, told by the index: asked row by row, an hour's rows would be looked at each second
# while a transaction is open for an hour, in any database of the server. As text, since asyncpg has types of its own.
_NEW = text(
    "(raw_observations.written_xid >= CAST(CAST(:newest AS text) AS xid8) "
    "OR raw_observations.written_xid = ANY(CAST(CAST(:open AS text) AS xid8[])))"
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

    @property
    def open(self) -> str:
        """The numbers of those that were not over, by commas."""
        return self.snapshot.split(":")[2]


class _NewRows(RawReads):
    """Reads of one view; of rows that are known by their key, nothing is decoded."""

    async def moment(self) -> Moment:
        async with self._database.read() as connection:
            return await moment_of(connection)

    async def written_since(self, seen: Moment, counted: set[ObservationKey]) -> AsyncGenerator[list[Observation]]:
        """What is visible now and was not at `seen`, without rows whose key is in `counted`; by due time."""
        async with self._database.read() as connection:
            rows = await connection.stream(self._written_since(seen))
            async for part in rows.partitions(_ROWS_A_READ):
                await self._know(connection, part)
                found = [row for row in part if self._key_of(row) not in counted]
                if found:
                    yield await self._decoded(connection, found)

    def _written_since(self, seen: Moment) -> Select[Any]:
        is_new = _NEW.bindparams(newest=str(seen.newest), open=f"{{{seen.open}}}")
        return self._page(-_EVER_MS, _EVER_MS, None, False, _EVER_MS).where(is_new)

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
        self._generation = 0  # at the last look
        # Since the last whole look: committed by us, or taken in by one that failed then.
        self._counted: set[ObservationKey] = set()
        self._shown: set[ObservationKey] = set()

    @property
    def has_begun(self) -> bool:
        return self._seen is not None

    def note_own(self, rows: Sequence[Observation]) -> None:
        """What we have just committed."""
        self._counted.update(one.key for one in rows)
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
        self._generation = moment.generation
        self._counted.clear()

    async def catch_up(self, *, is_patient: bool = False) -> None:
        """Take in what others have committed up to this view. Patient, a history that is being rewritten is read anew
        once nobody has gone on with that since the last look: it is rewritten in many small steps."""
        seen = self._seen
        if seen is None:
            return
        moment = await self._rows.moment()
        await self._writer.look_up_doubts()  # else rows of ours would be taken for others', and reported later too
        self._writer.hours.closed(moment.rolled_until)
        # Others may have gone on without us for hours: taken in as it is read, it need not fit into memory.
        async with aclosing(self._rows.written_since(seen, self._counted)) as found:
            async for rows in found:
                self._count(rows)
                await self._clock.sleep(0)
        goes_on, self._generation = moment.generation != self._generation, moment.generation
        if is_patient and goes_on and moment.newest >= seen.newest:
            moment = moment._replace(generation=seen.generation)
        elif moment.generation != seen.generation or moment.newest < seen.newest:
            # A server that was restored, or failed over to a copy that lagged, counts its transactions anew.
            log.warning("history_rewritten generation=%d transactions_until=%d", moment.generation, moment.newest)
            await self._writer.reread(moment.rolled_until)
            self._writer.forget_tail()  # the windows read for themselves
            self.must_renew = True
        self._seen = moment
        self._counted.clear()

    def _count(self, rows: Sequence[Observation]) -> None:
        self._writer.hours.add(rows)
        try:
            self._take_in(rows, self._shown)
        except Exception:
            log.exception("take_in failed rows=%d", len(rows))
        self._counted.update(one.key for one in rows)
        self._metrics.observations_followed.inc(len(rows))
