"""One endpoint's lines of GET /metrics, family by family. Pure.

All lines are written by one `%` of a template, of which there is one for every set of figures that an endpoint can
lack: a line costs a tenth of what it would cost by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from monitor.catalog.model import Price
from monitor.health.sketch import FIGURES
from monitor.health.state import State
from monitor.health.view import EndpointView, figure_quantiles
from monitor.outcome import OUTCOME_CODES
from monitor.routing.values import quantile_name
from monitor.settings import ExportSettings
from monitor.web.families import ENDPOINT_FAMILIES

Lines = tuple[bytes, ...]  # one item per family, in ENDPOINT_FAMILIES' order

# What a template has in place of the endpoint's labels, and between two families.
_LABELS = "\1"
_END = "\0"
_MOST_TEMPLATES = 512

_TEXT = "%s"
_MEASURED = "%.6g"
_EXACT = "%r"
_STAMP = "%.3f"
_COUNT = "%d"
_WHOLE_LINES = ""  # the value is no number but the family's lines

_OF_WINDOWS = {
    "uptime_ratio": _TEXT,
    "samples": _COUNT,
    "successes": _COUNT,
    "coverage_ratio": _TEXT,
    "throttled_ratio": _TEXT,
    "answer_ok_ratio": _TEXT,
}

Value = float | str | None


def render(view: EndpointView, export: ExportSettings) -> Lines:
    """One endpoint's lines; empty where it has no data."""
    return _sheet(export).lines(view)


def escape_label(value: str) -> str:
    """A label's value as it stands between the quotes. A lone surrogate, which UTF-8 cannot say, becomes `?`."""
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return escaped.encode(errors="replace").decode()


def ratio_text(ratio: float) -> str:
    """At most six decimals, floored: one failure in a million never reads 1."""
    # Twelve decimals first: 0.999976 is 0.99997599... in binary and must not lose its last digit.
    return f"{ratio:.12f}"[:-6].rstrip("0").rstrip(".")


@functools.lru_cache(maxsize=8192)
def _ratio(ratio: float | None) -> str | None:
    return None if ratio is None else ratio_text(ratio)


class _Sheet:
    """How the lines of one `export` look."""

    def __init__(self, export: ExportSettings) -> None:
        self._windows = export.windows
        self._measured = [
            (figure, window, figure_quantiles(figure, export.quantiles))
            for figure in FIGURES
            for window in export.performance_windows
        ]
        self._places = self._every_line()
        self._templates: dict[tuple[bool, ...], str] = {}
        self._full = self._template([True] * len(self._places))

    def lines(self, view: EndpointView) -> Lines:
        values = self._values(view)
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            template = self._full
        else:
            pattern = tuple([value is not None for value in values])
            found = self._templates.get(pattern)
            if found is None:
                if len(self._templates) >= _MOST_TEMPLATES:
                    self._templates.clear()
                found = self._templates[pattern] = self._template(pattern)
            template = found
        endpoint = view.endpoint
        labels = endpoint_labels(endpoint.model, endpoint.provider, endpoint.suffix, view.location)
        text = template % tuple(known)
        if _END in labels:
            return tuple([lines.replace(_LABELS, labels).encode() for lines in text.split(_END)])
        return tuple(text.replace(_LABELS, labels).encode().split(_END.encode()))

    def _values(self, view: EndpointView) -> list[Value]:
        """Every line's, in the order of `_every_line`; None where there is to be none."""
        is_known = view.state is not State.UNKNOWN
        figures = [view.windows[window] for window in self._windows]
        values: list[Value] = [
            view.state is not State.DOWN if is_known else None,
            view.usable if view.is_watched else None,
            view.state is State.DEGRADED if is_known else None,
            *[_ratio(each.uptime_ratio) for each in figures],
            *[each.samples for each in figures],
            *[each.successes for each in figures],
            *[_ratio(each.coverage_ratio) for each in figures],
            *[_ratio(each.throttled_ratio) for each in figures],
            *[_ratio(each.answer_ok_ratio) for each in figures],
        ]
        for figure, window, quantiles in self._measured:
            measured = view.windows[window].quantiles.get(figure)
            values += [None] * len(quantiles) if measured is None else map(measured.get, quantiles)
        values += (
            view.interval_seconds if view.is_watched else None,
            view.last_probe_at,
            view.last_success_at,
            _price_lines(view.endpoint.price),
            _probe_lines(view),
            view.cost_usd_total if view.probes_total else None,
        )
        return values

    def _every_line(self) -> list[tuple[str, str, str]]:
        """Of every line the family, the labels beside the endpoint's own, and how the value is written."""
        of_windows = [
            (f"llm_endpoint_{field}", f',window="{window}"', form)
            for field, form in _OF_WINDOWS.items()
            for window in self._windows
        ]
        of_quantiles = [
            (f"llm_endpoint_{figure}", f',window="{window}",quantile="{quantile_name(quantile)}"', _MEASURED)
            for figure, window, quantiles in self._measured
            for quantile in quantiles
        ]
        return [
            ("llm_endpoint_up", "", _COUNT),
            ("llm_endpoint_usable", "", _COUNT),
            ("llm_endpoint_degraded", "", _COUNT),
            *of_windows,
            *of_quantiles,
            ("llm_endpoint_probe_interval_seconds", "", _MEASURED),
            ("llm_endpoint_last_probe_timestamp_seconds", "", _STAMP),
            ("llm_endpoint_last_success_timestamp_seconds", "", _STAMP),
            ("llm_endpoint_price_usd_per_million_tokens", "", _WHOLE_LINES),
            ("llm_probes_total", "", _WHOLE_LINES),
            ("llm_probe_cost_usd_total", "", _EXACT),
        ]

    def _template(self, pattern: Sequence[bool]) -> str:
        families = {family.name: "" for family in ENDPOINT_FAMILIES}
        for (name, labels, form), is_there in zip(self._places, pattern, strict=True):
            if is_there:
                families[name] += f"{name}{{{_LABELS}{labels}}} {form}\n" if form else "%s"
        return _END.join(families.values())


@functools.lru_cache(maxsize=4)
def _sheet(export: ExportSettings) -> _Sheet:
    return _Sheet(export)


@functools.lru_cache(maxsize=16384)
def endpoint_labels(model: str, provider: str, suffix: str, location: str) -> str:
    """`model="...",provider="...",location="..."`."""
    pairs = [("model", model), ("provider", provider), ("suffix", suffix), ("location", location)]
    return ",".join(f'{name}="{escape_label(value)}"' for name, value in pairs if value or name != "suffix")


@functools.lru_cache(maxsize=4096)
def _price_lines(price: Price | None) -> str:
    kinds = () if price is None else ("input", "output", "cache_read", "cache_write")
    return "".join(
        f'llm_endpoint_price_usd_per_million_tokens{{{_LABELS},kind="{kind}"}} {usd!r}\n'
        for kind in kinds
        if (usd := getattr(price, kind)) is not None
    )


def _probe_lines(view: EndpointView) -> str:
    counts = view.probes_total
    names = counts if len(counts) == 1 else sorted(counts, key=OUTCOME_CODES.__getitem__)
    return "".join(
        [f'llm_probes_total{{{_LABELS},outcome="{name}"}} {counts[name]}\n' for name in names if counts[name]]
    )
