"""What the health room shows of an endpoint: frozen values that web and routing read and never compute."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from monitor.catalog.model import Endpoint
from monitor.health.sketch import FIGURES, SECONDS
from monitor.health.state import State
from monitor.health.uptime import GroupCounts, ratio
from monitor.outcome import Outcome

# What OpenRouter's API shows, so that the JSON API finds them in every view whatever the exporter is told to export.
API_QUANTILES = (0.5, 0.75, 0.9, 0.99)
API_PERFORMANCE_WINDOW = "30m"
LONGEST_SECONDS = 30 * 86_400.0

# None of these is ever part of a cycle, and 10,000 endpoints have 70,000 of them: the collector passes them by.


def mirrored(figure: str, quantile: float) -> float:
    """The quantile of `figure` that is as bad as `quantile` is of a time: of a speed, its slow tail (0.9 -> 0.1)."""
    return quantile if FIGURES[figure] is SECONDS else round(1 - quantile, 9)


def figure_quantiles(figure: str, quantiles: Sequence[float]) -> tuple[float, ...]:
    """`quantiles`, as configured for times, mirrored for `figure`: (0.5, 0.9, 0.99) of a speed are 0.5, 0.1, 0.01."""
    return _figure_quantiles(figure, tuple(quantiles))


@functools.lru_cache(maxsize=256)
def _figure_quantiles(figure: str, quantiles: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(mirrored(figure, quantile) for quantile in quantiles)


class WindowFigures(msgspec.Struct, frozen=True, gc=False):
    """One rolling window of one endpoint, or of many pooled. Ratios are floored to 6 decimals, None without samples.

    `samples` = successes + provider faults; `expected` = slots that fell due; `seen` = scheduled observations outside
    monitor_fault. `quantiles` are statistical, figure -> quantile -> value in the figure's unit: keys of a speed are
    those of `figure_quantiles`. A figure without samples is absent.
    """

    samples: int
    successes: int
    seen: int
    expected: int
    uptime_ratio: float | None
    coverage_ratio: float | None
    throttled_ratio: float | None
    answer_ok_ratio: float | None
    quantiles: Mapping[str, Mapping[float, float]] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        counts: GroupCounts,
        answers_asked: int,
        answers_ok: int,
        expected: int,
        quantiles: Mapping[str, Mapping[float, float]],
    ) -> WindowFigures:
        return cls(
            samples=counts.samples,
            successes=counts.ok,
            seen=counts.seen,
            expected=expected,
            uptime_ratio=counts.uptime_ratio(),
            coverage_ratio=counts.coverage_ratio(expected),
            throttled_ratio=counts.throttled_ratio(),
            answer_ok_ratio=ratio(answers_ok, answers_asked),
            quantiles=quantiles,
        )


class KindFigures(WindowFigures, frozen=True, gc=False):
    """One rolling window of one kind of probe other than chat; quantiles are those of `kind_windows.figures_of_kind`.
    None where the kind has no such figure, or no sample."""

    prompt_tokens: float | None = None  # on average, as usage says
    cached_ratio: float | None = None  # of the prompts' tokens, pooled
    saved_usd: float | None = None  # a probe, at the price now configured


class KindView(msgspec.Struct, frozen=True, gc=False):
    """One kind of probe of one endpoint, seen from one location. Stamps are UTC seconds; None = unknown."""

    kind: str
    interval_seconds: float
    last_probe_at: float | None
    last_success_at: float | None
    windows: Mapping[str, KindFigures]


class Vantage(StrEnum):
    """What a location's word is worth: see `health/vantage.py`."""

    SOUND = "sound"
    SUSPECT = "suspect"  # it fails alone: its word against providers is not believed
    STALE = "stale"  # nothing new comes from there


_NOWHERE: Mapping[str, State] = {}  # of 10,000 views one, and not one each


class EndpointView(msgspec.Struct, frozen=True, gc=False):
    """One endpoint seen from one location. A view is never changed: a changed endpoint gets a new one, with a greater
    `version`, so what is rendered from a view may be kept for as long as the Board hands out that same object.

    Stamps are UTC seconds; None = unknown. `cause` names the outcome class (or `throttled`) that a degraded or down
    state is about; where it is about none, the class (`unknown_model`, ...) by which our own request is refused, until
    a probe succeeds. `unusable_cause` is the class (`auth`, `secret_missing`, ...) that made `usable` False. `detail`
    is the redacted message that came with the cause. `windows` hold every window; quantiles only where
    `Board.performance_windows` says so. `is_watched` is False where nobody probes any more: the windows tell of the
    past, the state is unknown. `vantage` is the location's; the state is as measured there, whatever that is worth.
    Pooled over several locations, `places` are the states at those that still tell, and `vantage` is suspect where the
    word of one was not believed. `kinds` are those other than chat that it is configured with, in that order.
    `probes_total` counts this process's own probes of the kind that decides, rechecks included, and `cost_usd_total`
    what those of all kinds cost.
    """

    endpoint: Endpoint
    location: str
    state: State
    cause: str | None
    state_since: float | None
    usable: bool
    interval_seconds: float
    last_probe_at: float | None
    last_success_at: float | None
    windows: Mapping[str, WindowFigures]
    probes_total: Mapping[Outcome, int]
    cost_usd_total: float
    unusable_cause: str | None = None
    detail: str | None = None
    is_watched: bool = True
    kinds: Mapping[str, KindView] = msgspec.field(default_factory=dict)
    version: int = 0
    vantage: Vantage = Vantage.SOUND
    places: Mapping[str, State] = msgspec.field(default_factory=lambda: _NOWHERE)

    def has_data(self, now: float) -> bool:
        """Whether anything was seen within the longest window."""
        return self.windows["30d"].seen > 0 or (
            self.last_probe_at is not None and now - self.last_probe_at <= LONGEST_SECONDS
        )
