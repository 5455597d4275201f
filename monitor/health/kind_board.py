"""What the board knows of the probe kinds other than chat, and shows of them. All in memory, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from monitor.catalog.model import Endpoint, ProbeKind
from monitor.health.kind_windows import Key, KindSeries, long_figures, recent_figures
from monitor.health.spans import AHEAD_SECONDS, LONG_WINDOWS, SHORT_WINDOWS, WINDOWS
from monitor.health.view import KindFigures, KindView
from monitor.health.windows import Windows
from monitor.observation import CHAT, Observation
from monitor.outcome import Group, Outcome, group_of
from monitor.slot import Era, expected_slots

_NEVER = float("inf")
NO_KINDS: Mapping[str, KindView] = {}


class _Rule(NamedTuple):
    policy: str
    performance_windows: Sequence[str]
    quantiles: Sequence[float]


class _Shown(NamedTuple):
    """A view, and what it was made of: it holds `until` then as long as that is the same."""

    view: KindView
    endpoint: Endpoint
    series: KindSeries | None
    version: int
    edge_hour: int
    stamps: tuple[float | None, float | None]
    eras: Sequence[Era]
    until: float


class KindBoard:
    def __init__(self) -> None:
        self._rule = _Rule("monitor", (), ())
        self._eras: dict[Key, tuple[Era, ...]] = {}
        self._stamps: dict[Key, tuple[float | None, float | None]] = {}  # last probe, last success
        self._shown: dict[Key, _Shown] = {}

    def configure(self, policy: str, performance_windows: Sequence[str], quantiles: Sequence[float]) -> None:
        self._rule = _Rule(policy, performance_windows, quantiles)
        self._shown.clear()

    def set_eras(self, endpoint: str, location: str, kind: str, eras: Sequence[Era]) -> None:
        """Of a kind that decides nothing; where it decides, its eras are the endpoint's."""
        self._eras[endpoint, location, kind] = tuple(sorted(eras, key=lambda era: era.since))

    def observe(self, observation: Observation) -> None:
        if observation.outcome is Outcome.SECRET_MISSING:  # then no probe was sent
            return
        succeeded_at = observation.started_at if group_of(observation.outcome) is Group.OK else None
        self.stamp(observation.endpoint, observation.location, observation.kind, observation.started_at, succeeded_at)

    def stamp(
        self, endpoint: str, location: str, kind: str, probed_at: float, succeeded_at: float | None = None
    ) -> None:
        """Move the stamps on; what is older than what is known changes nothing."""
        key = (endpoint, location, kind)
        probe_at, success_at = self._stamps.get(key, (None, None))
        if probe_at is None or probed_at > probe_at:
            probe_at = probed_at
        if succeeded_at is not None and (success_at is None or succeeded_at > success_at):
            success_at = succeeded_at
        self._stamps[key] = (probe_at, success_at)

    def restore_probes(self, probed: Iterable[tuple[Key, float]]) -> None:
        """When the last probe of each (endpoint, location, kind) began, in UTC seconds; chat is passed over."""
        for (endpoint, location, kind), at in probed:
            if kind != CHAT:
                self.stamp(endpoint, location, kind, at)

    def restore_successes(self, succeeded: Iterable[tuple[Key, float]]) -> None:
        """When the last success of each (endpoint, location, kind) began, in UTC seconds; chat is passed over."""
        for (endpoint, location, kind), at in succeeded:
            if kind != CHAT:
                self.stamp(endpoint, location, kind, at, at)

    def views(
        self, windows: Windows, endpoint: Endpoint, location: str, main_eras: Sequence[Era], now: float
    ) -> tuple[Mapping[str, KindView], float]:
        """The kinds that an endpoint is configured with, and until when their figures hold by themselves."""
        if not endpoint.probes:
            return NO_KINDS, _NEVER
        found: dict[str, KindView] = {}
        until = _NEVER
        for probe in endpoint.probes:
            shown = self._one(windows, endpoint, location, probe, main_eras, now)
            found[probe.kind] = shown.view
            until = min(until, shown.until)
        return found, until

    def pooled(
        self, windows: Windows, endpoint: Endpoint, locations: Mapping[str, Sequence[Era]], now: float
    ) -> Mapping[str, KindView]:
        """The same over several locations together; with each its eras of what decides."""
        if not endpoint.probes:
            return NO_KINDS
        found: dict[str, KindView] = {}
        for probe in endpoint.probes:
            series = [windows.kinds.find(endpoint.id, location, probe.kind) for location in locations]
            stamps = [self._stamps.get((endpoint.id, location, probe.kind), (None, None)) for location in locations]
            eras = [
                era
                for location, main_eras in locations.items()
                for era in self._eras_of(endpoint, location, probe.kind, main_eras)
            ]
            found[probe.kind] = KindView(
                probe.kind,
                probe.interval_seconds,
                max((at for at, _ in stamps if at is not None), default=None),
                max((at for _, at in stamps if at is not None), default=None),
                self._figures(windows, endpoint, probe.kind, [each for each in series if each is not None], eras, now),
            )
        return found

    def _eras_of(self, endpoint: Endpoint, location: str, kind: str, main_eras: Sequence[Era]) -> Sequence[Era]:
        return main_eras if kind == endpoint.kind else self._eras.get((endpoint.id, location, kind), ())

    def _one(
        self,
        windows: Windows,
        endpoint: Endpoint,
        location: str,
        probe: ProbeKind,
        main_eras: Sequence[Era],
        now: float,
    ) -> _Shown:
        key = (endpoint.id, location, probe.kind)
        series, stamps = windows.kinds.find(*key), self._stamps.get(key, (None, None))
        eras = self._eras_of(endpoint, location, probe.kind, main_eras)
        version = 0 if series is None else series.version
        known = self._shown.get(key)
        if (
            known is not None
            and now < known.until
            and known.endpoint is endpoint
            and known.series is series
            and known.eras is eras
            and (known.version, known.edge_hour, known.stamps) == (version, windows.edge_hour, stamps)
        ):
            return known
        figures = self._figures(windows, endpoint, probe.kind, [] if series is None else [series], eras, now)
        view = KindView(probe.kind, probe.interval_seconds, *stamps, figures)
        until = _next_change(series, eras, now)
        shown = _Shown(view, endpoint, series, version, windows.edge_hour, stamps, eras, until)
        self._shown[key] = shown
        return shown

    def _figures(
        self,
        windows: Windows,
        endpoint: Endpoint,
        kind: str,
        series: Sequence[KindSeries],
        eras: Sequence[Era],
        now: float,
    ) -> dict[str, KindFigures]:
        rule, price = self._rule, endpoint.price
        found: dict[str, KindFigures] = {}
        for window in WINDOWS:
            start = windows.start_of(window, now)
            quantiles = rule.quantiles if window in rule.performance_windows else ()
            expected = expected_slots(eras, start, now)
            if window in SHORT_WINDOWS:
                recent = [
                    one for each in series for one in each.recent if start <= one.started_at < now + AHEAD_SECONDS
                ]
                found[window] = recent_figures(kind, recent, rule.policy, quantiles, expected, price)
            else:
                place = list(LONG_WINDOWS).index(window)
                tallies = [each.long[place] for each in series]
                found[window] = long_figures(kind, tallies, rule.policy, quantiles, expected, price)
        return found


def _next_change(series: KindSeries | None, eras: Sequence[Era], now: float) -> float:
    """When an entry or a slot next comes into a short window or leaves one, by time alone."""
    spans = tuple(SHORT_WINDOWS.values())
    changes = [_NEVER]
    for one in () if series is None else series.recent:
        changes += [one.started_at + span for span in spans if one.started_at + span > now]
        if one.started_at - AHEAD_SECONDS > now:
            changes.append(one.started_at - AHEAD_SECONDS)
    for era in eras:
        for start in (now, *(now - span for span in spans)):
            due_at = era.cadence.due_at(era.cadence.slot_from(max(start, era.since)))
            if era.until is None or due_at < era.until:
                changes.append(due_at + (now - start))
    # A moment later: a window is closed at its beginning and open at its end.
    return min(changes) + 0.001
