"""The shapes of OpenRouter's API: models, providers and endpoints, field for field, and ours beside them. Pure.

There `latency_last_30m` is the time to first token in milliseconds, uptimes are 0..100, and a throughput's p90 is what
nine of ten requests beat: the slow side. Prices are text, USD per token. Unknown is null; an optional price that does
not exist is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from monitor.catalog.model import Endpoint, Model, Price, Provider
from monitor.health.state import State
from monitor.health.uptime import percent, ratio
from monitor.health.vantage import Finding
from monitor.health.view import (
    API_PERFORMANCE_WINDOW,
    API_QUANTILES,
    EndpointView,
    Vantage,
    WindowFigures,
    mirrored,
)
from monitor.routing.kinds import kinds_object
from monitor.routing.values import JsonObject, stamp

_TOKENS_PER_PRICE = Decimal(1_000_000)
_MILLISECONDS = 1000

# OpenRouter does not say what its negative numbers mean; readers take 0 as well and anything below as not.
STATUS_UNUSABLE = -10
STATUS_OF: Mapping[State, int | None] = {
    State.OPERATIONAL: 0,
    State.DEGRADED: -1,
    State.DOWN: -5,
    State.UNKNOWN: None,
}
_UPTIME_FIELDS = {
    "uptime_last_5m": "5m",
    "uptime_last_30m": "30m",
    "uptime_last_1d": "1d",
    "uptime_last_7d": "7d",
    "uptime_last_30d": "30d",
}


def price_text(usd_per_million: float | None) -> str | None:
    """USD per token as text: exact, without an exponent. 0.15 -> "0.00000015"."""
    if usd_per_million is None:
        return None
    # repr first: Decimal(0.15) would be 0.1499999999999999944.
    per_token = Decimal(repr(float(usd_per_million))) / _TOKENS_PER_PRICE
    text = f"{per_token:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def pricing_object(price: Price | None) -> JsonObject:
    known = price or Price()
    pricing: JsonObject = {"prompt": price_text(known.input), "completion": price_text(known.output)}
    for name, usd in (("input_cache_read", known.cache_read), ("input_cache_write", known.cache_write)):
        if usd is not None:
            pricing[name] = price_text(usd)
    return pricing | {"discount": 0}


def endpoint_object(
    model: Model,
    provider: Provider | None,
    view: EndpointView,
    performance_windows: Container[str] = (API_PERFORMANCE_WINDOW,),
) -> JsonObject:
    """One endpoint of `model` as OpenRouter lists it; `endpoint` and everything from `uptime_last_7d` on is ours."""
    endpoint = view.endpoint
    provider_name = provider.name if provider else endpoint.provider
    recent = view.windows.get(API_PERFORMANCE_WINDOW)
    latency = _percentiles(recent, "ttft_seconds", _MILLISECONDS)
    throughput = _percentiles(recent, "throughput_tokens_per_second", 1)
    uptimes = {field: _uptime(view.windows.get(window)) for field, window in _UPTIME_FIELDS.items()}
    return {
        "name": f"{provider_name} | {model.slug}",
        "model_id": model.slug,
        "model_name": model.name,
        "context_length": model.context_length,
        "pricing": pricing_object(endpoint.price),
        "provider_name": provider_name,
        "tag": endpoint.tag,
        "quantization": endpoint.quantization,
        "max_completion_tokens": endpoint.max_completion_tokens,
        "max_prompt_tokens": None,
        "supported_parameters": list(endpoint.supported_parameters),
        "status": status_of(view),
        **uptimes,
        "supports_implicit_caching": None,
        "supports_voice_cloning": False,
        "supports_image_reference": False,
        "supports_multiple_audio_references": False,
        "supports_tool_choice": None,
        "native_tools": {},
        "latency_last_30m": latency,
        "throughput_last_30m": throughput,
        "perf_last_30m_by_workload": None
        if recent is None or not recent.seen
        else {"text_generation": {"request_count": recent.seen, "latency": latency, "throughput": throughput}},
        "endpoint": endpoint.id,
        "samples": {window: figures.samples for window, figures in view.windows.items()},
        "coverage": {window: figures.coverage_ratio for window, figures in view.windows.items()},
        "state": view.state.value,
        "cause": view.cause,
        "state_since": stamp(view.state_since),
        "usable": view.usable,
        "unusable_cause": view.unusable_cause,
        "interval_seconds": view.interval_seconds,
        "observed_at": stamp(view.last_probe_at),
        "kinds": kinds_object(view.kinds, performance_windows),
        "location_suspect": view.vantage is Vantage.SUSPECT,
        "locations": view.places,
    }


def status_of(view: EndpointView) -> int | None:
    return STATUS_OF[view.state] if view.usable else STATUS_UNUSABLE


def _uptime(figures: WindowFigures | None) -> float | None:
    return None if figures is None else percent(figures.uptime_ratio)


def _percentiles(figures: WindowFigures | None, figure: str, factor: float) -> dict[str, float] | None:
    values = {} if figures is None else figures.quantiles.get(figure, {})
    if not values:
        return None
    return {
        f"p{quantile * 100:g}": round(values[mirrored(figure, quantile)] * factor, 2)
        for quantile in API_QUANTILES
        if mirrored(figure, quantile) in values
    }


def described(model: Model) -> JsonObject:
    """What a model's own page and its list of endpoints share."""
    return {
        "id": model.slug,
        "name": model.name,
        "created": _released(model.released),
        "description": model.description,
        "architecture": {
            "modality": f"{'+'.join(model.input_modalities)}->{'+'.join(model.output_modalities)}",
            "input_modalities": list(model.input_modalities),
            "output_modalities": list(model.output_modalities),
            "tokenizer": None,
            "instruct_type": None,
        },
    }


