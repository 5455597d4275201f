"""The pages of two monitors that share a database: the real exposition over views made by hand.

Both serve the same endpoints as seen from two locations; their counters are their own. One endpoint is down, one
degraded, one unusable and unknown, so that every query has something to find.
"""

from __future__ import annotations

from typing import Any

from monitor.catalog.model import Endpoint, Price
from monitor.clock import FakeClock
from monitor.health.state import State
from monitor.health.view import EndpointView, KindFigures, KindView, WindowFigures, figure_quantiles
from monitor.outcome import Outcome
from monitor.self_metrics import SelfMetrics
from monitor.settings import ExportSettings
from monitor.web.exposition import Exposition
from monitor.web.formats import TEXT, Format

LOCATIONS = ("fra", "iad")
MODELS = ("openai/gpt-4o-mini", "meta/llama-3.3-70b", "acme/thinker-v2.5")
OFFERS = (("acme", ""), ("azure", "us-east"), ("azure", "eu-west"), ("zeta", ""))
ENDPOINTS = len(LOCATIONS) * len(MODELS) * len(OFFERS)
INTERVAL = 60.0

DOWN = ("openai/gpt-4o-mini", "zeta", "", "iad")
DEGRADED = ("meta/llama-3.3-70b", "azure", "us-east", "fra")
UNUSABLE = ("acme/thinker-v2.5", "zeta", "", "fra")

_SPANS = {"5m": 300, "30m": 1800, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}
_EXPORT = ExportSettings()


def samples_of(key: tuple[str, str, str, str], span: str) -> int:
    return 0 if key == UNUSABLE else int(_SPANS[span] / INTERVAL) - (3 if key[1] == "zeta" else 0)


def successes_of(key: tuple[str, str, str, str], span: str) -> int:
    return max(samples_of(key, span) - (40 if key == DOWN else 1 if key[1] == "azure" else 0), 0)


def _figures(key: tuple[str, str, str, str], span: str, slowness: float) -> WindowFigures:
    samples, successes = samples_of(key, span), successes_of(key, span)
    spread = {0.01: 0.2, 0.1: 0.5, 0.5: 1.0, 0.9: 1.6, 0.99: 3.0}
    typical = {
        "ttft_seconds": 0.35 * slowness,
        "latency_seconds": 1.9 * slowness,
        "output_tokens_per_second": 80 / slowness,
        "throughput_tokens_per_second": 40 / slowness,
    }
    return WindowFigures(
        samples=samples,
        successes=successes,
        seen=samples,
        expected=int(_SPANS[span] / INTERVAL),
        uptime_ratio=int(1e6 * successes / samples) / 1e6 if samples else None,
        coverage_ratio=int(1e6 * samples * INTERVAL / _SPANS[span]) / 1e6,
        throttled_ratio=0.01 if samples else None,
        answer_ok_ratio=0.995 if successes else None,
        quantiles={
            name: {rank: value * spread[rank] for rank in figure_quantiles(name, _EXPORT.quantiles)}
            for name, value in typical.items()
        }
        if successes
        else {},
    )


def _kinds(now: float) -> dict[str, KindView]:
    """A long, a cache and a tools probe an hour."""
    hourly = {span: max(seconds // 3600, 1) for span, seconds in _SPANS.items()}
    figures: dict[str, dict[str, Any]] = {
        "long": {"prompt_tokens": 4200.0, "quantiles": {"prefill_tokens_per_second": {0.5: 6000.0, 0.1: 4000.0}}},
        "cache": {"prompt_tokens": 2400.0, "cached_ratio": 0.9, "saved_usd": 0.0002},
        "tools": {},
    }
    return {
        kind: KindView(
            kind,
            3600.0,
            now - 600,
            now - 600,
            {
                span: KindFigures(count, count, count, count, 1.0, 1.0, 0.0, 0.99, **{"quantiles": {}, **more})
                for span, count in hourly.items()
            },
        )
        for kind, more in figures.items()
    }


def _view(key: tuple[str, str, str, str], now: float, ran_seconds: float, slowness: float) -> EndpointView:
    model, provider, suffix, location = key
    endpoint = Endpoint(
        model=model,
        provider=provider,
        suffix=suffix,
        dialect="openai-chat",
        base_url="https://upstream.example/v1",
        upstream="upstream",
        interval_seconds=INTERVAL,
        price=Price(input=0.15, output=0.6, cache_read=0.075, cache_write=0.2),
    )
    state = {DOWN: State.DOWN, DEGRADED: State.DEGRADED, UNUSABLE: State.UNKNOWN}.get(key, State.OPERATIONAL)
    made = int(ran_seconds * 10)
    return EndpointView(
        endpoint=endpoint,
        location=location,
        state=state,
        cause=None,
        state_since=now - 100,
        usable=key != UNUSABLE,
        interval_seconds=900.0 if key == UNUSABLE else INTERVAL,
        last_probe_at=now - 12,
        last_success_at=None if key == UNUSABLE else now - 15,
        windows={span: _figures(key, span, slowness) for span in _SPANS},
        probes_total={Outcome.AUTH: made} if key == UNUSABLE else {Outcome.SUCCESS: made, Outcome.RATE_LIMITED: made},
        cost_usd_total=made * 1e-5,
        kinds=_kinds(now),
    )


class Monitor:
    """One process: its page at a moment, its counters growing with the time that it ran."""

    def __init__(self, started_at: float) -> None:
        self._started_at = started_at
        self._counted = 0
        self._metrics = SelfMetrics("0.1.0")
        self._metrics.database_up.set(1)
        self._exposition = Exposition(self._metrics.registry, FakeClock())

    async def page(self, now: float, form: Format = TEXT) -> bytes:
        ran = now - self._started_at
        keys = [
            (model, provider, suffix, location)
            for model in MODELS
            for provider, suffix in OFFERS
            for location in LOCATIONS
        ]
        views = [_view(key, now, ran, 1 + 0.1 * number) for number, key in enumerate(keys)]
        await self._exposition.refresh(views, _EXPORT)
        metrics = self._metrics
        metrics.self_suspect.set(0)
        metrics.show_locations(dict.fromkeys(LOCATIONS, False))
        metrics.budget_used_ratio.set(0.4)
        metrics.reload_successful.set(1)
        metrics.reload_success_timestamp.set(self._started_at)
        metrics.probes_in_flight.set(3)
        metrics.write_queue.set(2)
        metrics.observations_spilled.set(0)
        ticks, self._counted = int(ran * 20) - self._counted, int(ran * 20)
        for _ in range(ticks):
            metrics.event_loop_lag.observe(0.0008)
            metrics.probe_start_delay.observe(0.004)
            metrics.observations_written.inc()
        metrics.probes_skipped.labels("overlap").inc(ticks)
        return b"".join(self._exposition.page(form, "a sample for the tests"))
