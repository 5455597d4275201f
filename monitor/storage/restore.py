"""Bringing a board back to where the database says it was: rollups for the long windows, raw rows for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing

import numpy as np

from monitor.clock import Clock
from monitor.health.board import Board
from monitor.health.columns import Columns
from monitor.health.incidents import Incident
from monitor.health.restoration import Restoration
from monitor.health.restore_plan import RestoreRanges
from monitor.health.retold import LastSeen
from monitor.health.rows import TallyRows
from monitor.health.series import Stamp
from monitor.health.spans import LONG_WINDOWS
from monitor.health.state import State, Transition
from monitor.health.vouching import WORKED_SECONDS
from monitor.health.windows import Windows
from monitor.observation import CHAT, Observation
from monitor.outcome import Group
from monitor.slot import Era
from monitor.storage.codec import DAY, HOUR
from monitor.storage.eras import RecordedEras
from monitor.storage.history import History, Step
from monitor.storage.names import Place
from monitor.storage.tail import Tail, read_tail
from monitor.storage.window_sums import note_alive, sums_on_record

_ROWS_A_TURN = 250  # rollup rows between two turns of the event loop: some 3 ms
_SUMS_A_TURN = 100  # which have more bins
_OTHERS_A_TURN = 250
_COLUMNS_A_TURN = 5000
_STAMPS_A_TURN = 2500
_SLICE_SECONDS = 0.002  # with the part that fills it 5 ms at most


async def still_open(history: History, now: float) -> list[Incident]:
    """The incidents that had not ended when the database was last written."""
    return [
        Incident(one.endpoint, one.location, State(one.state), one.cause, one.started_at, None, one.detail)
        for one in await history.incidents(since=now, limit=1_000_000)
        if one.ended_at is None and one.endpoint is not None
    ]


async def restore_board(
    board: Board,
    history: History,
    now: float,
    incidents: list[Incident] | None = None,
    tail: Tail | None = None,
    eras: RecordedEras | None = None,
) -> list[Transition]:
    """Fill an empty board; the standings it comes to. Gives way to others every few milliseconds. `tail` spares reading
    the raw rows that it holds; `eras` are those that the board has been given already."""
    turns = _Turns(history.database.clock)
    if eras is None:
        eras = RecordedEras(await history.eras(), await history.kind_eras())
        await board.take_eras(eras.endpoints)
        board.take_kind_eras(eras.kinds)
    restoration = board.restoration()
    restoration.take_incidents(await still_open(history, now) if incidents is None else incidents)
    rolled_until = await history.rolled_until()
    ranges = restoration.ranges(rolled_until, rolled_until // DAY * DAY, await sums_on_record(history))
    successes = _Successes()
    # The longest first: it has the widest spread of bins, and what is wider than all before moves everything.
    for window in sorted(ranges.sums, key=LONG_WINDOWS.__getitem__, reverse=True):
        async for rows, alive in history.sum_rows(LONG_WINDOWS[window]):
            successes.add_sums(rows, alive)
            for part in rows.parts(_SUMS_A_TURN):
                restoration.take_sums(window, part)
                await turns.give_way()
    async for width, rows in _rolled(history, ranges):
        successes.add_rolled(width, rows)
        (restoration.take_days if width == DAY else restoration.take_hours)(rows)
        await turns.give_way()
    if ranges.sums and restoration.many_targets:
        first_hour = int(now - WORKED_SECONDS) // HOUR * HOUR
        endpoints = {endpoint for endpoint, _ in restoration.many_targets}
        async for width, rows in history.alive_rows(first_hour, rolled_until, endpoints):
            restoration.vouch_rows(rows, width)
            await turns.give_way()
    if tail is None or tail.since > ranges.tail_since:
        tail = await read_tail(history, ranges.tail_since)
    async for columns in tail.columns(ranges.tail_since):
        successes.add_columns(columns)
        for some in columns.parts(_COLUMNS_A_TURN):
            restoration.take_columns(some)
            await turns.give_way()
    for _ in successes.end_columns():
        await turns.give_way()
    for _ in restoration.retell():
        await turns.give_way()
    for start in range(0, len(tail.others), _OTHERS_A_TURN):
        others = tail.others[start : start + _OTHERS_A_TURN]
        successes.add(others)
        restoration.take_tail(others)
        await turns.give_way()
    await _restore_stamps(
        board, restoration, history, successes, now, {**_of_deciders(board, eras.endpoints), **eras.kinds}
    )
    return board.finish_restore()


async def renewed_windows(board: Board, history: History, now: float) -> Windows:
    """The windows of `board` as a restart at `now` would bring them back. Nothing may be committed meanwhile."""
    windows = board.windows.emptied(now)
    rolled_until = await history.rolled_until()
    ranges = windows.restore_ranges(now, rolled_until, rolled_until // DAY * DAY, await sums_on_record(history))
    for window in ranges.sums:
        async for rows, _ in history.sum_rows(LONG_WINDOWS[window]):
            for part in rows.parts(_SUMS_A_TURN):
                windows.restore_sums(window, part)
                await asyncio.sleep(0)
    async for width, rows in _rolled(history, ranges):
        (windows.restore_days if width == DAY else windows.restore_hours)(rows)
        await asyncio.sleep(0)
    async with aclosing(history.chat_columns(ranges.tail_since)) as chunks:
        async for columns in chunks:
            for some in columns.parts(_COLUMNS_A_TURN):
                windows.restore_columns(some, now)
                await asyncio.sleep(0)
    for _ in windows.fill_rings():
        await asyncio.sleep(0)
    async for observations in history.other_kinds_tail(ranges.tail_since):
        windows.restore_tail(observations, now)
    return windows


async def _rolled(history: History, ranges: RestoreRanges) -> AsyncIterator[tuple[int, TallyRows]]:
    """(bucket width in seconds, some rows of one bucket), in order of time; a day before its hours."""
    buckets: list[tuple[int, Step]] = [(day, "day") for day in range(*ranges.days, DAY)]
    buckets += [(hour, "hour") for span in ranges.hours for hour in range(*span, HOUR)]
    for start, step in sorted(buckets):
        width = DAY if step == "day" else HOUR
        async for rows in history.bucket_rows(step, start):
            for part in rows.parts(_SUMS_A_TURN if step == "day" else _ROWS_A_TURN):
                yield width, part


def _of_deciders(board: Board, eras: Mapping[tuple[str, str], Sequence[Era]]) -> dict[Place, Sequence[Era]]:
    return {(endpoint, location, board.kind_of(endpoint)): found for (endpoint, location), found in eras.items()}


class _Turns:
    """Between two parts of long work: gives way once a slice is full, since a turn of the loop costs as much as half a
    part. For a turn and not until a lull: beside probes that fill the loop, being ready would take twice as long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.monotonic()

    async def give_way(self) -> None:
        if self._clock.monotonic() - self._begun >= _SLICE_SECONDS:
            await asyncio.sleep(0)
            self._begun = self._clock.monotonic()


