"""Rolling windows of every series (an endpoint seen from a location), in memory. Scheduled probes only, of the kind
that decides of the endpoint; the kinds other than chat have windows of their own beside these, see `kind_windows`.

5m, 30m      exact: now - span <= started_at < now + AHEAD_SECONDS, from rings of the observations themselves
1d, 7d, 30d  started_at >= floor_hour(now) - span, from counts and log bins. Their edge moves by the hour: `slide` takes
             the hours that leave, as they were rolled up, and subtracts them.

The long ones have no upper bound: what a clock that was ahead has stamped leaves with its hour. A late row goes to each
window that still covers it, and to no other. What is subtracted is what was added: rollups and windows are made of the
same committed rows by the same `tally`, so no count falls below zero as long as `slide` and `record` see every row the
same way round (see `slide`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from monitor.health.cells import add_columns, add_entries, counted_cells, sketch_cells, summed_rows
from monitor.health.columns import Columns, Lookup, split
from monitor.health.dense import BinMatrix, CountMatrix, Indices
from monitor.health.kind_windows import KindWindows
from monitor.health.recent import ANSWERED, Recent
from monitor.health.restore_plan import NO_SUMS, Masks, RestorePlan, RestoreRanges
from monitor.health.ring import STARTED, Entries, Entry, Ring, entries_of, entry_of, laid_out
from monitor.health.rows import TallyRows, rows_of
from monitor.health.sketch import FIGURES, Values
from monitor.health.spans import AHEAD_SECONDS, LONG_WINDOWS, RING_SECONDS, SHORT_WINDOWS, floor_hour
from monitor.observation import CHAT, Observation
from monitor.outcome import OUTCOME_CODES, Outcome

logger = logging.getLogger(__name__)

_PLACES = {name: place for place, name in enumerate(LONG_WINDOWS)}
# Rollup rows subtracted at a time: some 3 ms of work, so that a slide never holds up the event loop.
_ROWS_AT_ONCE = 250
_SUMS_AT_ONCE = 32  # which have more bins

_NONE: Mapping[str, str] = {}


class Windows:
    """Not thread-safe: use from one task at a time. A series has a row number, given when it is first seen, for ever.

    `now` is UTC seconds; `deciding` are the kinds that decide of endpoints, where it is not chat. Memory: some 20 KB
    per series (of figures that spread over a factor of 500), and 56 bytes for each observation of the last 30 minutes.
    """

    def __init__(self, now: float, deciding: Mapping[str, str] = _NONE) -> None:
        self.edge_hour = floor_hour(now)
        self.keys: list[tuple[str, str]] = []  # row -> (endpoint, location)
        self.decided_by: list[str] = []  # row -> the kind that is counted there
        self.kinds = KindWindows()
        self._deciding = deciding
        self._row_of: dict[tuple[str, str], int] = {}
        self._rings: list[Ring] = []
        self._counts = CountMatrix(len(LONG_WINDOWS), ANSWERED + 1)
        self._bins = {name: BinMatrix(len(LONG_WINDOWS), scale) for name, scale in FIGURES.items()}
        self._leaving: deque[tuple[str, tuple[int, int], TallyRows]] = deque()
        self._lookup = Lookup(self._decided_row)
        self._ring_shares: dict[int, list[tuple[Indices, Entries]]] = {}
        self._plan = RestorePlan(self.edge_hour, self.edge_hour, self.edge_hour, only=())  # used while restoring
        self.clamped_cells = 0  # counts that would have fallen below zero: 0, unless a rollup is not what was recorded

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, endpoint: str, location: str) -> int | None:
        return self._row_of.get((endpoint, location))

    def row_of(self, endpoint: str, location: str) -> int:
        """The series' row, made if it is new."""
        key = (endpoint, location)
        row = self._row_of.get(key)
        if row is None:
            row = self._row_of[key] = len(self.keys)
            self.keys.append(key)
            self.decided_by.append(self._deciding.get(endpoint, CHAT))
            self._rings.append(Ring())
            self._counts.reserve(row + 1)
            for bins in self._bins.values():
                bins.reserve(row + 1)
        return row

    def decided_anew(self) -> list[int]:
        """The rows of which another kind of probe decides by now than what they hold."""
        if not self._deciding and self.decided_by.count(CHAT) == len(self.decided_by):
            return []
        rows = zip(self.keys, self.decided_by, strict=True)
        return [row for row, ((endpoint, _), kind) in enumerate(rows) if kind != self._deciding.get(endpoint, CHAT)]

    def emptied(self, now: float) -> Windows:
        """Empty windows of the same series, to be filled beside these."""
        windows = Windows(now, self._deciding)
        for endpoint, location in self.keys:
            windows.row_of(endpoint, location)
        return windows

    def start_of(self, window: str, now: float) -> float:
        """Where the named window begins at `now`. KeyError if there is no such window."""
        if window in SHORT_WINDOWS:
            return now - SHORT_WINDOWS[window]
        return self.edge_hour - LONG_WINDOWS[window]

    def record(self, observations: Iterable[Observation], now: float) -> list[int]:
        """Add committed observations, each exactly once; the rows they touched. Rechecks are passed over."""
        return self._add(observations, now, counted_since=0.0)

    def move(self, observation: Observation, outcome: Outcome) -> int | None:
        """A recorded observation, a told error, has got another class, which is one too; its row. None if it is in no
        window."""
        row = self.find(observation.endpoint, observation.location)
        if row is None or observation.recheck:
            return None
        if observation.kind != CHAT:
            self.kinds.move(observation, outcome, self._long_starts())
        if observation.kind != self.decided_by[row]:
            return row
        code, to_code = OUTCOME_CODES[observation.outcome], OUTCOME_CODES[outcome]
        self._rings[row].move(observation.started_at, code, to_code)
        for window, place in _PLACES.items():
            counts = self._counts.counts[place, row]
            if observation.started_at >= self.edge_hour - LONG_WINDOWS[window] and counts[code]:
                counts[code] -= 1
                counts[to_code] += 1
        return row

    def slide(self, to_hour: int, leaving: Mapping[str, TallyRows]) -> None:
        """Move the long windows' edge to `to_hour` and take away the hourly rows of `leaving_spans(to_hour)`.

        Call it where no commit lies between reading `leaving` and this call, and every commit before has been
        recorded: in a job of the writer's. The edge moves at once, the subtraction waits for `settle`. ValueError if a
        window that loses hours is left out.
        """
        spans = self.leaving_spans(to_hour)
        if missing := spans.keys() - leaving.keys():
            raise ValueError(f"slide: no rows given for {', '.join(sorted(missing))}")
        self.edge_hour = max(self.edge_hour, to_hour)
        for window, span in spans.items():
            rows = leaving[window]
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                self._leaving.append((window, span, rows.part(start, start + _ROWS_AT_ONCE)))

    def leaving_spans(self, to_hour: int) -> dict[str, tuple[int, int]]:
        """window -> [start, end) of the hourly rows that leave it when the edge moves to `to_hour`. Empty if it does
        not move. Every hour of these spans must have been rolled up: they are a day old or older."""
        if to_hour <= self.edge_hour:
            return {}
        return {window: (self.edge_hour - span, to_hour - span) for window, span in LONG_WINDOWS.items()}

    def settle(self) -> bool:
        """Do a slice of what a slide left to do; whether there is more. Until then long windows still hold what has
        left them."""
        if self._leaving:
            window, (start, end), rows = self._leaving.popleft()
            buckets = np.asarray(rows.bucket_starts, dtype=np.int64)
            self._apply(rows, [(_PLACES[window], (buckets >= start) & (buckets < end))], subtract=True)
        return bool(self._leaving)

    def restore_ranges(
        self,
        now: float,
        hours_until: int,
        days_until: int,
        sums: Mapping[str, int] = NO_SUMS,
        only: Collection[str] = LONG_WINDOWS,
    ) -> RestoreRanges:
        """What to read for a restore at `now`; the rest is as for `RestorePlan`. Starts the restore: the windows must
        be empty."""
        self.edge_hour = floor_hour(now)
        self._plan = RestorePlan(self.edge_hour, hours_until, days_until, sums, only)
        return self._plan.ranges(now)

    def restore_sums(self, window: str, rows: TallyRows) -> None:
        """What a window of `RestoreRanges.sums` was, in as many parts as is convenient; before hours and days."""
        self._apply(rows, [(_PLACES[window], np.ones(len(rows), dtype=np.bool_))], subtract=False)

    def restore_days(self, rows: TallyRows) -> None:
        """Daily rows of `restore_ranges`, in any order and in as many parts as is convenient."""
        masks = self._plan.of_days(np.asarray(rows.bucket_starts, dtype=np.int64))
        self._apply(rows, _placed(masks), subtract=False)

    def restore_hours(self, rows: TallyRows) -> None:
        """Hourly rows of `restore_ranges`, in any order and in as many parts as is convenient."""
        come, gone = self._plan.of_hours(np.asarray(rows.bucket_starts, dtype=np.int64))
        for masks, subtract in ((come, False), (gone, True)):
            if any(mask.any() for mask in masks.values()):
                self._apply(rows, _placed(masks), subtract=subtract)

    def restore_tail(self, observations: Iterable[Observation], now: float) -> list[int]:
        """The raw observations of `restore_ranges`; the rows they touched. Those that are already rolled up go to the
        short windows only."""
        return self._add(observations, now, counted_since=float(self._plan.hours_until))

    def restore_columns(self, columns: Columns, now: float) -> None:
        """The same of many chat observations at once. `fill_rings` completes the short windows."""
        series = self._lookup.of(columns)
        chosen = (columns.recheck == 0) & (series >= 0)
        counted = chosen & (columns.started_us >= self._plan.hours_until * 1_000_000)
        add_columns(self._counts, self._bins, columns, series, counted, self._long_starts())
        recent = np.flatnonzero(chosen & (columns.started_at >= now - RING_SECONDS))
        entries = entries_of(columns)
        for share, part in split(series // _ROWS_AT_ONCE, recent):
            self._ring_shares.setdefault(share, []).append((series[part], entries[part]))

    def fill_rings(self) -> Iterator[None]:
        """Put what `restore_columns` was given into the rings, in slices."""
        while self._ring_shares:
            _, parts = self._ring_shares.popitem()
            series, entries = (np.concatenate(each) for each in zip(*parts, strict=True))
            order = np.argsort(entries[:, STARTED], kind="stable")
            for row, part in split(series, order):
                self._rings[row].extend(entries[part])
            yield

    def _decided_row(self, endpoint: str, location: str) -> int:
        """The row of a series that chat decides of, -1 where another kind does."""
        return self.row_of(endpoint, location) if self._deciding.get(endpoint, CHAT) == CHAT else -1

    def recent_probes(self, row: int) -> int:
        """How many the short windows hold of a series."""
        return len(self._rings[row])

    def recent(self, rows: Sequence[int], now: float) -> Recent:
        """The short windows of several series, each by itself."""
        rings = [self._rings[row] for row in rows]
        return Recent(laid_out(rings), [len(ring) for ring in rings], now, AHEAD_SECONDS)

    def recent_pooled(self, rows: Sequence[int], now: float) -> Recent:
        """The short windows of several series as if they were one."""
        rings = [self._rings[row] for row in rows]
        return Recent(laid_out(rings), [sum(map(len, rings))], now, AHEAD_SECONDS)

    def counts(self, window: str, rows: slice | Indices) -> npt.NDArray[np.int64]:
        """[rows x columns] of a long window: a column per outcome class by code, then ASKED and ANSWERED."""
        return self._counts.counts[_PLACES[window], rows]

    def quantiles(self, window: str, figure: str, rows: slice | Indices, quantiles: Sequence[float]) -> Values:
        """[rows x quantiles] of a long window, within 1 % of the exact nearest rank; nan without samples."""
        return self._bins[figure].quantiles(_PLACES[window], rows, quantiles)

    def quantiles_all(self, window: str, figure: str, quantiles: Sequence[float]) -> Values:
        """`quantiles` of every series, in the order of `keys`."""
        return self.quantiles(window, figure, slice(0, len(self)), quantiles)

    def pooled_quantiles(self, window: str, figure: str, rows: Indices, quantiles: Sequence[float]) -> Values:
        """[quantiles] of a long window over all `rows` together; nan without samples."""
        return self._bins[figure].pooled_quantiles(_PLACES[window], rows, quantiles)

    def sums(self, window: str) -> Iterator[TallyRows]:
        """All that a long window holds, in slices; its buckets start at the window's edge."""
        place, start = _PLACES[window], self.edge_hour - LONG_WINDOWS[window]
        for first in range(0, len(self), _SUMS_AT_ONCE):
            rows = slice(first, min(first + _SUMS_AT_ONCE, len(self)))
            bins = {name: matrix.cells(place, rows) for name, matrix in self._bins.items()}
            yield summed_rows(start, self.keys[rows], self._counts.counts[place, rows], bins)
        yield rows_of((start, *key, tally) for key, tally in self.kinds.long_tallies(place))

    def _add(self, observations: Iterable[Observation], now: float, counted_since: float) -> list[int]:
        ring_start = now - RING_SECONDS
        touched: dict[int, None] = {}
        rows: list[int] = []
        counted: list[Entry] = []
        for observation in observations:
            if observation.recheck:
                continue
            started_at = observation.started_at
            if observation.kind != CHAT:
                starts = self._long_starts() if started_at >= counted_since else ()
                self.kinds.add(observation, ring_start, starts)
            if observation.kind != self._deciding.get(observation.endpoint, CHAT):
                beside = self.find(observation.endpoint, observation.location)
                if beside is not None:
                    touched[beside] = None
                continue
            row = self.row_of(observation.endpoint, observation.location)
            touched[row] = None
            entry = entry_of(observation)
            if started_at >= ring_start:
                ring = self._rings[row]
                ring.add(entry)
                ring.drop_before(ring_start)
            if started_at >= counted_since:
                rows.append(row)
                counted.append(entry)
        if counted:
            add_entries(self._counts, self._bins, np.array(rows), np.array(counted), self._long_starts())
        return list(touched)

    def _long_starts(self) -> list[int]:
        return [self.edge_hour - span for span in LONG_WINDOWS.values()]

    def _apply(self, rows: TallyRows, masks: Sequence[tuple[int, npt.NDArray[np.bool_]]], subtract: bool) -> None:
        """Add or take away `rows`, of which `masks` say per window which count."""
        lookup = self.find if subtract else self.row_of
        deciding = self._deciding
        found = [
            lookup(endpoint, location) if kind == deciding.get(endpoint, CHAT) else None
            for endpoint, location, kind in zip(rows.endpoints, rows.locations, rows.kinds, strict=True)
        ]
        series = np.array([-1 if row is None else row for row in found], dtype=np.int64)
        owners, columns, amounts = counted_cells(rows)
        clamped = self._change(self._counts, series, masks, (owners, columns, amounts), subtract)
        for figure, *cells in sketch_cells(rows):
            clamped += self._change(self._bins[figure], series, masks, (cells[0], cells[1], cells[2]), subtract)
        clamped += self.kinds.apply(rows, masks, subtract=subtract)
        if clamped and not self.clamped_cells:
            logger.error("windows_below_zero cells=%d: set to 0; a restart restores them from the rollups", clamped)
        self.clamped_cells += clamped

    @staticmethod
    def _change(
        matrix: CountMatrix | BinMatrix,
        series: Indices,
        masks: Sequence[tuple[int, npt.NDArray[np.bool_]]],
        cells: tuple[Indices, Indices, Indices],
        subtract: bool,
    ) -> int:
        owners, columns, amounts = cells
        clamped = 0
        known = series >= 0
        for place, mask in masks:
            wanted = mask & known
            if wanted.all():
                change = (series[owners], columns, amounts)
            elif wanted.any():
                chosen = wanted[owners]
                change = (series[owners[chosen]], columns[chosen], amounts[chosen])
            else:
                continue
            if subtract:
                clamped += matrix.subtract(place, *change)
            else:
                matrix.add(place, *change)
        return clamped


def _placed(masks: Masks) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    return [(_PLACES[window], mask) for window, mask in masks.items()]
