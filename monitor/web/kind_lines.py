"""One endpoint's lines of GET /metrics about its kinds of probe other than chat, family by family. Pure.

They change once an hour or so, so they are written the plain way.
"""

from __future__ import annotations

from monitor.health.kind_windows import quantiles_asked
from monitor.health.view import EndpointView, KindView
from monitor.routing.values import quantile_name
from monitor.settings import ExportSettings
from monitor.web.families import KIND_FAMILIES
from monitor.web.lines import Lines, endpoint_labels, ratio_text

_RATIOS = {
    "success_ratio": "uptime_ratio",
    "coverage_ratio": "coverage_ratio",
    "throttled_ratio": "throttled_ratio",
    "answer_ok_ratio": "answer_ok_ratio",
    "cached_ratio": "cached_ratio",
}
_NUMBERS = ("samples", "successes", "prompt_tokens", "saved_usd")
_SUMMARIES = ("ttft_seconds", "latency_seconds", "prefill_tokens_per_second")


def render_kinds(view: EndpointView, export: ExportSettings) -> Lines:
    """In KIND_FAMILIES' order; a series without data is left out."""
    endpoint = view.endpoint
    labels = endpoint_labels(endpoint.model, endpoint.provider, endpoint.suffix, view.location)
    families = {family.name: "" for family in KIND_FAMILIES}
    for kind, each in view.kinds.items():
        for name, more, value in _values(each, export):
            families[f"llm_kind_{name}"] += f'llm_kind_{name}{{{labels},kind="{kind}"{more}}} {value}\n'
    return tuple(lines.encode() for lines in families.values())


def _values(view: KindView, export: ExportSettings) -> list[tuple[str, str, str]]:
    """(family without its prefix, labels, value) of all that there is."""
    found: list[tuple[str, str, str]] = []
    for window in export.windows:
        figures, more = view.windows[window], f',window="{window}"'
        for name, field in _RATIOS.items():
            if (ratio := getattr(figures, field)) is not None:
                found.append((name, more, ratio_text(ratio)))
        for name in _NUMBERS:
            if (number := getattr(figures, name)) is not None:
                found.append((name, more, f"{number:.9g}"))
    for window in export.performance_windows:
        quantiles = view.windows[window].quantiles
        for figure in _SUMMARIES:
            if figure in quantiles:
                found += [
                    (figure, f',window="{window}",quantile="{quantile_name(each)}"', f"{quantiles[figure][each]:.6g}")
                    for each in quantiles_asked(figure, export.quantiles)
                    if each in quantiles[figure]
                ]
    found.append(("probe_interval_seconds", "", f"{view.interval_seconds:.6g}"))
    for name, at in (("last_probe", view.last_probe_at), ("last_success", view.last_success_at)):
        if at is not None:
            found.append((f"{name}_timestamp_seconds", "", f"{at:.3f}"))
    return found
