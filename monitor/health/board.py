"""Everything that is known about every endpoint from every location, right now and over the windows.

The daemon feeds it (`observe` at receipt, `record` once committed, `slide` by the hour, `expire` and `refresh` every
few seconds); web and routing read `views` and `figures`. All in memory, no I/O. Use from one event loop.

A restore goes: `take_eras`, then all that `restoration` takes, then `finish_restore`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

import numpy as np

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import Clock
from monitor.health.display import Display
from monitor.health.figures import pooled_figures
from monitor.health.kind_board import KindBoard
from monitor.health.machine import Moment
from monitor.health.restoration import Restoration
from monitor.health.rows import TallyRows
from monitor.health.standings import Standings
from monitor.health.state import Reading, Standing, Transition
from monitor.health.vantage import Finding, Vantages
from monitor.health.view import EndpointView, KindView, WindowFigures
from monitor.health.vouching import Vouchers
from monitor.health.windows import Windows
from monitor.observation import CHAT, Observation
from monitor.outcome import Outcome
from monitor.settings import Settings
from monitor.slot import Era, expected_slots

_ERAS_PER_SLICE = 250
# Counted at once: about a millisecond. numpy is called as often for one observation as for all of them.
_COUNTED_AT_ONCE = 150
# From so many on as many are counted as come.
_MOST_COMMITTED = 250


class Board:
    """`interval_of` gives an endpoint's effective probe interval in seconds, at this location; without it the
    configured one counts. It is asked for configured endpoints only."""

    def __init__(self, settings: Settings, clock: Clock, interval_of: Callable[[str], float] | None = None) -> None:
        self._clock = clock
        self._deciding: dict[str, str] = {}  # endpoint -> the kind that decides of it, where it is not chat
        self._windows = Windows(clock.now(), self._deciding)
        self.kinds = KindBoard()
        self._committed: list[Observation] = []  # still to be counted
        self._committed_since = 0.0
        self._standings = Standings(settings, clock)
        self._standings.interval_of = interval_of
        self._series = self._standings.series  # by the windows' row
        self._display = Display(settings, self._standings, self.kinds)
        self._vantages = Vantages()
        self._vouchers = Vouchers(lambda endpoint: self._catalog.endpoints.get(endpoint), self.kind_of)
        self.configure(settings)

    @property
    def interval_of(self) -> Callable[[str], float] | None:
        return self._standings.interval_of

    @interval_of.setter
    def interval_of(self, interval_of: Callable[[str], float]) -> None:
        self._standings.interval_of = interval_of

    @property
    def performance_windows(self) -> tuple[str, ...]:
        """Those whose views have quantiles."""
        return self._display.performance_windows

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Those that views have, as for times."""
        return self._display.quantiles

    def configure(self, settings: Settings) -> None:
        """Take over reloaded settings, the catalog included. History stays: a policy judges it anew."""
        self._settings = settings
        self._standings.configure(settings)
        self._display.configure(settings)
        self.apply_catalog(settings.catalog)

    def apply_catalog(self, catalog: Catalog) -> None:
        """Endpoints that are gone vanish from the views at once; those that come back have kept what was known."""
        self._catalog = catalog
        self._standings.apply_catalog(catalog)
        self._deciding.clear()
        self._deciding.update({id_: each.kind for id_, each in catalog.endpoints.items() if each.kind != CHAT})
        for row in self._windows.decided_anew():
            self._standings.begin_anew(row)
        for endpoint in catalog.endpoints:
            self._row(endpoint, self._settings.location)
        self._display.apply_catalog(catalog)

    def set_eras(self, endpoint: str, location: str, eras: Sequence[Era]) -> None:
        """Which cadences and targets were in force: what coverage and `worked_before` go by."""
        row = self._row(endpoint, location)
        self._series[row].eras = tuple(sorted(eras, key=lambda era: era.since))
        self._display.spoil(row)

    async def take_eras(self, eras: Mapping[tuple[str, str], Sequence[Era]]) -> None:
        """`set_eras` of many (endpoint, location), letting others run in between."""
        for number, ((endpoint, location), found) in enumerate(eras.items(), 1):
            self.set_eras(endpoint, location, found)
            if number % _ERAS_PER_SLICE == 0:
                await self._clock.sleep(0)

    def take_kind_eras(self, eras: Mapping[tuple[str, str, str], Sequence[Era]]) -> None:
        """The same of the kinds of probe that decide nothing, by (endpoint, location, kind)."""
        for (endpoint, location, kind), found in eras.items():
            self.kinds.set_eras(endpoint, location, kind, found)
            self._display.spoil(self._row(endpoint, location))

    def kind_of(self, endpoint: str) -> str:
        """The kind of probe that decides of an endpoint."""
        return self._deciding.get(endpoint, CHAT)

    @property
    def is_decided_anew(self) -> bool:
        """Whether another kind of probe decides of some endpoint than what the windows hold: they must be renewed."""
        return bool(self._windows.decided_anew())

    def is_watched(self, endpoint: str, location: str) -> bool:
        """Whether slots fall due there: from here, if it is configured; from elsewhere, unless its last era is over."""
        return self._standings.is_watched(endpoint, location, self._windows.find(endpoint, location))

    def observe(self, observation: Observation, *, foreign: bool = False) -> Transition | None:
        """Take in an observation as it is made, or (`foreign`) as it is read from another monitor's rows: state and
        stamps, and for our own the process's counters. A confirmed change of a configured endpoint's state or cause,
        if it makes one."""
        row = self._windows.find(observation.endpoint, observation.location)
        if row is None or row >= len(self._series):
            row = self._row(observation.endpoint, observation.location)
        series = self._series[row]
        decides = observation.kind == self.kind_of(observation.endpoint)
        if not foreign:
            series.count(observation, decides=decides)
        now = self._clock.now()
        if observation.kind != CHAT:
            self.kinds.observe(observation)
        if not decides:
            self._display.outdate(row, now)
            return None
        age = max(now - observation.started_at, 0.0) if foreign else 0.0
        before = series.machine.standing
        self._take(row, observation, age)
        after = series.machine.standing
        told = (after.state, after.cause, after.usable) != (before.state, before.cause, before.usable)
        if told:
            self._display.spoil(row)
        else:
            self._display.outdate(row, now)
        return self._standings.transition(row, before, observation.started_at)

    def record(self, observations: Iterable[Observation]) -> None:
        """Count committed observations in the windows, each exactly once: when somebody looks at them next."""
        if not self._committed:
            self._committed_since = self._clock.now()
        waiting = len(self._committed)
        self._committed.extend(observations)
        if len(self._committed) >= _MOST_COMMITTED:
            self._count(max(len(self._committed) - waiting, _COUNTED_AT_ONCE))

    @property
    def windows(self) -> Windows:
        """With all in them that is committed."""
        self._count()
        return self._windows

    def _count(self, most: int | None = None) -> None:
        if not self._committed:
            return
        committed, self._committed = self._committed[:most], [] if most is None else self._committed[most:]
        touched = self._windows.record(committed, self._clock.now())
        self._follow_windows()
        self._display.outdate_many(touched, self._committed_since)

    def move(self, changes: Iterable[tuple[Observation, Outcome]]) -> None:
        """Committed observations that have got another class: count them there. States follow by `relive`."""
        windows = self.windows
        for observation, outcome in changes:
            row = windows.move(observation, outcome)
            if row is not None:
                self._display.spoil(row)

    def relive(
        self, endpoint: str, location: str, recent: Sequence[Observation], changed: Mapping[Moment, Outcome]
    ) -> Transition | None:
        """Find the state anew from its `recent` observations, rechecks too, as far as they are committed, and from what
        is remembered beside them, of which some have `changed`. The change of state or cause, if that makes one."""
        row = self._windows.find(endpoint, location)
        if row is None:
            return None
        self._display.spoil(row)
        deciding = [one for one in recent if one.kind == self.kind_of(endpoint)]
        return self._standings.relive(row, deciding, changed)

    def remembered_faults(self) -> Iterator[tuple[str, str, Sequence[Reading]]]:
        """(endpoint, location, those of the readings a state is made of that were no success), reckoned one by one."""
        for series in self._series:
            yield series.endpoint, series.location, series.machine.faults

    def wants_recheck(self, observation: Observation) -> bool:
        """After `observe`: whether a quick recheck would help to settle the state."""
        if observation.is_ok:
            return False
        row = self._windows.find(observation.endpoint, observation.location)
        return (
            row is not None
            and observation.kind == self.kind_of(observation.endpoint)
            and observation.endpoint in self._catalog.endpoints
            and self._series[row].machine.wants_recheck(observation)
        )

    def worked_before(self, endpoint: Endpoint) -> bool:
        """Whether a probe succeeded within 30 days, from anywhere, with the endpoint's dialect, base_url and upstream
        as they are now."""
        return self._vouchers.worked_before(endpoint, self._clock.now())

    def expire(self) -> list[Transition]:
        """Forget states that nothing has confirmed for too long; the changes of configured endpoints."""
        transitions = []
        for row, transition in self._standings.expire():
            self._display.spoil(row)
            if transition is not None:
                transitions.append(transition)
        return transitions

    async def look_at_locations(self) -> list[Finding]:
        """Find out, in slices, which locations fail alone and which tell nothing any more; those that have become
        suspect, or are so no longer. Views follow at the next `refresh`."""
        former = self._vantages.findings
        for _ in self._vantages.look_slices(self.views(), self._clock.now()):
            await self._clock.sleep(0)
        found = self._vantages.findings
        self._display.take_vantages({location: each.vantage for location, each in found.items()})
        # One that is gone is not suspect any more.
        both = {**{location: Finding(location) for location in former}, **found}
        return [
            each
            for location, each in both.items()
            if each.is_suspect != (location in former and former[location].is_suspect)
        ]

    @property
    def findings(self) -> Mapping[str, Finding]:
        """What the last look at the locations found, by location."""
        return self._vantages.findings

    def slide(self, to_hour: int, leaving: Mapping[str, TallyRows]) -> None:
        """See `Windows.slide`: in a job of the writer's. The next `refresh` does the work."""
        self.windows.slide(to_hour, leaving)
        self._display.spoil_all()

    def take_windows(self, windows: Windows) -> None:
        """Go on with windows that were restored beside these. ValueError if they are not of the same series."""
        if windows.keys != self.windows.keys:
            raise ValueError("the windows are of other series")
        self._windows = windows
        self._display.spoil_all()

    async def refresh(self, settled_seconds: float = 0.0) -> None:
        """Bring the views up to date in short slices, letting others run between them. A view whose figures alone have
        changed is left as it is until that was `settled_seconds` ago: a slot that falls due, its probe and its commit
        are then one change and not three. A new state or cause is shown at once."""
        for _ in self.refresh_slices(settled_seconds):
            await self._clock.sleep(0)

    def refresh_slices(self, settled_seconds: float = 0.0) -> Iterator[None]:
        """`refresh` as a generator, for callers without an event loop. One at a time."""
        while len(self._committed) > _COUNTED_AT_ONCE:
            self._count(_COUNTED_AT_ONCE)
            yield
        while self.windows.settle():
            yield
        yield from self._display.renew(self.windows, self._clock.now(), settled_seconds)

    def views(self) -> tuple[EndpointView, ...]:
        """Every configured endpoint, in the catalog's order, at this location and at every other that has data of it;
        as of the last `refresh`. The same tuple, of the same views, as long as nothing has changed."""
        return self._display.views

    def view(self, endpoint: str, location: str | None = None) -> EndpointView | None:
        """One of `views`, at this location unless another is named; None if there is none."""
        row = self._windows.find(endpoint, location or self._settings.location)
        return self._series[row].view if row is not None and endpoint in self._catalog.endpoints else None

    def locations(self) -> tuple[str, ...]:
        """This location first, then every other that some view is of."""
        return self._display.locations

    def figures(
        self, endpoint_ids: Iterable[str], location: str | None, window: str, quantiles: Sequence[float] = ()
    ) -> WindowFigures:
        """One window of several endpoints together, at one location or (None) all: pooled from counts and sketches.
        `quantiles` as for times: see `view.figure_quantiles`. Computed now; KeyError if there is no such window."""
        now = self._clock.now()
        start = self.windows.start_of(window, now)
        rows = [
            row
            for endpoint in dict.fromkeys(endpoint_ids)
            for row in self._standings.rows_of(endpoint)
            if location is None or self._windows.keys[row][1] == location
        ]
        expected = sum(expected_slots(self._series[row].eras, start, now) for row in rows)
        indices = np.array(rows, dtype=np.int64)
        return pooled_figures(self._windows, indices, window, now, self._settings.uptime_policy, quantiles, expected)

    def pooled_kinds(self, endpoint: Endpoint) -> Mapping[str, KindView]:
        """The kinds other than chat of an endpoint, pooled over all locations. Computed now."""
        rows = self._standings.rows_of(endpoint.id)
        eras = {self._windows.keys[row][1]: self._series[row].eras for row in rows}
        return self.kinds.pooled(self.windows, endpoint, eras, self._clock.now())

    def restoration(self) -> Restoration:
        """Brings an empty board, of which only the eras are known, back to what the database says."""
        return Restoration(
            self._windows, self._standings, self._vouchers, self.kinds, self._clock,
            row_of=self._row, kind_of=self.kind_of, take=self._take,
        )  # fmt: skip

    def finish_restore(self) -> list[Transition]:
        """The standing of every configured endpoint that is known, for the ledger of incidents to compare. A state of
        which the tail no longer tells is forgotten."""
        self._follow_windows()
        self._standings.forget_untold()
        self.expire()
        return self.standings()

    def standing(self, endpoint: str, location: str) -> Standing:
        """What is known of an endpoint this very moment; views follow at the next `refresh`."""
        row = self._windows.find(endpoint, location)
        return Standing() if row is None else self._series[row].machine.standing

    def standings(self, endpoints: Container[str] | None = None) -> list[Transition]:
        """The states of what is watched (and among `endpoints`), as if they had just come about; no unknown ones."""
        return self._standings.told(endpoints)

    def _row(self, endpoint: str, location: str) -> int:
        row = self._windows.row_of(endpoint, location)
        self._follow_windows()
        return row

    def _follow_windows(self) -> None:
        """Give every series that the windows have met a place here."""
        known = len(self._series)
        if known == len(self._windows):
            return
        for endpoint, location in self._windows.keys[known:]:
            self._standings.add(endpoint, location)
        self._display.make_room()

    def _take(self, row: int, observation: Observation, age_seconds: float) -> None:
        series, at = self._series[row], observation.started_at
        if observation.is_ok:
            series.stamp(at, at)
            self._vouchers.vouch(observation.endpoint, series.eras, at)
        elif observation.outcome is not Outcome.SECRET_MISSING:  # then no probe was sent
            series.stamp(at, None)
        self._standings.observe(row, observation, age_seconds)
