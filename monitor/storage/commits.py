"""Rows into the database, and what became of each: told once, right after the commit that added it, however that ended.

A transaction that failed may have been committed all the same. Its rows are in doubt until the database was asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from monitor.clock import Clock
from monitor.observation import Observation
from monitor.self_metrics import SelfMetrics
from monitor.storage.batch import commit_batch
from monitor.storage.database import Database
from monitor.storage.doubts import Doubts
from monitor.storage.errors import is_conflict, is_outage
from monitor.storage.facts import Skew, read_rolled_until, read_skew
from monitor.storage.history import History
from monitor.storage.jobs import CONFLICTS_BORNE
from monitor.storage.rejects import Rejects
from monitor.storage.revision import Revision
from monitor.storage.rollups import HourBook
from monitor.storage.tail import TAIL_SECONDS, Tail, read_tail

log = logging.getLogger(__name__)

BATCH_ROWS = 1_000


class Commits:
    """`on_committed(rows, already_shown)` as in Writer; `on_known(rows)` with rows of ours that turned out to be in the
    database before. Belongs to the writer's task."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: SelfMetrics,
        rejects: Rejects,
        on_committed: Callable[[Sequence[Observation], bool], None],
        on_known: Callable[[Iterable[Observation]], None],
    ) -> None:
        self.hours = HourBook()
        self.tail: Tail | None = None  # what a start has read of raw rows, until it is restored from that
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._rejects = rejects
        self._on_committed = on_committed
        self._on_known = on_known
        self._skew = Skew()
        self._doubts = Doubts()
        self._revision = Revision()
        self._known_connections = database.write_connections

    @property
    def is_cut_off(self) -> bool:
        """Whether connections have been lost since stock was taken."""
        return self._database.write_connections != self._known_connections

    async def rebuild(self, *, is_following: bool) -> None:
        """What must be known before rows may be written. Where others' rows are followed, they are read where that
        begins."""
        async with self._database.read() as connection:
            self._skew = await read_skew(connection)
            rolled_until = await read_rolled_until(connection)
        if is_following:
            self.hours.closed(rolled_until)
        else:
            await self.reread(rolled_until)

    async def reread(self, rolled_until: int) -> None:
        """The book of hours, and `tail`, from what is in the database now."""
        self.hours.restart(rolled_until)
        # Short windows and states reach further back than the open hour may.
        since = min(rolled_until, self._clock.now() - TAIL_SECONDS)
        self.tail = await read_tail(History(self._database), since, on_columns=self.hours.add_columns)
        self.hours.add(self.tail.others)

    async def write(self, rows: list[Observation], *, already_shown: bool) -> None:
        """Commit `rows`, which shrinks as they are written. A row that no database takes is found by halving."""
        size = BATCH_ROWS
        conflicts = 0
        while rows:
            part = rows[:size]
            asked: list[Observation] = []  # of the database, and not answered yet
            try:
                new, self._skew = await commit_batch(
                    self._database, part, self.hours, self._skew, self._clock.now(), asked.extend
                )
            except Exception as error:
                if is_conflict(error) and conflicts < CONFLICTS_BORNE:
                    conflicts += 1
                    continue
                if is_outage(error):
                    self._doubts.add(asked, already_shown)
                    raise
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                self._rejects.reject(part[0], error)
                new = []
            del rows[: len(part)]
            size = min(size * 2, BATCH_ROWS)
            conflicts = 0
            self._report(new, already_shown)
            if self._doubts:
                await self._dispel(part, new)

    def note_shown(self, rows: Sequence[Observation]) -> None:
        """They went to the spill, and were shown."""
        self._doubts.note_shown(rows)

    async def look_up_doubts(self) -> None:
        """Report rows of ours whose commit was not answered and that are in the database by now. In a job alone."""
        if self._doubts:
            await self.take_stock()

    async def take_stock(self) -> None:
        """What became of a transaction that failed; and whether the schema is still ours."""
        await self._database.settle()
        self._known_connections = self._database.write_connections
        async with self._database.read() as connection:
            rolled_until = await read_rolled_until(connection)
            unseen, seen = await self._doubts.found(connection)
            await self._revision.look(connection)
        self.hours.closed(rolled_until)
        self._on_known(unseen)
        for rows, already_shown in ((unseen, False), (seen, True)):
            self._report(rows, already_shown)
            self._doubts.drop(rows)

    async def _dispel(self, part: Sequence[Observation], new: Sequence[Observation]) -> None:
        """What was in doubt is in now. What is no new row was in already: if it came there after we had looked, it has
        still to be told."""
        self._doubts.drop(new)
        if self._doubts.among(part):
            await self.take_stock()
            self._doubts.drop(part)

    def _report(self, new: Sequence[Observation], already_shown: bool) -> None:
        if new:
            self.hours.add(new)
            if self.tail is not None and not self.tail.take(new):
                self.tail = None
            self._metrics.observations_written.inc(len(new))
            try:
                self._on_committed(new, already_shown)
            except Exception:
                log.exception("on_committed failed rows=%d", len(new))
