"""The turn of an hour: the hour that is over is rolled up, and the long windows let go of what is too old for them."""

from __future__ import annotations

import logging

from monitor.clock import utc_text
from monitor.health.board import Board
from monitor.health.rows import TallyRows, joined
from monitor.health.windows import HOUR, floor_hour
from monitor.storage.history import History
from monitor.storage.rollups import CLOSE_AFTER_SECONDS
from monitor.storage.writer import Writer

log = logging.getLogger(__name__)


async def close_hours(writer: Writer, now: float) -> None:
    """Roll up every hour that ended CLOSE_AFTER_SECONDS ago or earlier. StorageError if the database fails."""
    until = floor_hour(now - CLOSE_AFTER_SECONDS)
    if until > writer.hours.rolled_until:
        rows = await writer.close_hours(until)
        log.info("hour_closed until=%s rows=%d", utc_text(until, "seconds"), rows)


async def turn_hours(writer: Writer, history: History, board: Board, now: float) -> None:
    """Close what is over at `now` and slide the board to the hour of `now`. Idempotent; StorageError as above."""
    await close_hours(writer, now)
    to_hour = floor_hour(now)
    spans = board.windows.leaving_spans(to_hour)
    if not spans:
        return

    async def leaving(_connection: object) -> dict[str, TallyRows]:
        # Read in the writer's task: no commit may come between this and the slide.
        found: dict[str, TallyRows] = {}
        for window, (start, end) in spans.items():
            parts = [await history.hour_rows(hour) for hour in range(start, end, HOUR)]
            found[window] = joined(parts)
        return found

    await writer.submit(leaving, lambda found: board.slide(to_hour, found))
