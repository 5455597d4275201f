"""The probe kinds other than chat as plain JSON values. Pure. Unknown is null."""

from __future__ import annotations

from collections.abc import Container, Mapping

from monitor.health.kind_windows import figures_of_kind
from monitor.health.view import KindFigures, KindView
from monitor.routing.values import JsonObject, quantiles_of, stamp


def kinds_object(kinds: Mapping[str, KindView], performance_windows: Container[str]) -> JsonObject:
    """By kind; quantiles only in the windows where they are kept."""
    return {kind: _kind_object(view, performance_windows) for kind, view in kinds.items()}


def _kind_object(view: KindView, performance_windows: Container[str]) -> JsonObject:
    return {
        "interval_seconds": view.interval_seconds,
        "observed_at": stamp(view.last_probe_at),
        "last_success_at": stamp(view.last_success_at),
        "windows": {
            window: _window_object(view.kind, figures, has_quantiles=window in performance_windows)
            for window, figures in view.windows.items()
        },
    }


def _window_object(kind: str, figures: KindFigures, *, has_quantiles: bool) -> JsonObject:
    found: JsonObject = {
        "samples": figures.samples,
        "successes": figures.successes,
        "seen": figures.seen,
        "expected": figures.expected,
        "success_ratio": figures.uptime_ratio,
        "coverage_ratio": figures.coverage_ratio,
        "throttled_ratio": figures.throttled_ratio,
        "answer_ok_ratio": figures.answer_ok_ratio,
    }
    if kind in ("long", "cache"):
        found["prompt_tokens"] = figures.prompt_tokens
    if kind == "cache":
        found |= {"cached_ratio": figures.cached_ratio, "saved_usd": figures.saved_usd}
    if has_quantiles:
        found |= {figure: quantiles_of(figures.quantiles.get(figure)) for figure in figures_of_kind(kind)}
    return found
