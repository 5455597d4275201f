"""Rolling windows of the probe kinds other than chat: the same windows with the same edges, kept without numpy.

An endpoint is sent such a probe once an hour or so. The last half hour is kept as it was observed, and each of the long
windows as one tally, to which observations are added and from which the hours that leave are taken away.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from monitor.catalog.model import Price
from monitor.health.meter import LONG, PREFILL, PREFILL_SCALE, Meter, prefill_speed
from monitor.health.rows import TallyRows
from monitor.health.sketch import FIGURES, Scale, quantile_of_values, rank_of, value_at
from monitor.health.tally import Tally, figure_values, merged, tally_of
from monitor.health.uptime import grouped, ratio
from monitor.health.view import KindFigures, WindowFigures, mirrored
from monitor.observation import CHAT, Observation
from monitor.outcome import Outcome

Key = tuple[str, str, str]  # endpoint, location, kind

_LONG_WINDOWS = 3
_CACHE = "cache"
_SCALES: Mapping[str, Scale] = {**FIGURES, PREFILL: PREFILL_SCALE}
_FIGURES_OF_KIND: Mapping[str, tuple[str, ...]] = {
    LONG: ("ttft_seconds", "latency_seconds", PREFILL),
    # One document: its first byte is not the first of anything.
    "embeddings": ("latency_seconds",),
}
_FIGURES = ("ttft_seconds", "latency_seconds")


def figures_of_kind(kind: str) -> tuple[str, ...]:
    """The figures that a kind is measured by. Speeds of writing are chat's: the other answers are too short for one."""
    return _FIGURES_OF_KIND.get(kind, _FIGURES)


class KindSeries:
    """One kind of probe of one endpoint, seen from one location. `version` changes with what is in it."""

    __slots__ = ("long", "recent", "version")

    def __init__(self) -> None:
        self.recent: list[Observation] = []  # by started_at
        self.long = [Tally() for _ in range(_LONG_WINDOWS)]
        self.version = 0


class KindWindows:
    """Belongs to a `Windows`, which says what is where in time."""

    def __init__(self) -> None:
        self._series: dict[Key, KindSeries] = {}

    def find(self, endpoint: str, location: str, kind: str) -> KindSeries | None:
        return self._series.get((endpoint, location, kind))

    def locations(self, endpoint: str, kind: str) -> list[str]:
        """Where a kind of an endpoint was seen from."""
        return [where for of, where, its in self._series if of == endpoint and its == kind]

    def long_tallies(self, window: int) -> Iterator[tuple[Key, Tally]]:
        """Of one long window, by its place, those that are not empty."""
        for key, series in self._series.items():
            if series.long[window].total:
                yield key, series.long[window]

    def add(self, observation: Observation, ring_start: float, starts: Sequence[int]) -> None:
        """`starts` are the edges of the long windows that count it."""
        series = self._row(observation.endpoint, observation.location, observation.kind)
        at = observation.started_at
        series.version += 1
        if at >= ring_start:
            insort(series.recent, observation, key=_started_at)
        series.recent = [one for one in series.recent if one.started_at >= ring_start]
        for tally, start in zip(series.long, starts, strict=False):
            if at >= start:
                tally.add(observation)

    def move(self, observation: Observation, outcome: Outcome, starts: Sequence[int]) -> None:
        """A recorded observation, a told error, has got another class, which is one too."""
        series = self.find(observation.endpoint, observation.location, observation.kind)
        if series is None:
            return
        series.version += 1
        at, old = observation.started_at, observation.outcome
        for place, one in enumerate(series.recent):
            if one.started_at == at and one.outcome is old:
                series.recent[place] = replace(one, outcome=outcome)
                break
        for tally, start in zip(series.long, starts, strict=True):
            if at >= start and tally.outcomes[old]:
                tally.outcomes.update({outcome: 1, old: -1})

    def apply(self, rows: TallyRows, masks: Sequence[tuple[int, npt.NDArray[np.bool_]]], *, subtract: bool) -> int:
        """Add or take away what `rows` have of these kinds; `masks` say per window which count. How many counts would
        have fallen below zero."""
        clamped = 0
        for index, kind in enumerate(rows.kinds):
            if kind == CHAT or not any(mask[index] for _, mask in masks):
                continue
            place = rows.endpoints[index], rows.locations[index], kind
            series = self._series.get(place) if subtract else self._row(*place)
            if series is None:
                continue
            tally = rows.tally(index)
            series.version += 1
            for window, mask in masks:
                if mask[index]:
                    if subtract:
                        clamped += series.long[window].subtract(tally)
                    else:
                        series.long[window].merge(tally)
        return clamped

    def _row(self, endpoint: str, location: str, kind: str) -> KindSeries:
        key = (endpoint, location, kind)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = KindSeries()
        return series


