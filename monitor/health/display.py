"""The views of every configured endpoint, renewed in short slices when what they show has changed or is out of date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np

from monitor.catalog.model import Catalog
from monitor.health.cadences import Cadences
from monitor.health.dense import Indices
from monitor.health.figures import series_figures
from monitor.health.kind_board import NO_KINDS, KindBoard
from monitor.health.standings import Standings
from monitor.health.view import (
    API_PERFORMANCE_WINDOW,
    API_QUANTILES,
    EndpointView,
    KindView,
    Vantage,
    WindowFigures,
)
from monitor.health.windows import Windows
from monitor.letting_go import let_go
from monitor.settings import Settings

# The figures of so many, and then their views, are a millisecond each: who asks meanwhile waits for it. Most of that
# are calls into numpy, which cost as much for one; where the last half hour holds more probes, these cost the most.
SERIES_PER_SLICE = 80
_PROBES_PER_SLICE = 4000
# Views of other kinds that are made anew, as all are when the hour turns: a tenth of a millisecond each.
_KINDS_PER_SLICE = 16
_ALWAYS_STALE = float("-inf")

Figures = Mapping[str, WindowFigures]  # by window


class Display:
    """Rows are those of the `standings`; times are UTC seconds."""

    def __init__(self, settings: Settings, standings: Standings, kinds: KindBoard) -> None:
        self.views: tuple[EndpointView, ...] = ()  # as the board's `views`
        self.locations: tuple[str, ...] = (settings.location,)
        self._standings = standings
        self._kinds = kinds
        self._fresh_until = np.full(0, _ALWAYS_STALE)  # by row
        self._vantages: Mapping[str, Vantage] = {}  # by location
        self._listed: list[EndpointView] = []  # the views to be published
        self._places: dict[int, int] = {}  # row -> where its view is listed
        self._must_list_anew = True
        self._gone: list[object] = []  # views that were renewed since they were published
        self._version = 0
        self._times_spoiled = 0

    def configure(self, settings: Settings) -> None:
        self._settings = settings
        export = settings.export
        self.performance_windows = tuple(dict.fromkeys((*export.performance_windows, API_PERFORMANCE_WINDOW)))
        self.quantiles = tuple(sorted({*export.quantiles, *API_QUANTILES}))
        self._kinds.configure(settings.uptime_policy, self.performance_windows, self.quantiles)

    def apply_catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog
        for series in self._standings.series:
            if series.endpoint not in catalog.endpoints:
                series.view = None
        self.spoil_all()
        self._must_list_anew = True
        self._publish()

    def make_room(self) -> None:
        """For the rows that were added."""
        self._must_list_anew = True
        if (rows := len(self._standings.series)) > self._fresh_until.size:
            self._fresh_until = np.concatenate((self._fresh_until, np.full(max(rows, 64), _ALWAYS_STALE)))

    def spoil(self, row: int) -> None:
        """Its view is renewed by the next refresh, however settled that wants things to be."""
        self._fresh_until[row] = _ALWAYS_STALE

    def spoil_all(self) -> None:
        """Of all rows, for the next refresh: what one that is under way still renews stays spoilt."""
        self._times_spoiled += 1
        self._fresh_until[:] = _ALWAYS_STALE

    def outdate(self, row: int, at: float) -> None:
        """Figures of its view have changed at `at`."""
        if at < self._fresh_until[row]:
            self._fresh_until[row] = at

    def outdate_many(self, rows: Sequence[int] | Indices, at: float) -> None:
        self._fresh_until[rows] = np.minimum(self._fresh_until[rows], at)

    def take_vantages(self, vantages: Mapping[str, Vantage]) -> None:
        """What the locations' words are worth from now on: views of those where that changes are renewed."""
        former, sound = self._vantages, Vantage.SOUND
        changed = {each for each in {*vantages, *former} if vantages.get(each, sound) is not former.get(each, sound)}
        self._vantages = vantages
        if changed:
            rows = [row for row, series in enumerate(self._standings.series) if series.location in changed]
            self._fresh_until[rows] = _ALWAYS_STALE

    def renew(self, windows: Windows, now: float, settled_seconds: float) -> Iterator[None]:
        """See `Board.refresh_slices`."""
        stale = np.flatnonzero(self._fresh_until[: len(self._standings.series)] <= now - settled_seconds).tolist()
        times_spoiled = self._times_spoiled
        for rows in _slices(stale, windows):
            # Between two slices a reload may have taken endpoints away.
            part = [row for row in rows if self._is_configured(row)]
            if part:
                found = self._figures(windows, part, now)
                if self._times_spoiled != times_spoiled:  # these windows are others by now, or have a slide before them
                    self._fresh_until[part] = _ALWAYS_STALE
                yield
                yield from self._renew_views(windows, found, now)
                yield
        yield from let_go(self._publish())

    def _is_configured(self, row: int) -> bool:
        return self._standings.series[row].endpoint in self._catalog.endpoints

    def _figures(self, windows: Windows, rows: Sequence[int], now: float) -> Iterable[tuple[int, Figures]]:
        """By row. What spoils a view from here on is for the next refresh."""
        found, until = series_figures(
            windows,
            rows,
            now,
            self._settings.uptime_policy,
            self.performance_windows,
            self.quantiles,
            Cadences([self._standings.series[row].eras for row in rows]),
        )
        self._fresh_until[rows] = until
        return zip(rows, found, strict=True)

    def _renew_views(self, windows: Windows, found: Iterable[tuple[int, Figures]], now: float) -> Iterator[None]:
        standings = self._standings
        kinds_anew = 0
        for row, figures in found:
            if kinds_anew >= _KINDS_PER_SLICE:
                yield
                kinds_anew = 0
            series = standings.series[row]
            if not self._is_configured(row):
                continue
            former, was_shown = series.view, series.is_shown
            configured = self._catalog.endpoints[series.endpoint]
            kinds: Mapping[str, KindView] = NO_KINDS
            if configured.probes:
                kinds, kinds_until = self._kinds.views(windows, configured, series.location, series.eras, now)
                self.outdate(row, kinds_until)
                known = NO_KINDS if former is None else former.kinds
                kinds_anew += sum(known.get(kind) is not each for kind, each in kinds.items())
            view = series.renew_view(
                configured,
                series.location,
                figures,
                standings.interval_seconds(row),
                standings.is_watched(series.endpoint, series.location, row),
                self._next_version,
                kinds,
                self._vantages.get(series.location, Vantage.SOUND),
            )
            series.is_shown = series.location == self._settings.location or view.has_data(now)
            if former is None or series.is_shown is not was_shown:
                self._must_list_anew = True
            elif view is not former and series.is_shown:
                self._listed[self._places[row]] = view
                self._gone.append(former)

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _publish(self) -> list[object]:
        """The views that were published and are no longer."""
        gone, self._gone = self._gone, []
        if self._must_list_anew:
            former = self.views
            self._list_anew()
            gone = [view for view, now in zip_longest(former, self._listed) if view is not now]
        if gone or len(self._listed) != len(self.views):
            self.views = tuple(self._listed)
        return gone

    def _list_anew(self) -> None:
        self._must_list_anew = False
        own, standings = self._settings.location, self._standings
        self._listed, self._places = [], {}
        for endpoint in self._catalog.endpoints:
            rows = [(standings.series[row], row) for row in standings.rows_of(endpoint)]
            for series, row in sorted(rows, key=lambda each: (each[0].location != own, each[0].location)):
                if series.view is not None and series.is_shown:
                    self._places[row] = len(self._listed)
                    self._listed.append(series.view)
        others = {view.location for view in self._listed} - {own}
        self.locations = (own, *sorted(others))


def _slices(rows: Iterable[int], windows: Windows) -> Iterator[list[int]]:
    part: list[int] = []
    probes = 0
    for row in rows:
        its = windows.recent_probes(row)
        if part and (len(part) == SERIES_PER_SLICE or probes + its > _PROBES_PER_SLICE):
            yield part
            part, probes = [], 0
        part.append(row)
        probes += its
    if part:
        yield part