def model_object(model: Model, views: Sequence[EndpointView]) -> JsonObject:
    """One model as OpenRouter lists it, priced as its cheapest endpoint; `endpoint_count` and what follows is ours."""
    endpoints = model.endpoints
    longest = [endpoint.max_completion_tokens for endpoint in endpoints if endpoint.max_completion_tokens is not None]
    parameters = dict.fromkeys(name for endpoint in endpoints for name in endpoint.supported_parameters)
    return {
        **described(model),
        "canonical_slug": model.slug,
        "context_length": model.context_length,
        "pricing": pricing_object(_cheapest(endpoints)),
        "top_provider": {
            "context_length": model.context_length,
            "max_completion_tokens": max(longest, default=None),
            "is_moderated": False,
        },
        "per_request_limits": None,
        "supported_parameters": list(parameters),
        "default_parameters": None,
        "supported_voices": None,
        "knowledge_cutoff": model.knowledge_cutoff,
        "links": {"details": f"/api/v1/models/{model.slug}/endpoints"},
        "endpoint_count": len(endpoints),
        **summary(views),
    }


def provider_object(provider: Provider, endpoints: Summary, suspects: Container[str] = ()) -> JsonObject:
    """One provider as OpenRouter lists it; `endpoint_count` and what follows is ours. `suspects`: locations whose word
    is not believed."""
    return {
        "name": provider.name,
        "slug": provider.slug,
        "privacy_policy_url": None,
        "terms_of_service_url": None,
        "status_page_url": None,
        "headquarters": None,
        "datacenters": None,
        "endpoint_count": endpoints.count,
        **endpoints.object(),
        "down_at": [location for location in endpoints.down_at() if location not in suspects],
    }


class Summary:
    """Endpoints by state, and uptime pooled from counts; views are added one by one."""

    def __init__(self, views: Iterable[EndpointView] = ()) -> None:
        self.count = 0
        self._states: Counter[State] = Counter()
        self._usable = self._successes = self._samples = 0
        self._places: dict[str, Counter[State]] = {}
        for view in views:
            self.add(view)

    def add(self, view: EndpointView) -> None:
        self.count += 1
        self._states[view.state] += 1
        self._usable += view.usable
        if (month := view.windows.get("30d")) is not None:
            self._successes += month.successes
            self._samples += month.samples
        for location, state in view.places.items():
            self._places.setdefault(location, Counter())[state] += 1

    def down_at(self) -> list[str]:
        """The locations, of several, from which all that is known is down."""
        return [
            location
            for location, states in sorted(self._places.items())
            if states[State.DOWN] and states[State.DOWN] == states.total() - states[State.UNKNOWN]
        ]

    def object(self) -> JsonObject:
        return {
            "states": {state.value: self._states[state] for state in State},
            "usable_count": self._usable,
            "uptime_last_30d": percent(ratio(self._successes, self._samples)),
            "samples_last_30d": self._samples,
        }


def summary(views: Iterable[EndpointView]) -> JsonObject:
    return Summary(views).object()


def location_object(finding: Finding, views: Iterable[EndpointView]) -> JsonObject:
    """One location: what its word is worth, and what it says."""
    found = Summary(views)
    return {
        "location": finding.location,
        "vantage": finding.vantage.value,
        "suspect_since": stamp(finding.since),
        "detail": finding.detail,
        "observed_at": stamp(finding.observed_at),
        "endpoint_count": found.count,
        **found.object(),
    }


def _cheapest(endpoints: Sequence[Endpoint]) -> Price | None:
    priced = [price for endpoint in endpoints if (price := endpoint.price) is not None]
    whole = [price for price in priced if price.input is not None and price.output is not None]
    return min(whole or priced, key=lambda price: (price.input or 0.0) + (price.output or 0.0), default=None)


def _released(day: str | None) -> int | None:
    return None if day is None else int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
