"""Every metric family of GET /metrics, in the order of the page. docs/metrics.md is checked against this table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from monitor.self_metrics import LATE_LABELS

FamilyType = Literal["gauge", "counter", "summary", "histogram"]

_UNITS = ("seconds", "ratio", "usd")

# `suffix` is left out of a series where the provider offers the model once.
ENDPOINT_LABELS = ("model", "provider", "suffix", "location")


@dataclass(frozen=True, slots=True)
class Family:
    """One family: its full name (a counter's with _total), and its labels beyond ENDPOINT_LABELS, if `per_endpoint`."""

    name: str
    type: FamilyType
    help: str
    labels: tuple[str, ...] = ()
    per_endpoint: bool = True

    @property
    def all_labels(self) -> tuple[str, ...]:
        return (*ENDPOINT_LABELS, *self.labels) if self.per_endpoint else self.labels

    @property
    def unit(self) -> str:
        """The base unit that its name ends with, as OpenMetrics asks; empty where that is none."""
        return unit_of(self.name.removesuffix("_total"))


def unit_of(name: str) -> str:
    """Of a family's name without _total."""
    return next((unit for unit in _UNITS if name.endswith(f"_{unit}") and not name.endswith(f"_per_{unit}")), "")


_WINDOW = ("window",)
# promtool refuses the label `quantile` on a gauge: these are summaries over a sliding window, without _sum and _count.
_QUANTILES = ("window", "quantile")

ENDPOINT_FAMILIES: tuple[Family, ...] = (
    Family(
        "llm_endpoint_up",
        "gauge",
        "Whether the endpoint is operational or degraded (1) or down (0), left out while its state is unknown.",
    ),
    Family(
        "llm_endpoint_usable",
        "gauge",
        "Whether the endpoint can be used with the monitor's key (1), or our key, quota or configuration rules it out "
        "(0).",
    ),
    Family(
        "llm_endpoint_degraded",
        "gauge",
        "Whether the endpoint is degraded (1), left out while its state is unknown.",
    ),
    Family(
        "llm_endpoint_uptime_ratio",
        "gauge",
        "Share of the samples of the rolling window that succeeded, from 0 to 1, floored to six decimals.",
        _WINDOW,
    ),
    Family(
        "llm_endpoint_samples",
        "gauge",
        "Scheduled probes of the rolling window that speak of the provider: successes and provider faults.",
        _WINDOW,
    ),
    Family(
        "llm_endpoint_successes",
        "gauge",
        "Scheduled probes of the rolling window that succeeded.",
        _WINDOW,
    ),
    Family(
        "llm_endpoint_coverage_ratio",
        "gauge",
        "Share of the slots that fell due in the rolling window that were probed, from 0 to 1.",
        _WINDOW,
    ),
    Family(
        "llm_endpoint_throttled_ratio",
        "gauge",
        "Share of the probes of the rolling window that the provider throttled, which uptime leaves out, from 0 to 1.",
        _WINDOW,
    ),
    Family(
        "llm_endpoint_answer_ok_ratio",
        "gauge",
        "Share of the answers of the rolling window that contained what the prompt asked for, from 0 to 1.",
        _WINDOW,
    ),
    Family(
        "llm_endpoint_ttft_seconds",
        "summary",
        "Time from the request's first byte to the first generated token, of the window's successes.",
        _QUANTILES,
    ),
    Family(
        "llm_endpoint_latency_seconds",
        "summary",
        "Time from the request's first byte to the end of the answer, of the window's successes.",
        _QUANTILES,
    ),
    Family(
        "llm_endpoint_output_tokens_per_second",
        "summary",
        "Speed of writing once the first token has come; quantile 0.1 is the slow tail.",
        _QUANTILES,
    ),
    Family(
        "llm_endpoint_throughput_tokens_per_second",
        "summary",
        "Output tokens over the whole time that a caller waits, queueing included; quantile 0.1 is the slow tail.",
        _QUANTILES,
    ),
    Family(
        "llm_endpoint_probe_interval_seconds",
        "gauge",
        "Time between two scheduled probes as it is now, stretched by the budget or an unusable key.",
    ),
    Family(
        "llm_endpoint_last_probe_timestamp_seconds",
        "gauge",
        "When the last probe began, in seconds since the epoch.",
    ),
    Family(
        "llm_endpoint_last_success_timestamp_seconds",
        "gauge",
        "When the last probe that succeeded began, in seconds since the epoch.",
    ),
    Family(
        "llm_endpoint_price_usd_per_million_tokens",
        "gauge",
        "The configured price in USD per million tokens, by kind: input, output, cache_read or cache_write.",
        ("kind",),
    ),
    Family(
        "llm_probes_total",
        "counter",
        "Probes that this process has finished, rechecks included and other kinds left out, by outcome class.",
        ("outcome",),
    ),
    Family(
        "llm_probe_cost_usd_total",
        "counter",
        "What the probes of this process, of every kind, have cost in USD, rechecks included.",
    ),
)


_KIND = ("kind",)
_KIND_WINDOW = ("kind", "window")
_KIND_QUANTILES = ("kind", "window", "quantile")

# Of the kinds of probe other than chat. The families above are of the kind that decides, chat where it is asked.
KIND_FAMILIES: tuple[Family, ...] = (
    Family(
        "llm_kind_success_ratio",
        "gauge",
        "Share of the samples of a kind of probe in the rolling window that succeeded, from 0 to 1, floored to six "
        "decimals.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_samples",
        "gauge",
        "Scheduled probes of a kind in the rolling window that speak of the provider: successes and provider faults.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_successes",
        "gauge",
        "Scheduled probes of a kind in the rolling window that succeeded.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_coverage_ratio",
        "gauge",
        "Share of the slots of a kind that fell due in the rolling window that were probed, from 0 to 1.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_throttled_ratio",
        "gauge",
        "Share of the probes of a kind in the rolling window that the provider throttled, from 0 to 1.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_answer_ok_ratio",
        "gauge",
        "Share of the answers of a kind in the rolling window that were what was asked for, from 0 to 1.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_ttft_seconds",
        "summary",
        "Time from the request's first byte to the first generated token, of the successes of a kind.",
        _KIND_QUANTILES,
    ),
    Family(
        "llm_kind_latency_seconds",
        "summary",
        "Time from the request's first byte to the end of the answer, of the successes of a kind.",
        _KIND_QUANTILES,
    ),
    Family(
        "llm_kind_prefill_tokens_per_second",
        "summary",
        "Tokens of a long prompt that no cache had, over the time to the first token; quantile 0.1 is the slow tail.",
        _KIND_QUANTILES,
    ),
    Family(
        "llm_kind_prompt_tokens",
        "gauge",
        "Tokens of the prompt of a long or cache probe, as usage says, on average over the rolling window.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_cached_ratio",
        "gauge",
        "Share of the tokens of a repeated prompt that the provider's cache had, pooled over the rolling window.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_saved_usd",
        "gauge",
        "What the cache saves of one such prompt in USD, on average over the window, at the price now configured.",
        _KIND_WINDOW,
    ),
    Family(
        "llm_kind_probe_interval_seconds",
        "gauge",
        "The configured time between two scheduled probes of a kind.",
        _KIND,
    ),
    Family(
        "llm_kind_last_probe_timestamp_seconds",
        "gauge",
        "When the last probe of a kind began, in seconds since the epoch.",
        _KIND,
    ),
    Family(
        "llm_kind_last_success_timestamp_seconds",
        "gauge",
        "When the last probe of a kind that succeeded began, in seconds since the epoch.",
        _KIND,
    ),
)


def own_families(registry: CollectorRegistry) -> tuple[Family, ...]:
    """The monitor's figures about itself, as its registry holds them."""
    return tuple(_family_of(metric) for metric in registry.collect())


class OwnMetrics(Collector):
    """A registry without the `_created` series that prometheus-client adds to counters and histograms; with units."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            metric.unit = unit_of(metric.name)
            yield metric


def _family_of(metric: Metric) -> Family:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    kind: FamilyType = "gauge"
    if metric.type == "counter":
        kind = "counter"
    elif metric.type == "histogram":
        kind = "histogram"
    labels = _labels_of(metric) or LATE_LABELS.get(name, ())
    return Family(name, kind, metric.documentation, labels, per_endpoint=False)


def _labels_of(metric: Metric) -> tuple[str, ...]:
    names: Iterable[str] = (name for sample in metric.samples for name in sample.labels if name != "le")
    return tuple(dict.fromkeys(names))
