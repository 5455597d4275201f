"""model.json: one model's providers side by side."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.grafana.generate.panels import (
    BAD,
    CALM,
    COUNT,
    DEGRADED,
    KNOWN,
    OFFER,
    OK,
    RATIO,
    SHARE,
    SPAN,
    SPEED,
    UP,
    UPTIME_STEPS,
    USABLE,
    WARN,
    Column,
    Json,
    coloured,
    dashboard,
    each,
    lines,
    panel,
    pooled_uptime,
    quantile,
    rate,
    series,
    stat,
    steps,
    table,
    target,
    window,
)  # fmt: skip

_NAMES = "{{provider}} {{suffix}} {{location}}"
_KIND_NAMES = f"{{{{kind}}}} {_NAMES}"
_COVERAGE_STEPS = ((None, BAD), (0.9, WARN), (0.98, OK))
_HALF_AND_TENTH = (("0.5", "p50"), ("0.9", "p90"))
_HALF_AND_SLOW = (("0.5", "p50"), ("0.1", "slow tenth"))
_USD: Json = {"unit": "currencyUSD", "decimals": 3, "min": 0}
_AGE: Json = {"unit": "s", "decimals": 0}


def _uptime_columns() -> list[Column]:
    columns: list[Column] = []
    for name, span in (("5 min", "5m"), ("30 min", "30m"), ("1 day", "1d"), ("7 days", "7d"), ("30 days", "30d")):
        ratio = each(window("llm_endpoint_uptime_ratio", span), OFFER)
        samples = each(window("llm_endpoint_samples", span), OFFER)
        columns.append((f"Uptime {name}", ratio, coloured(RATIO, *UPTIME_STEPS)))
        columns.append((f"Samples {name}", samples, COUNT))
    return columns


def _performance_columns() -> list[Column]:
    columns: list[Column] = [
        (heading, each(quantile(metric, span, rank), OFFER), defaults)
        for heading, metric, rank, span, defaults in (
            ("TTFT p50", "llm_endpoint_ttft_seconds", "0.5", "30m", SPAN),
            ("TTFT p90", "llm_endpoint_ttft_seconds", "0.9", "30m", SPAN),
            ("TTFT p50, 30d", "llm_endpoint_ttft_seconds", "0.5", "30d", SPAN),
            ("Latency p50", "llm_endpoint_latency_seconds", "0.5", "30m", SPAN),
            ("Latency p90", "llm_endpoint_latency_seconds", "0.9", "30m", SPAN),
            ("Output p50", "llm_endpoint_output_tokens_per_second", "0.5", "30m", SPEED),
            ("Output slow tenth", "llm_endpoint_output_tokens_per_second", "0.1", "30m", SPEED),
            ("Throughput p50", "llm_endpoint_throughput_tokens_per_second", "0.5", "30m", SPEED),
            ("Throughput slow tenth", "llm_endpoint_throughput_tokens_per_second", "0.1", "30m", SPEED),
        )
    ]
    return [*columns, ("Successes", each(window("llm_endpoint_successes", "30m"), OFFER), COUNT)]


def _price_columns() -> list[Column]:
    kinds = (("Input", "input"), ("Output", "output"), ("Cache read", "cache_read"), ("Cache write", "cache_write"))
    return [(heading, each(_price(kind), OFFER), _USD) for heading, kind in kinds]


def _price(kind: str) -> str:
    return series("llm_endpoint_price_usd_per_million_tokens", f'kind="{kind}"')


def _condition_columns() -> list[Column]:
    return [
        ("Usable", each(USABLE, OFFER), coloured(COUNT, (None, BAD), (1, OK))),
        (
            "Coverage 1 day",
            each(window("llm_endpoint_coverage_ratio", "1d"), OFFER),
            coloured(SHARE, *_COVERAGE_STEPS),
        ),
        ("Throttled 1 day", each(window("llm_endpoint_throttled_ratio", "1d"), OFFER), SHARE),
        ("Answer right 1 day", each(window("llm_endpoint_answer_ok_ratio", "1d"), OFFER), SHARE),
        ("Interval", each(KNOWN, OFFER), _AGE),
        ("Since last probe", each(f"time() - {series('llm_endpoint_last_probe_timestamp_seconds')}", OFFER), _AGE),
        ("Since last success", each(f"time() - {series('llm_endpoint_last_success_timestamp_seconds')}", OFFER), _AGE),
    ]


def _timeline() -> Json:
    states = (("down", BAD), ("degraded", WARN), ("operational", OK))
    made = panel(
        "state-timeline",
        "State",
        "Operational, degraded or down, by provider and location. A gap is unknown: nothing recent speaks of it.",
        (24, 8),
        [target(f"clamp_min(2 * {UP} - {DEGRADED}, 0)", _NAMES)],
        {
            "unit": "short",
            "thresholds": steps((None, BAD), (1, WARN), (2, OK)),
            "color": {"mode": "thresholds"},
            "custom": {"fillOpacity": 70, "lineWidth": 0},
            "mappings": [
                {
                    "type": "value",
                    "options": {
                        str(value): {"text": text, "color": color, "index": value}
                        for value, (text, color) in enumerate(states)
                    },
                }
            ],
        },
    )
    made["options"] = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return made


def _quantile_lines(title: str, text: str, metric: str, ranks: Sequence[tuple[str, str]], defaults: Json) -> Json:
    return lines(
        title,
        text,
        [target(quantile(metric, "30m", rank), f"{name} {_NAMES}") for rank, name in ranks],
        defaults,
    )


def _now() -> list[Json]:
    return [
        stat(
            "Endpoints up", "Endpoints of this model, per location, that are operational or degraded.",
            f"sum({UP} == bool 1)", COUNT, (None, BAD), (1, OK), width=4,
        ),
        stat(
            "Endpoints down", "Endpoints of this model, per location, whose last probes failed.",
            f"sum({UP} == bool 0)", COUNT, (None, OK), (1, BAD), width=4,
        ),
        stat(
            "Uptime, 30 days", "All samples of this model's endpoints pooled, floored.",
            pooled_uptime("30d"), RATIO, *UPTIME_STEPS, width=4,
        ),
        stat(
            "Best TTFT p50", "The lowest median time to first token over 30 minutes.",
            f"min({quantile('llm_endpoint_ttft_seconds', '30m', '0.5')})", SPAN, (None, CALM), width=4,
        ),
        stat(
            "Best throughput p50", "The highest median throughput over 30 minutes.",
            f"max({quantile('llm_endpoint_throughput_tokens_per_second', '30m', '0.5')})", SPEED,
            (None, CALM), width=4,
        ),
        stat(
            "Lowest output price", "USD per million output tokens, at the cheapest provider.",
            f"min({_price('output')})", _USD,
            (None, CALM), width=4,
        ),
        _timeline(),
    ]  # fmt: skip


def _uptime() -> list[Json]:
    return [
        table(
            "Uptime by window",
            "Successes over samples, floored. Samples are successes and provider faults; weigh a ratio by "
            "them. An empty cell is no data, which is neither 0 nor 1.",
            _uptime_columns(), keys=OFFER, sort="Uptime 30 days", descending=True,
        ),
        lines(
            "Uptime over 30 minutes", "The rolling window, over time.",
            [
                target(
                    window("llm_endpoint_uptime_ratio", "30m"), _NAMES
                )
            ], RATIO,
        ),
        lines(
            "Uptime over 30 days", "The rolling window, over time. Its old edge moves by the hour.",
            [
                target(
                    window("llm_endpoint_uptime_ratio", "30d"), _NAMES
                )
            ], RATIO,
        ),
        table(
            "Condition",
            "Whether our key works there, how much of the schedule was seen, how much was throttled, and how "
            "fresh the figures are.",
            _condition_columns(), keys=OFFER, sort="Provider", descending=False,
        ),
    ]  # fmt: skip


def _performance() -> list[Json]:
    return [
        table(
            "Performance by provider",
            "Over 30 minutes unless it says otherwise; of successes only. Nearest-rank quantiles; the slow "
            "tenth of a speed is its quantile 0.1.",
            _performance_columns(), keys=OFFER, sort="TTFT p50", descending=False,
        ),
        _quantile_lines(
            "Time to first token", "From the request's first byte to the first generated token, 30 minutes.",
            "llm_endpoint_ttft_seconds", _HALF_AND_TENTH, SPAN,
        ),
        _quantile_lines(
            "Latency", "From the request's first byte to the end of the answer, 30 minutes.",
            "llm_endpoint_latency_seconds", _HALF_AND_TENTH, SPAN,
        ),
        _quantile_lines(
            "Output speed", "How fast it writes once the first token has come, 30 minutes.",
            "llm_endpoint_output_tokens_per_second", _HALF_AND_SLOW, SPEED,
        ),
        _quantile_lines(
            "Throughput", "Output tokens over the whole wait, queueing included, 30 minutes.",
            "llm_endpoint_throughput_tokens_per_second", _HALF_AND_SLOW, SPEED,
        ),
    ]  # fmt: skip


def _kinds() -> list[Json]:
    return [
        lines(
            "Success by kind of probe",
            "Tools, JSON and the like over 30 days, floored; none of them is in the uptime. Only of what is probed.",
            [target(window("llm_kind_success_ratio", "30d"), _KIND_NAMES)], RATIO,
        ),
        lines(
            "Right answers by kind of probe",
            "The tool was called with the word, the JSON held to its schema, the colour was named: over 30 days.",
            [target(window("llm_kind_answer_ok_ratio", "30d"), _KIND_NAMES)], RATIO,
        ),
        lines(
            "Reading a long prompt", "Tokens that no cache had, over the time to the first token, 30 days, median.",
            [target(quantile("llm_kind_prefill_tokens_per_second", "30d", "0.5"), _NAMES)], SPEED,
        ),
        lines(
            "Cached share of a repeated prompt", "Of its tokens, over 30 days; 0 is a cache that does not work.",
            [target(window("llm_kind_cached_ratio", "30d"), _NAMES)], SHARE,
        ),
    ]  # fmt: skip


def _price_and_outcomes() -> list[Json]:
    return [
        table(
            "Price", "USD per million tokens, as configured.",
            _price_columns(), keys=OFFER, sort="Output", descending=False, width=12,
        ),
        lines(
            "Cost of probing", "USD per day at the present pace, by provider.",
            [target(f"86400 * {rate('llm_probe_cost_usd_total', by='provider')}", "{{provider}}")],
            {"unit": "currencyUSD", "min": 0}, stacked=True, height=9,
        ),
        lines(
            "Outcomes", "Finished probes per second by class, rechecks included.",
            [target(rate("llm_probes_total", by="outcome"), "{{outcome}}")],
            {"unit": "reqps", "min": 0}, stacked=True,
        ),
        lines(
            "Failures by provider", "Everything but successes, per second, by provider and class.",
            [
                target(
                    rate("llm_probes_total", 'outcome!~"success|reasoning_cut"', by="provider, outcome"),
                    "{{provider}} {{outcome}}",
                )
            ], {"unit": "reqps", "min": 0}, stacked=True,
        ),
    ]  # fmt: skip


def model() -> Json:
    return dashboard(
        "llm-model",
        "LLM providers: one model",
        "One model's providers side by side: who is up, who is fast, what it costs.",
        many_models=False,
        rows=[
            ("Now", _now()),
            ("Uptime", _uptime()),
            ("Performance", _performance()),
            ("Kinds of probe", _kinds()),
            ("Price and outcomes", _price_and_outcomes()),
        ],
    )
