"""The raw rows that a start reads: once, for the book of open hours, the windows and the states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from monitor.health.columns import Columns
from monitor.health.spans import RING_SECONDS
from monitor.observation import Observation
from monitor.storage.history import History

# What the short windows need, and the minutes that may pass between reading and restoring.
TAIL_SECONDS = RING_SECONDS
_MOST_OTHERS = 20_000


@dataclass(slots=True)
class Tail:
    """What started at `since` (UTC seconds) or later. `others` are the observations that are in no columns: of other
    kinds than chat, and those that were committed after the reading."""

    since: float
    chunks: list[Columns] = field(default_factory=list)
    others: list[Observation] = field(default_factory=list)

    def take(self, committed: Sequence[Observation]) -> bool:
        """Rows that were committed since; False if they are too many to be kept beside the database."""
        self.others.extend(committed)
        return len(self.others) <= _MOST_OTHERS

    async def columns(self, since: float) -> AsyncIterator[Columns]:
        """Those that hold anything of `since` or later, which may hold more, with a turn of the loop after each."""
        for columns in self.chunks:
            if int(columns.started_us.max()) >= since * 1_000_000:
                yield columns
                await asyncio.sleep(0)


async def read_tail(
    history: History, since: float, on_columns: Callable[[Columns], None] = lambda columns: None
) -> Tail:
    tail = Tail(since)
    async for columns in history.chat_columns(since):
        tail.chunks.append(columns)
        on_columns(columns)
    async for others in history.other_kinds_tail(since):
        tail.others += others
    return tail
