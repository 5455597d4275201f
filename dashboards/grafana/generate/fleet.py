"""fleet.json: every endpoint, worst first."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.grafana.generate.own import self_panels
from dashboards.grafana.generate.panels import (
    BAD,
    CALM,
    COUNT,
    DEGRADED,
    ENDPOINT,
    KNOWN,
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
    pooled_uptime,
    quantile,
    rate,
    stat,
    table,
    target,
    window,
)  # fmt: skip

_UPTIME_TEXT = (
    "The 50 endpoints with the lowest uptime over {}. Uptime is successes over samples; samples are successes and "
    "provider faults: our own key, our own network and throttling are not in it. Few samples, little weight."
)
_NAMES = "{{model}} {{provider}} {{suffix}} {{location}}"
_COVERAGE_STEPS = ((None, BAD), (0.9, WARN), (0.98, OK))


def _worst(metric: str, span: str, expr: str) -> str:
    """Of `expr`, the 50 endpoints for which `metric` is lowest over `span`."""
    lowest = each(f"bottomk(50, {window(metric, span)})")
    return f"{each(expr)} and on ({ENDPOINT}) {lowest}"


def _slowest(metric: str, rank: str, expr: str) -> str:
    """Of `expr`, the 50 endpoints for which the quantile of a time is highest, of a speed lowest."""
    choose = "topk" if metric.endswith("_seconds") else "bottomk"
    extreme = each(f"{choose}(50, {quantile(metric, '30m', rank)})")
    return f"{each(expr)} and on ({ENDPOINT}) {extreme}"


def _uptime_columns(order: str) -> list[Column]:
    columns: list[Column] = []
    for name, span in (("30 days", "30d"), ("7 days", "7d"), ("1 day", "1d"), ("30 min", "30m")):
        ratio = _worst("llm_endpoint_uptime_ratio", order, window("llm_endpoint_uptime_ratio", span))
        samples = _worst("llm_endpoint_uptime_ratio", order, window("llm_endpoint_samples", span))
        columns.append((f"Uptime {name}", ratio, coloured(RATIO, *UPTIME_STEPS)))
        columns.append((f"Samples {name}", samples, COUNT))
    return columns


def _speed_columns(metric: str, span_defaults: Json, ranks: Sequence[tuple[str, str]]) -> list[Column]:
    columns: list[Column] = [
        (f"{name}, {span}", _slowest(metric, ranks[0][0], quantile(metric, span, rank)), span_defaults)
        for span in ("30m", "30d")
        for rank, name in ranks
    ]
    successes = _slowest(metric, ranks[0][0], window("llm_endpoint_successes", "30m"))
    return [*columns, ("Successes, 30m", successes, COUNT)]


def _now() -> list[Json]:
    return [
        stat(
            "Operational", "Endpoints, per location, that are up and not degraded.",
            f"sum({UP} == bool 1) - sum({DEGRADED} == bool 1)", COUNT, (None, OK),
        ),
        stat(
            "Degraded", "Endpoints, per location, that answer but fail often or only throttle.",
            f"sum({DEGRADED} == bool 1)", COUNT, (None, OK), (1, WARN),
        ),
        stat(
            "Down", "Endpoints, per location, whose last probes failed: by default three of four.",
            f"sum({UP} == bool 0)", COUNT, (None, OK), (1, BAD),
        ),
        stat(
            "Unknown", "Endpoints, per location, without a recent probe that speaks of the provider.",
            f"count({KNOWN}) - (count({UP}) or vector(0))", COUNT, (None, CALM), (1, WARN),
        ),
        stat(
            "Not usable", "Endpoints that our own key, quota or configuration rules out. Not downtime.",
            f"sum({USABLE} == bool 0)", COUNT, (None, OK), (1, WARN),
        ),
        stat(
            "Models without a provider", "Models of which no endpoint is up, from any location.",
            f"sum(max by (model) ({UP}) == bool 0)", COUNT, (None, OK), (1, BAD),
        ),
        stat(
            "Uptime, 30 days", "All samples of the chosen endpoints pooled, floored.",
            pooled_uptime("30d"), RATIO, *UPTIME_STEPS,
        ),
        stat(
            "Lowest coverage, 1 day",
            "Of the slots that fell due, the share that was probed, at the endpoint that got fewest.",
            f"min({window('llm_endpoint_coverage_ratio', '1d')})", SHARE, *_COVERAGE_STEPS,
        ),
    ]  # fmt: skip


def _worst_uptime() -> list[Json]:
    return [
        table(
            "Worst uptime over 30 days", _UPTIME_TEXT.format("30 days"), _uptime_columns("30d"),
            keys=ENDPOINT, sort="Uptime 30 days", descending=False,
        ),
        table(
            "Worst uptime over the last day", _UPTIME_TEXT.format("the last day"), _uptime_columns("1d"),
            keys=ENDPOINT, sort="Uptime 1 day", descending=False,
        ),
        lines(
            "Uptime by provider, last 30 minutes", "Samples pooled per provider over the rolling window.",
            [target(pooled_uptime("30m", "provider"), "{{provider}}")], RATIO,
        ),
        lines(
            "Uptime by location, last 30 minutes",
            "Samples pooled per location, as measured there: also while that location fails alone.",
            [target(pooled_uptime("30m", "location"), "{{location}}")], RATIO,
        ),
        lines(
            "Locations that fail alone",
            "1 while unrelated providers fail from a location and live elsewhere: its word against them is left out.",
            [target('max by (location) (monitor_location_suspect{location=~"$location"})', "{{location}}")],
            COUNT | {"max": 1},
        ),
        lines(
            "Down by location", "Endpoints that are down as seen from each location, over time.",
            [target(f"sum by (location) ({UP} == bool 0)", "{{location}}")], COUNT,
        ),
        lines(
            "Endpoints by state", "Endpoints, per location, over time.",
            [
                target(f"sum({UP} == bool 1) - sum({DEGRADED} == bool 1)", "operational"),
                target(f"sum({DEGRADED} == bool 1)", "degraded"),
                target(f"sum({UP} == bool 0)", "down"),
                target(f"sum({USABLE} == bool 0)", "not usable"),
            ], COUNT,
        ),
    ]  # fmt: skip


def _speed() -> list[Json]:
    return [
        table(
            "Slowest first token",
            "The 50 endpoints with the highest median time to first token over 30 minutes, beside their own "
            "30 days. Successes only.",
            _speed_columns("llm_endpoint_ttft_seconds", SPAN, (("0.5", "p50"), ("0.9", "p90"))),
            keys=ENDPOINT, sort="p50, 30m", descending=True, width=12,
        ),
        table(
            "Slowest writers",
            "The 50 endpoints with the lowest median output speed over 30 minutes, once the first token has "
            "come; the slow tenth beside it. Successes only.",
            _speed_columns(
                "llm_endpoint_output_tokens_per_second", SPEED, (("0.5", "p50"), ("0.1", "slow tenth"))
            ),
            keys=ENDPOINT, sort="p50, 30m", descending=False, width=12,
        ),
        lines(
            "Time to first token across endpoints",
            "The middle endpoint's median and the worst tenth of endpoints' p90, over 30 minutes. This ranks "
            "endpoints; quantiles of all answers together are in the JSON API.",
            [
                target(
                    f"quantile(0.5, {quantile('llm_endpoint_ttft_seconds', '30m', '0.5')})",
                    "p50 of the middle endpoint",
                ),
                target(
                    f"quantile(0.9, {quantile('llm_endpoint_ttft_seconds', '30m', '0.9')})",
                    "p90 of the slowest tenth",
                ),
            ], SPAN,
        ),
        lines(
            "Throughput across endpoints",
            "What a caller gets, queueing included: the middle endpoint's median, and the slow tail of the "
            "slowest tenth of endpoints, over 30 minutes.",
            [
                target(
                    "quantile(0.5, "
                    f"{quantile('llm_endpoint_throughput_tokens_per_second', '30m', '0.5')})",
                    "p50 of the middle endpoint",
                ),
                target(
                    "quantile(0.1, "
                    f"{quantile('llm_endpoint_throughput_tokens_per_second', '30m', '0.1')})",
                    "slow tail of the slowest tenth",
                ),
            ], SPEED,
        ),
    ]  # fmt: skip


def _left_out() -> list[Json]:
    return [
        lines(
            "Outcomes", "Finished probes per second by class, rechecks included.",
            [target(rate("llm_probes_total", by="outcome"), "{{outcome}}")],
            {"unit": "reqps", "min": 0}, stacked=True,
        ),
        lines(
            "Throttled", "The ten endpoints that throttled most over 30 minutes: 429s of samples and 429s.",
            [
                target(
                    f"topk(10, {window('llm_endpoint_throttled_ratio', '30m')})",
                    _NAMES,
                )
            ], SHARE,
        ),
        table(
            "Not usable, and how often asked",
            "Endpoints that our own key, quota or configuration rules out; they are asked again at least "
            "every 15 minutes.",
            [
                ("Usable", f"{each(USABLE)} == 0", COUNT),
                (
                    "Interval",
                    f"{each(KNOWN)} and on ({ENDPOINT}) ({each(USABLE)} == 0)",
                    {"unit": "s", "decimals": 0},
                ),
            ],
            keys=ENDPOINT, sort="Interval", descending=True, width=12,
        ),
        table(
            "Lowest coverage over a day",
            "Slots probed of slots due. Below 1: skipped, stretched, overlapped or missed, or ended as our "
            "own fault.",
            [
                (
                    f"Coverage {name}",
                    _worst("llm_endpoint_coverage_ratio", "1d", window("llm_endpoint_coverage_ratio", span)),
                    coloured(SHARE, *_COVERAGE_STEPS),
                )
                for name, span in (("1 day", "1d"), ("30 days", "30d"))
            ],
            keys=ENDPOINT, sort="Coverage 1 day", descending=False, width=12,
        ),
        lines(
            "Wrong answers",
            "Of the answers that came, the share without what the prompt asked for, over a day; ten worst. A "
            "figure of its own: it never moves uptime.",
            [
                target(
                    f"topk(10, 1 - {window('llm_endpoint_answer_ok_ratio', '1d')})",
                    _NAMES,
                )
            ], SHARE,
        ),
        lines(
            "Cost of probing", "USD per day at the present pace, by provider.",
            [target(f"86400 * {rate('llm_probe_cost_usd_total', by='provider')}", "{{provider}}")],
            {"unit": "currencyUSD", "min": 0}, stacked=True,
        ),
    ]  # fmt: skip


def fleet() -> Json:
    return dashboard(
        "llm-fleet",
        "LLM providers: the fleet",
        "Every endpoint that the monitor probes: what is down, slow or dear, and whether the monitor itself is well.",
        many_models=True,
        rows=[
            ("Now", _now()),
            ("Worst uptime first", _worst_uptime()),
            ("Speed", _speed()),
            ("What uptime leaves out", _left_out()),
            ("The monitor itself", self_panels()),
        ],
    )
