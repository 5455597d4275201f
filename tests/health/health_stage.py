"""What the health tests share: observations by the handful, a catalog, and storage as it should behave, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monitor.catalog.model import Catalog, Endpoint, Model, Provider
from monitor.health.restore_plan import RestoreRanges
from monitor.health.rows import TallyRows, rows_of
from monitor.health.sketch import FIGURES
from monitor.health.spans import AHEAD_SECONDS, DAY, LONG_WINDOWS, SHORT_WINDOWS, floor_hour
from monitor.health.tally import Tally, figure_values
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import Settings

NOW = 1_700_000_000.0
HERE = "here"

Place = tuple[str, str, str]


def endpoint(model: str = "author/model", provider: str = "acme", **changes: Any) -> Endpoint:
    fields: dict[str, Any] = {
        "suffix": "",
        "dialect": "openai-chat",
        "base_url": "https://acme.example/v1",
        "upstream": "model",
        "interval_seconds": 60.0,
    }
    return Endpoint(model=model, provider=provider, **{**fields, **changes})


ONE = endpoint()
OTHER = endpoint("author/other")


def catalog(*endpoints: Endpoint) -> Catalog:
    return Catalog(
        {one.provider: Provider(one.provider, one.provider, None) for one in endpoints},
        {one.model: Model(one.model, one.model, endpoints=(one,)) for one in endpoints},
        {one.id: one for one in endpoints},
    )


def settings(*endpoints: Endpoint, **changes: Any) -> Settings:
    fields: dict[str, Any] = {"path": Path("monitor.yaml"), "location": HERE}
    return Settings(catalog=catalog(*(endpoints or (ONE,))), **{**fields, **changes})


def probe(
    started_at: float, outcome: Outcome = Outcome.SUCCESS, of: Endpoint = ONE, location: str = HERE, **fields: Any
) -> Observation:
    """The scheduled probe that began at `started_at`: due when it began, unless `fields` say otherwise."""
    return Observation(
        **{
            "endpoint": of.id,
            "location": location,
            "slot": round(started_at),
            "due_at": started_at,
            "started_at": started_at,
            "outcome": outcome,
            **fields,
        }
    )


class Rollups:
    """What storage keeps: raw rows, and hours and days that are closed and merge what comes late."""

    def __init__(self, now: float) -> None:
        self.raw: list[Observation] = []
        self.hours_until = floor_hour(now)
        self._hours: dict[int, dict[Place, Tally]] = {}
        self._days: dict[int, dict[Place, Tally]] = {}

    @property
    def days_until(self) -> int:
        return self.hours_until // DAY * DAY

    def commit(self, observations: Iterable[Observation]) -> None:
        for one in observations:
            self.raw.append(one)
            if one.recheck == 0:
                hour, day = floor_hour(one.started_at), int(one.started_at // DAY) * DAY
                if hour < self.hours_until:
                    _tally(self._hours, hour, one).add(one)
                if day < self.days_until:
                    _tally(self._days, day, one).add(one)

    def close(self, until_hour: int) -> None:
        if until_hour <= self.hours_until:
            return
        for one in self.raw:
            hour = floor_hour(one.started_at)
            if one.recheck == 0 and self.hours_until <= hour < until_hour:
                _tally(self._hours, hour, one).add(one)
        days_until = self.days_until
        self.hours_until = until_hour
        for one in self.raw:
            day = int(one.started_at // DAY) * DAY
            if one.recheck == 0 and days_until <= day < self.days_until:
                _tally(self._days, day, one).add(one)

    def hours(self, start: int, end: int) -> TallyRows:
        return _rows(self._hours, start, end)

    def days(self, start: int, end: int) -> TallyRows:
        return _rows(self._days, start, end)

    def leaving(self, spans: Mapping[str, tuple[int, int]]) -> dict[str, TallyRows]:
        return {window: self.hours(*span) for window, span in spans.items()}

    def tail(self, ranges: RestoreRanges) -> list[Observation]:
        found = [one for one in self.raw if one.started_at >= ranges.tail_since]
        return sorted(found, key=lambda one: (one.due_at, one.recheck))


def _tally(buckets: dict[int, dict[Place, Tally]], start: int, one: Observation) -> Tally:
    return buckets.setdefault(start, {}).setdefault((one.endpoint, one.location, one.kind), Tally())


def _rows(buckets: Mapping[int, Mapping[Place, Tally]], start: int, end: int) -> TallyRows:
    return rows_of(
        (bucket, *place, tally)
        for bucket, tallies in sorted(buckets.items())
        if start <= bucket < end
        for place, tally in tallies.items()
    )


class Exact:
    """One window over the raw rows themselves, as SQL would tell."""

    def __init__(self, raw: Iterable[Observation], window: str, now: float, edge_hour: int | None = None) -> None:
        if window in SHORT_WINDOWS:
            self.start = now - SHORT_WINDOWS[window]
        else:
            self.start = (floor_hour(now) if edge_hour is None else edge_hour) - LONG_WINDOWS[window]
        end = now + AHEAD_SECONDS if window in SHORT_WINDOWS else float("inf")
        scheduled = (one for one in raw if one.recheck == 0 and one.kind == "chat")
        self.rows = [one for one in scheduled if self.start <= one.started_at < end]
        self.counts = Counter(one.outcome for one in self.rows)
        looked_at = [one.answer_ok for one in self.rows if one.outcome is Outcome.SUCCESS and one.answer_ok is not None]
        self.asked, self.answered = len(looked_at), sum(looked_at)

    def values(self, figure: str) -> list[float]:
        return sorted(value for one in self.rows if (value := figure_values(one).get(figure)) is not None)


def figures_of(value: float) -> dict[str, float]:
    """One value for each figure, all different."""
    return {name: value * (1 + place / 7) for place, name in enumerate(FIGURES)}


def of_series(raw: Sequence[Observation], of: str, location: str = HERE) -> list[Observation]:
    return [one for one in raw if one.endpoint == of and one.location == location]
