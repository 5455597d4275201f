"""How a board comes back to what the database says. In this order, each in parts of any size:

incidents -> ranges (what to read) -> sums, days, hours -> columns of the tail -> retell -> rest of the tail -> stamps
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from monitor.clock import Clock
from monitor.health.columns import Columns, Lookup
from monitor.health.incidents import Incident
from monitor.health.kind_board import KindBoard
from monitor.health.restore_plan import NO_SUMS, RestoreRanges
from monitor.health.retold import LastSeen, Retold, successes_of
from monitor.health.rows import TallyRows
from monitor.health.series import NEVER, Stamp
from monitor.health.spans import DAY, HOUR, RING_SECONDS
from monitor.health.standings import Standings
from monitor.health.state import Standing
from monitor.health.vouching import WORKED_SECONDS, Vouchers
from monitor.health.windows import Windows
from monitor.observation import CHAT, Observation
from monitor.slot import targets_within

_STAMPS_PER_SLICE = 1000


class Restoration:
    """Fills the parts of one board, whose eras must be known. `row_of(endpoint, location)`, `kind_of(endpoint)` and
    `take(row, observation, age_seconds)` are the board's. Of `many_targets`, (endpoint, location) whose target was
    another before, every success is asked for: `vouch_rows`."""

    def __init__(
        self,
        windows: Windows,
        standings: Standings,
        vouchers: Vouchers,
        kinds: KindBoard,
        clock: Clock,
        *,
        row_of: Callable[[str, str], int],
        kind_of: Callable[[str], str],
        take: Callable[[int, Observation, float], None],
    ) -> None:
        self.many_targets: set[tuple[str, str]] = set()
        self._windows = windows
        self._standings = standings
        self._series = standings.series
        self._vouchers = vouchers
        self._kinds = kinds
        self._clock = clock
        self._row_of = row_of
        self._kind_of = kind_of
        self._take = take
        self._retold = Retold()
        self._last_seen = LastSeen()
        self._told_since = 0.0  # what began before does not bear on states
        self._lookup = Lookup(self._decided_row)

    def take_incidents(self, still_open: Iterable[Incident]) -> None:
        """Begin from the states that were confirmed before the restart."""
        for incident in still_open:
            row = self._row_of(incident.endpoint, incident.location)
            self._standings.begin_from(
                row, Standing(incident.state, incident.started_at, incident.cause, incident.detail)
            )

    def take_stamps(self, stamps: Iterable[Stamp]) -> None:
        """When the last probe and the last success of each series began, where the raw tail does not tell."""
        for stamp in stamps:
            series = self._series[self._row_of(stamp.endpoint, stamp.location)]
            series.stamp(stamp.last_probe_at, stamp.last_success_at)
            if stamp.last_success_at is not None:
                self._vouchers.vouch(stamp.endpoint, series.eras, stamp.last_success_at)

    def ranges(self, hours_until: int, days_until: int, sums: Mapping[str, int] = NO_SUMS) -> RestoreRanges:
        """What to read: see `Windows.restore_ranges`. The tail reaches far enough back for the states, too."""
        now = self._clock.now()
        ranges = self._windows.restore_ranges(now, hours_until, days_until, sums)
        # A day at most: a state that is made of older probes than that is better found out anew.
        memory_seconds = min(self._standings.longest_memory_seconds(), DAY)
        self.many_targets = {
            (series.endpoint, series.location)
            for series in self._series
            if len(series.eras) > 1 and len(targets_within(series.eras, now - WORKED_SECONDS - DAY, NEVER)) > 1
        }
        self._told_since = now - max(memory_seconds, RING_SECONDS)
        return RestoreRanges(ranges.days, ranges.hours, min(ranges.tail_since, now - memory_seconds), ranges.sums)

    def take_sums(self, window: str, rows: TallyRows) -> None:
        self._windows.restore_sums(window, rows)

    def take_days(self, rows: TallyRows) -> None:
        self._windows.restore_days(rows)
        self.vouch_rows(rows, DAY)

    def take_hours(self, rows: TallyRows) -> None:
        self._windows.restore_hours(rows)
        self.vouch_rows(rows, HOUR)

    def take_columns(self, columns: Columns) -> None:
        """Many chat observations of the tail at once. States follow in `retell`."""
        now = self._clock.now()
        self._windows.restore_columns(columns, now)
        series = self._lookup.of(columns)
        told = np.flatnonzero((series >= 0) & (columns.due_ms <= (now + DAY) * 1000))
        self._last_seen.add(columns, told)
        if self.many_targets:
            for endpoint, location, at in successes_of(columns, told, self.many_targets):
                self._vouchers.vouch(endpoint, self._series[self._row_of(endpoint, location)].eras, at)
        self._retold.add(columns, series, told[columns.started_at[told] >= self._told_since])

    def retell(self) -> Iterator[None]:
        """Bring states, stamps and rings to where the columns say they were, in slices."""
        yield from self._windows.fill_rings()
        for number, stamp in enumerate(self._last_seen.stamps()):
            self.take_stamps([stamp])
            if number % _STAMPS_PER_SLICE == 0:
                yield
        self._last_seen = LastSeen()
        yield from self._retold.tell(self._standings, self._clock.now())

    def take_tail(self, observations: Sequence[Observation]) -> None:
        """Raw observations that are in no columns, rechecks included, in order of time."""
        now = self._clock.now()
        self._windows.restore_tail(observations, now)
        for observation in observations:
            # A slot of more than a day ahead was numbered by a clock that was plainly wrong; its successors are not.
            if observation.due_at > now + DAY:
                continue
            if observation.kind != CHAT:
                self._kinds.observe(observation)
            if observation.kind == self._kind_of(observation.endpoint):
                row = self._row_of(observation.endpoint, observation.location)
                self._take(row, observation, max(now - observation.started_at, 0.0))

    def vouch_rows(self, rows: TallyRows, width: int) -> None:
        """Where all successes were of one target, the last of them is enough: stamps and the tail tell it."""
        places = zip(rows.endpoints, rows.locations, strict=True)
        if many := [index for index, place in enumerate(places) if place in self.many_targets]:
            part = rows.chosen(many)
            self._vouchers.vouch_rows(part, width, lambda endpoint, at: self._series[self._row_of(endpoint, at)].eras)

    def _decided_row(self, endpoint: str, location: str) -> int:
        return self._row_of(endpoint, location) if self._kind_of(endpoint) == CHAT else -1
