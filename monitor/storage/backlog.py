"""Rows between `Writer.put` and the database: in memory first, on disk while it does not take them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from monitor.observation import Observation
from monitor.self_metrics import SelfMetrics
from monitor.storage.rejects import Rejects
from monitor.storage.spill import Spill
from monitor.storage.trouble import now_and_then

log = logging.getLogger(__name__)


class Backlog:
    """`on_spilled` is called with rows as they become durable on disk. `limit`: rows in memory, beyond which the newest
    are lost. At most `portion` rows go to the disk at once."""

    def __init__(
        self,
        spill: Spill,
        rejects: Rejects,
        metrics: SelfMetrics,
        on_spilled: Callable[[Sequence[Observation]], None],
        *,
        limit: int,
        portion: int,
    ) -> None:
        self.lost = 0  # rows for which there was neither database, nor disk, nor memory
        self._spill = spill
        self._rejects = rejects
        self._metrics = metrics
        self._on_spilled = on_spilled
        self._limit = limit
        self._portion = portion
        self._rows: deque[Observation] = deque()
        self._failures = 0  # of the disk
        self._spilling = asyncio.Lock()
        metrics.write_queue.set_function(lambda: len(self._rows))

    def __len__(self) -> int:
        """Rows in memory."""
        return len(self._rows)

    def put(self, observation: Observation) -> bool:
        """False if there is no memory left for it."""
        if len(self._rows) >= self._limit:
            return False
        self._rows.append(observation)
        return True

    def lose(self) -> None:
        self.lost += 1
        if now_and_then(self.lost):
            log.error("observation lost, neither database, disk nor memory takes it lost=%d", self.lost)

    def take(self, count: int) -> list[Observation]:
        """The oldest, as they will be read back, without those that cannot be kept."""
        return self._rejects.prepared(self._rows.popleft() for _ in range(min(count, len(self._rows))))

    def give_back(self, rows: Sequence[Observation]) -> None:
        self._rows.extendleft(reversed(rows))

    def remove(self, rows: Iterable[Observation]) -> None:
        """They turned out to be in the database. Only the first portion is looked at: they were given back last."""
        if keys := {row.key for row in rows}:
            first = [self._rows.popleft() for _ in range(min(self._portion, len(self._rows)))]
            self.give_back([row for row in first if row.key not in keys])

    async def spill(self) -> None:
        """Everything, or until the disk does not take it either."""
        while self._rows and await self.spill_some():
            pass

    async def spill_some(self) -> bool:
        """Move the oldest rows to the disk; False if it does not take them."""
        async with self._spilling:
            rows = self.take(self._portion)
            try:
                await self._spill.append(rows)
            except OSError as error:
                self.give_back(rows)
                self._failures += 1
                if now_and_then(self._failures):
                    log.error("spill fails too, rows wait in memory rows=%d error=%s", len(self._rows), error)
                return False
            self._failures = 0
            self._show(rows)
            return True

    def spill_now(self, before: Sequence[Observation]) -> None:
        """`before` and everything, blocking: for a process that is going down."""
        rows = [*before, *self.take(len(self._rows))]
        try:
            self._spill.append_now(rows)
        except OSError as error:
            self.lost += len(rows)
            log.error("rows lost, neither database nor disk takes them rows=%d error=%s", len(rows), error)
        else:
            self._show(rows)

    async def settle(self) -> None:
        """Return when nothing is between memory and disk."""
        async with self._spilling:
            pass

    def _show(self, rows: Sequence[Observation]) -> None:
        self._metrics.observations_spilled.set(self._spill.pending)
        if rows:
            try:
                self._on_spilled(rows)
            except Exception:
                log.exception("on_spilled failed rows=%d", len(rows))
