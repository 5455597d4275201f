"""The snapshot that a router polls: every endpoint's state, figures and price as plain JSON values. Pure.

An endpoint's part is encoded once per view and kept; only its age is written anew, so that a snapshot is a joining of
bytes. Unknown is null, and a figure without samples is null too.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass

import msgspec

from monitor.clock import utc_text
from monitor.health.sketch import FIGURES
from monitor.health.view import EndpointView, WindowFigures

JsonObject = dict[str, object]


def stamp(at: float | None) -> str | None:
    """RFC 3339 in UTC, milliseconds."""
    return None if at is None else utc_text(at)


@functools.lru_cache(maxsize=256)
def quantile_name(quantile: float) -> str:
    """`0.99`, as in the metrics' `quantile` label: of a speed, `0.01` is the slow tail."""
    return f"{quantile:g}"


def counts_object(figures: WindowFigures) -> JsonObject:
    """One window's counts and ratios (0..1)."""
    return {
        "samples": figures.samples,
        "successes": figures.successes,
        "seen": figures.seen,
        "expected": figures.expected,
        "uptime_ratio": figures.uptime_ratio,
        "coverage_ratio": figures.coverage_ratio,
        "throttled_ratio": figures.throttled_ratio,
        "answer_ok_ratio": figures.answer_ok_ratio,
    }


def quantiles_object(figures: WindowFigures) -> JsonObject:
    """Each figure's quantiles in one window, in seconds or tokens per second; null without a sample."""
    return {figure: _quantiles(figures.quantiles.get(figure)) for figure in FIGURES}


def _quantiles(values: Mapping[float, float] | None) -> dict[str, float] | None:
    if not values:
        return None
    # Six digits: the sketches are good for two, and 17 would triple the body.
    return {quantile_name(quantile): float(f"{values[quantile]:.6g}") for quantile in sorted(values)}


def endpoint_object(view: EndpointView, performance_windows: Container[str]) -> JsonObject:
    """One endpoint as of its view; figures only in the windows whose quantiles are kept, so that null always means
    unknown. Its age is left to whoever knows what time it is."""
    endpoint = view.endpoint
    return {
        "endpoint": endpoint.id,
        "model": endpoint.model,
        "provider": endpoint.provider,
        "suffix": endpoint.suffix or None,
        "state": view.state.value,
        "cause": view.cause,
        "state_since": stamp(view.state_since),
        "usable": view.usable,
        "unusable_cause": view.unusable_cause,
        "observed_at": stamp(view.last_probe_at),
        "last_success_at": stamp(view.last_success_at),
        "interval_seconds": view.interval_seconds,
        "price_usd_per_million_tokens": None if endpoint.price is None else asdict(endpoint.price),
        "windows": {
            window: counts_object(figures) | (quantiles_object(figures) if window in performance_windows else {})
            for window, figures in view.windows.items()
        },
    }


@dataclass(frozen=True, slots=True)
class Part:
    """One endpoint's encoded object without its age and its closing brace."""

    view: EndpointView
    opened: bytes

    @classmethod
    def of(cls, view: EndpointView, performance_windows: Container[str]) -> Part:
        return cls(view, msgspec.json.encode(endpoint_object(view, performance_windows))[:-1])

    def closed(self, now: float) -> bytes:
        """The whole object; `age_seconds` since the last probe began, null before the first one."""
        if self.view.last_probe_at is None:
            return self.opened + b',"age_seconds":null}'
        # A wall clock that was stepped back makes no negative age.
        return self.opened + f',"age_seconds":{max(now - self.view.last_probe_at, 0.0):.1f}}}'.encode()


def snapshot_head(now: float, location: str | None, notice: str | None = None) -> bytes:
    """What stands before the endpoints: `generated_at` and `location` (null = pooled over all)."""
    head: JsonObject = {"notice": notice} if notice else {}
    head |= {"generated_at": utc_text(now), "location": location}
    return msgspec.json.encode(head)[:-1] + b',"endpoints":['


SNAPSHOT_END = b"]}"


def snapshot(parts: Iterable[Part], now: float, location: str | None, notice: str | None = None) -> bytes:
    """The whole document: the head and one object per endpoint."""
    return snapshot_head(now, location, notice) + b",".join(part.closed(now) for part in parts) + SNAPSHOT_END