class _Successes:
    """When each place last answered: exactly, or the last bucket in which it did."""

    def __init__(self) -> None:
        self.exact: dict[Place, float] = {}
        self.buckets: dict[Place, tuple[int, int]] = {}  # start, width
        self._last_seen = LastSeen()

    def add_rolled(self, width: int, rows: TallyRows) -> None:
        note_alive(self.buckets, width, rows)

    def add_sums(self, rows: TallyRows, alive: Sequence[tuple[int, int] | None]) -> None:
        places = zip(rows.endpoints, rows.locations, rows.kinds, strict=True)
        for place, bucket in zip(places, alive, strict=True):
            if bucket is not None and bucket > self.buckets.get(place, (0, 0)):
                self.buckets[place] = bucket

    def add_columns(self, columns: Columns) -> None:
        self._last_seen.add(columns, np.arange(len(columns)))

    def end_columns(self) -> Iterator[None]:
        for number, stamp in enumerate(self._last_seen.stamps()):
            if stamp.last_success_at is not None:
                self._met((stamp.endpoint, stamp.location, CHAT), stamp.last_success_at)
            if number % _STAMPS_A_TURN == 0:
                yield

    def add(self, observations: Iterable[Observation]) -> None:
        for one in observations:
            if one.group is Group.OK:
                self._met((one.endpoint, one.location, one.kind), one.started_at)

    def _met(self, place: Place, at: float) -> None:
        self.exact[place] = max(self.exact.get(place, at), at)


async def _restore_stamps(
    board: Board,
    restoration: Restoration,
    history: History,
    successes: _Successes,
    now: float,
    eras: Mapping[Place, Sequence[Era]],
) -> None:
    since = now - WORKED_SECONDS
    # The tail has no gap up to now: whoever answered in it last answered there.
    earlier = {place: bucket for place, bucket in successes.buckets.items() if place not in successes.exact}
    last = await history.exact_successes(earlier, eras) | successes.exact
    last = {place: max(at, since) for place, at in last.items()}
    restoration.take_stamps(
        Stamp(endpoint, location, at, at)
        for (endpoint, location, kind), at in last.items()
        if kind == board.kind_of(endpoint)
    )
    board.kinds.restore_successes(last.items())
