"""The state of every series, by its row on the board: what moves it, how long it holds, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import numpy as np

from monitor.catalog.model import Catalog
from monitor.clock import Clock
from monitor.health.machine import Moment, StateMachine
from monitor.health.series import NEVER, Series
from monitor.health.state import Reading, Standing, Transition, as_transition
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import Settings


class Standings:
    """Rows are numbered as they are added. `interval_of` is as the board's."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.series: list[Series] = []
        self._rows_of: dict[str, list[int]] = {}  # by endpoint
        self.interval_of: Callable[[str], float] | None = None
        self._clock = clock
        self._settings = settings
        self._catalog: Catalog = settings.catalog
        self._expires_at = np.full(0, NEVER)  # by row, monotonic: when the state is to be looked at again

    def configure(self, settings: Settings) -> None:
        self._settings = settings
        for series in self.series:
            series.machine.configure(settings.state, settings.uptime_policy)

    def apply_catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def add(self, endpoint: str, location: str) -> None:
        """The next row."""
        self._rows_of.setdefault(endpoint, []).append(len(self.series))
        self.series.append(Series(endpoint, location, self._machine()))
        if len(self.series) > self._expires_at.size:
            more = np.full(max(len(self.series), 64), NEVER)
            self._expires_at = np.concatenate((self._expires_at, more))

    def rows_of(self, endpoint: str) -> Sequence[int]:
        """One for each location."""
        return self._rows_of.get(endpoint, ())

    def begin_anew(self, row: int) -> None:
        """Nothing is known of the row any more but its eras."""
        former = self.series[row]
        self.series[row] = Series(former.endpoint, former.location, self._machine(), former.eras)

    def begin_from(self, row: int, standing: Standing) -> None:
        self.series[row].machine = self._machine(standing)

    def is_watched(self, endpoint: str, location: str, row: int | None) -> bool:
        """Whether slots fall due there: from here, if it is configured; from elsewhere, unless its last era is over."""
        if location == self._settings.location:
            return endpoint in self._catalog.endpoints
        eras = () if row is None else self.series[row].eras
        return not eras or eras[-1].until is None

    def observe(self, row: int, observation: Observation, age_seconds: float) -> None:
        series, forget_seconds = self.series[row], self.forget_seconds(row)
        usable = series.machine.standing.usable
        if series.machine.observe(observation, forget_seconds):
            series.relevant_at = max(series.relevant_at, self._clock.monotonic() - age_seconds)
            self._arm(row, forget_seconds if series.machine.standing.usable is usable else self.forget_seconds(row))

    def retell(self, row: int, readings: Sequence[Reading], now: float, well_since: float | None) -> None:
        """`observe` many of one row, in order of due time and recheck. `well_since` says that they are the last
        `readings_kept` of many, all ok and without a gap, of which the first began then; the row must be blank."""
        series = self.series[row]
        relevant = series.machine.retell(readings, self.forget_seconds(row), well_since)
        if relevant is not None:
            age_seconds = max(now - relevant.started_at, 0.0)
            series.relevant_at = max(series.relevant_at, self._clock.monotonic() - age_seconds)
            self._arm(row, self.forget_seconds(row))

    def is_blank(self, row: int) -> bool:
        return self.series[row].machine.is_blank

    def readings_kept(self, row: int) -> int:
        return self.series[row].machine.readings_kept

    def relive(self, row: int, recent: Sequence[Observation], changed: Mapping[Moment, Outcome]) -> Transition | None:
        """See `Board.relive`; `recent` are of the kind that decides."""
        series = self.series[row]
        before = series.machine.standing
        series.machine = series.machine.relived(recent, changed, self.forget_seconds(row))
        self._arm(row, self.forget_seconds(row))
        return self.transition(row, before, self._clock.now())

    def expire(self) -> Iterator[tuple[int, Transition | None]]:
        """Forget what nothing has confirmed for too long: the rows whose state is another, and the transition that is
        one of a configured endpoint."""
        monotonic = self._clock.monotonic()
        for row in np.flatnonzero(self._expires_at <= monotonic).tolist():
            series = self.series[row]
            before = series.machine.standing
            has_changed = series.machine.expire(monotonic - series.relevant_at, self.forget_seconds(row))
            self._arm(row, self.forget_seconds(row))
            transition = self.transition(row, before, self._clock.now())
            if has_changed or transition is not None:
                yield row, transition

    def forget_untold(self) -> None:
        """Forget every state of which no observation has told."""
        for row, series in enumerate(self.series):
            if series.machine.standing.relevant is None:
                series.machine.expire(NEVER, self.forget_seconds(row))

    def transition(self, row: int, before: Standing, at: float) -> Transition | None:
        """The change of state or cause since `before`; None if there is none, or the endpoint is not configured."""
        series = self.series[row]
        after = series.machine.standing
        if (after.state, after.cause) == (before.state, before.cause) or series.endpoint not in self._catalog.endpoints:
            return None
        since = at if after.since is None else after.since
        return Transition(
            series.endpoint, series.location, before.state, after.state, after.cause, since, at, after.detail
        )

    def told(self, endpoints: Container[str] | None) -> list[Transition]:
        """See `Board.standings`."""
        wanted = self._catalog.endpoints if endpoints is None else endpoints
        now = self._clock.now()
        return [
            as_transition(series.endpoint, series.location, series.machine.standing, now)
            for row, series in enumerate(self.series)
            if series.endpoint in wanted
            and self.is_watched(series.endpoint, series.location, row)
            and series.machine.is_known
        ]

    def longest_memory_seconds(self) -> float:
        return max((self.forget_seconds(row) for row in range(len(self.series))), default=0.0)

    def forget_seconds(self, row: int) -> float:
        # How far a failing key has stretched the interval is not on record: a restart and a reader of the database
        # would forget earlier than the process that knows.
        stretched = self.series[row].machine.standing.usable
        return self._settings.state.forget_intervals * self.interval_seconds(row, stretched=stretched)

    def interval_seconds(self, row: int, *, stretched: bool = True) -> float:
        series = self.series[row]
        endpoint = self._catalog.endpoints.get(series.endpoint)
        if endpoint is not None and series.location == self._settings.location:
            if self.interval_of is None or not stretched:
                return endpoint.interval_seconds
            return self.interval_of(series.endpoint)
        if series.eras:
            return series.eras[-1].cadence.interval_seconds
        return endpoint.interval_seconds if endpoint is not None else self._settings.probing.interval_seconds

    def _arm(self, row: int, forget_seconds: float) -> None:
        series = self.series[row]
        after = series.machine.expires_after_seconds(forget_seconds)
        self._expires_at[row] = NEVER if after is None else series.relevant_at + after

    def _machine(self, standing: Standing | None = None) -> StateMachine:
        return StateMachine(self._settings.state, self._settings.uptime_policy, standing)
