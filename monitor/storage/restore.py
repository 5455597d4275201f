"""Bringing a board back to where the database says it was: rollups for the long windows, raw rows for the rest."""

from __future__ import annotations

from monitor.health.board import Board
from monitor.health.incidents import Incident
from monitor.health.series import Stamp
from monitor.health.state import State, Transition
from monitor.health.vouching import WORKED_SECONDS
from monitor.health.windows import Windows
from monitor.storage.codec import DAY, HOUR
from monitor.storage.history import History


async def still_open(history: History, now: float) -> list[Incident]:
    """The incidents that had not ended when the database was last written."""
    return [
        Incident(one.endpoint, one.location, State(one.state), one.cause, one.started_at, None, one.detail)
        for one in await history.incidents(since=now, limit=1_000_000)
        if one.ended_at is None and one.endpoint is not None
    ]


async def restore_board(
    board: Board, history: History, now: float, incidents: list[Incident] | None = None
) -> list[Transition]:
    """Fill an empty board; the standings it comes to. Gives way to others between buckets."""
    await board.take_eras(await history.eras())
    board.take_kind_eras(await history.kind_eras())
    board.restore_incidents(await still_open(history, now) if incidents is None else incidents)
    successes = await history.last_success_times(now - WORKED_SECONDS)
    board.restore_stamps(
        Stamp(endpoint, location, at, at)
        for (endpoint, location, kind), at in successes.items()
        if kind == board.kind_of(endpoint)
    )
    board.kinds.restore_successes(successes.items())
    rolled_until = await history.rolled_until()
    ranges = board.restore_ranges(rolled_until, rolled_until // DAY * DAY)
    for day in range(*ranges.days, DAY):
        board.restore_days(await history.day_rows(day))
    for start, end in ranges.hours:
        for hour in range(start, end, HOUR):
            board.restore_hours(await history.hour_rows(hour))
    async for rows in history.raw_tail(ranges.tail_since):
        board.restore_tail(rows)
    return board.finish_restore()


async def renewed_windows(board: Board, history: History, now: float) -> Windows:
    """The windows of `board` as a restart at `now` would bring them back. Nothing may be committed meanwhile."""
    windows = board.windows.emptied(now)
    rolled_until = await history.rolled_until()
    ranges = windows.restore_ranges(now, rolled_until, rolled_until // DAY * DAY)
    for day in range(*ranges.days, DAY):
        windows.restore_days(await history.day_rows(day))
    for start, end in ranges.hours:
        for hour in range(start, end, HOUR):
            windows.restore_hours(await history.hour_rows(hour))
    async for rows in history.raw_tail(ranges.tail_since):
        windows.restore_tail(rows, now)
    return windows
