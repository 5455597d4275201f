"""The turn of an hour: the hour that is over is rolled up, and the long windows let go of what is too old for them."""

from __future__ import annotations

import logging
import math

from monitor.clock import utc_text
from monitor.health.board import Board
from monitor.health.rows import TallyRows, joined
from monitor.health.spans import DAY, HOUR, LONG_WINDOWS, floor_hour
from monitor.health.windows import Windows
from monitor.storage.history import History
from monitor.storage.others import NOBODY, Others
from monitor.storage.restore import renewed_windows
from monitor.storage.rollups import CLOSE_AFTER_SECONDS
from monitor.storage.window_sums import renew_sums
from monitor.storage.writer import Writer

log = logging.getLogger(__name__)

# How far the clock must be behind the windows' edge to have been set back: slewing and leap seconds are less.
STEP_SECONDS = 300.0
# Of several monitors one closes the hours; if it does not, another does so much later.
OTHERS_CLOSE_SECONDS = 60.0
# How far before its edge the longest window may still ask for an hour: sums are taken up again for 18 h.
_HELD_SECONDS = max(LONG_WINDOWS.values()) + DAY


async def close_hours(writer: Writer, now: float, others: Others = NOBODY, let_go_before: float = -math.inf) -> None:
    """Roll up every hour that ended CLOSE_AFTER_SECONDS ago or earlier; hours that started before `let_go_before` (UTC
    seconds) are not wanted any more. StorageError if the database fails."""
    patience = 0.0 if others.closes_first() else OTHERS_CLOSE_SECONDS
    until = floor_hour(now - CLOSE_AFTER_SECONDS - patience)
    if until > writer.hours.rolled_until:
        rows = await writer.close_hours(until, before=others.before_closing, let_go_before=let_go_before)
        if rows or others.closes_first():  # else another was first
            log.info("hour_closed until=%s rows=%d", utc_text(until, "seconds"), rows)


async def turn_hours(
    writer: Writer,
    history: History,
    board: Board,
    now: float,
    others: Others = NOBODY,
    *,
    hourly_seconds: float = math.inf,
) -> None:
    """Close what is over at `now` and bring the board's windows to the hour of `now`; hourly rows older than
    `hourly_seconds` make room. Idempotent; StorageError as above."""
    # Windows slide after the closing, and after a long sleep by days: they take away what they hold of old hours.
    await close_hours(writer, now, others, min(now - hourly_seconds, board.windows.edge_hour - _HELD_SECONDS))
    if now < board.windows.edge_hour - STEP_SECONDS:
        await _renew(writer, history, board, now, "clock_set_back", others)
    elif board.is_decided_anew:
        await _renew(writer, history, board, now, "decided_by_another_kind", others)
    elif others.must_renew:
        await _renew(writer, history, board, now, "history_rewritten", others)
    else:
        await _slide(writer, history, board, floor_hour(now), others)
    hours = writer.hours
    if others.closes_first() and hours.rolled_until > hours.summed_until:
        # Tried once an hour, however it ends: where late rows keep coming it would never stay on record.
        hours.summed_until = hours.rolled_until
        await renew_sums(history, writer.submit, hours.rolled_until)


async def _renew(writer: Writer, history: History, board: Board, now: float, reason: str, others: Others) -> None:
    """Restore the windows anew: the clock was ahead and is set back, and what left them early belongs to them again; or
    they hold another kind of probe than what decides of an endpoint now; or another monitor has rewritten history."""

    async def renewed() -> Windows | None:
        if writer.spilled:
            return None
        async with history.one_view():
            await others.catch_up()
            return await renewed_windows(board, history, now)

    def take(windows: Windows | None) -> None:
        # What was shown from the spill meanwhile is in no row yet, and would be missing: then try again next time.
        if windows is not None and not writer.spilled:
            board.take_windows(windows)
            others.renewed()
            log.warning("windows_restored reason=%s edge=%s", reason, utc_text(windows.edge_hour, "seconds"))

    await writer.stand_still(renewed, take)


async def _slide(writer: Writer, history: History, board: Board, to_hour: int, others: Others) -> None:
    spans = board.windows.leaving_spans(to_hour)
    if not spans:
        return

    async def leaving() -> dict[str, TallyRows] | None:
        # Read in the writer's task: no commit may come between this and the slide.
        if writer.spilled:
            return None  # rows that are shown and in no rollup yet would stay for ever: wait until they are replayed
        found: dict[str, TallyRows] = {}
        async with history.one_view():
            await others.catch_up()
            for window, (start, end) in spans.items():
                parts = [await history.hour_rows(hour) for hour in range(start, end, HOUR)]
                found[window] = joined(parts)
        return found

    def slide(found: dict[str, TallyRows] | None) -> None:
        if found is not None:
            board.slide(to_hour, found)

    await writer.stand_still(leaving, slide)