def _started_at(observation: Observation) -> float:
    return observation.started_at


def recent_figures(
    kind: str,
    observations: Iterable[Observation],
    policy: str,
    quantiles: Sequence[float],
    expected: int,
    price: Price | None,
) -> KindFigures:
    """A short window, exact. `quantiles` are as for times."""
    within = list(observations)
    measured: dict[str, list[float]] = {figure: [] for figure in figures_of_kind(kind)}
    for one in within:
        values: dict[str, float | None] = {**figure_values(one), PREFILL: prefill_speed(one)}
        for figure, found in measured.items():
            if (value := values.get(figure)) is not None:
                found.append(value)
    distributions = {}
    for figure, found in measured.items():
        found.sort()
        if found and quantiles:
            distributions[figure] = {
                each: quantile_of_values(found, each) or 0.0 for each in quantiles_asked(figure, quantiles)
            }
    return _shown(kind, tally_of(within), policy, distributions, expected, price)


def long_figures(
    kind: str,
    tallies: Iterable[Tally],
    policy: str,
    quantiles: Sequence[float],
    expected: int,
    price: Price | None,
) -> KindFigures:
    """A long window, pooled over `tallies`; quantiles within 1 %."""
    tally = merged(tallies)
    distributions = {}
    for figure in figures_of_kind(kind) if quantiles else ():
        bins = tally.sketches[figure] if figure in FIGURES else (tally.meter or Meter()).prefill
        if samples := sum(bins.values()):
            distributions[figure] = {
                each: value_at(_SCALES[figure], bins, rank_of(each, samples))
                for each in quantiles_asked(figure, quantiles)
            }
    return _shown(kind, tally, policy, distributions, expected, price)


def quantiles_asked(figure: str, quantiles: Sequence[float]) -> list[float]:
    """`quantiles`, as configured for times, of this figure: mirrored where it is a speed."""
    return [round(1 - each, 9) if figure == PREFILL else mirrored(figure, each) for each in quantiles]


def _shown(
    kind: str,
    tally: Tally,
    policy: str,
    quantiles: Mapping[str, Mapping[float, float]],
    expected: int,
    price: Price | None,
) -> KindFigures:
    groups = grouped(tally.outcomes, policy)
    plain = WindowFigures.of(groups, tally.answers_asked, tally.answers_ok, expected, quantiles)
    known = {name: getattr(plain, name) for name in WindowFigures.__struct_fields__}
    meter = tally.meter or Meter()
    is_cache = kind == _CACHE and meter.told > 0
    return KindFigures(
        **known,
        prompt_tokens=round(meter.prompt_tokens / meter.metered, 1)
        if meter.metered and kind in (LONG, _CACHE)
        else None,
        cached_ratio=ratio(meter.cached_tokens, meter.prompt_tokens) if is_cache else None,
        saved_usd=_saved_usd(meter, price) if is_cache else None,
    )


def _saved_usd(meter: Meter, price: Price | None) -> float | None:
    if price is None or price.input is None or price.cache_read is None:
        return None
    return round(meter.cached_tokens / meter.metered * (price.input - price.cache_read) / 1e6, 12)
