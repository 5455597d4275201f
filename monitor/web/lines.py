"""One endpoint's lines of GET /metrics, family by family. Pure.

All lines are written by one `%` of a template, of which there is one for every set of figures that an endpoint can
lack: a line costs a tenth of what it would cost by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter

from monitor.catalog.model import Price
from monitor.health.quantiles import Layout, Quantiles, Row, picker
from monitor.health.sketch import FIGURES
from monitor.health.state import State
from monitor.health.view import EndpointView, figure_quantiles
from monitor.outcome import OUTCOME_CODES, Outcome
from monitor.routing.values import quantile_name
from monitor.settings import ExportSettings
from monitor.web.families import ENDPOINT_FAMILIES

Lines = tuple[bytes, ...]  # one item per family, in ENDPOINT_FAMILIES' order

# What a template has in place of the endpoint's labels, and between two families.
_LABELS = b"\1"
_END = b"\0"
_MOST_FORMS = 512
# An enumeration is slow to hand out its members.
_UNKNOWN, _DOWN, _DEGRADED = State.UNKNOWN, State.DOWN, State.DEGRADED

_TEXT = "%b"
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
_fields_of = attrgetter(*_OF_WINDOWS)

# Of a line the family, the labels beside the endpoint's own, and how the value is written. Those behind the quantiles:
_TOLD = (
    ("llm_endpoint_probe_interval_seconds", "", _MEASURED),
    ("llm_endpoint_last_probe_timestamp_seconds", "", _STAMP),
    ("llm_endpoint_last_success_timestamp_seconds", "", _STAMP),
    ("llm_endpoint_price_usd_per_million_tokens", "", _WHOLE_LINES),
    ("llm_probes_total", "", _WHOLE_LINES),
    ("llm_probe_cost_usd_total", "", _EXACT),
)

Value = float | bytes | None


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
def _ratio(ratio: float | None) -> bytes | None:
    return None if ratio is None else ratio_text(ratio).encode()


class _Sheet:
    """How the lines of one `export` look."""

    def __init__(self, export: ExportSettings) -> None:
        self._windows, self._performance_windows = export.windows, export.performance_windows
        self._counted = [
            ("llm_endpoint_up", "", _COUNT),
            ("llm_endpoint_usable", "", _COUNT),
            ("llm_endpoint_degraded", "", _COUNT),
            *[
                (f"llm_endpoint_{field}", f',window="{window}"', form)
                for field, form in _OF_WINDOWS.items()
                for window in export.windows
            ],
        ]
        self._measured = {
            (window, figure, quantile): (
                f"llm_endpoint_{figure}", f',window="{window}",quantile="{quantile_name(quantile)}"', _MEASURED
            )
            for figure in FIGURES
            for window in export.performance_windows
            for quantile in figure_quantiles(figure, export.quantiles)
        }  # fmt: skip
        self._form = functools.lru_cache(_MOST_FORMS)(self._form_of)

    def lines(self, view: EndpointView) -> Lines:
        counts, told = self._counts(view), _told(view)
        quantiles = [Quantiles.of(view.windows[window].quantiles) for window in self._performance_windows]
        lacking = tuple([place for place, value in enumerate((*counts, *told)) if value is None])
        template, measured = self._form(tuple([each.layout for each in quantiles]), lacking)
        row = sum([each.in_a_row for each in quantiles], start=())
        values = [*counts, *measured(row), *told]
        if lacking:
            values = [value for value in values if value is not None]
        endpoint = view.endpoint
        labels = endpoint_labels(endpoint.model, endpoint.provider, endpoint.suffix, view.location).encode()
        text = template % tuple(values)
        if _END in labels:
            return tuple([lines.replace(_LABELS, labels) for lines in text.split(_END)])
        return tuple(text.replace(_LABELS, labels).split(_END))

    def _counts(self, view: EndpointView) -> list[Value]:
        """Those of `_counted`; None where there is to be no line."""
        state = view.state
        is_known = state is not _UNKNOWN
        values: list[Value] = [
            state is not _DOWN if is_known else None,
            view.usable if view.is_watched else None,
            state is _DEGRADED if is_known else None,
        ]
        by_window = [_fields_of(view.windows[window]) for window in self._windows]
        for field, form in zip(zip(*by_window, strict=True), _OF_WINDOWS.values(), strict=False):
            values += map(_ratio, field) if form is _TEXT else field
        return values

    def _form_of(self, layouts: Sequence[Layout], lacking: Collection[int]) -> tuple[bytes, Callable[[Row], Row]]:
        """How a view is written whose quantiles lie so, window after window, and which lacks the other values at the
        places `lacking`; and what takes its quantiles out of their row."""
        places, at = {}, 0
        for window, layout in zip(self._performance_windows, layouts, strict=True):
            for figure, (quantiles, first) in layout.places.items():
                places.update({(window, figure, each): at + first + n for n, each in enumerate(quantiles)})
            at += layout.width
        measured = [each for each in self._measured if each in places]
        others = [line for place, line in enumerate((*self._counted, *_TOLD)) if place not in lacking]
        families = {family.name: b"" for family in ENDPOINT_FAMILIES}
        for name, labels, form in (*others, *[self._measured[each] for each in measured]):
            families[name] += _line(name, labels, form) if form else b"%b"
        return _END.join(families.values()), picker([places[each] for each in measured])


@functools.lru_cache(maxsize=4)
def _sheet(export: ExportSettings) -> _Sheet:
    return _Sheet(export)


@functools.lru_cache(maxsize=16384)
def endpoint_labels(model: str, provider: str, suffix: str, location: str) -> str:
    """`model="...",provider="...",location="..."`."""
    pairs = [("model", model), ("provider", provider), ("suffix", suffix), ("location", location)]
    return ",".join(f'{name}="{escape_label(value)}"' for name, value in pairs if value or name != "suffix")


def _line(name: str, labels: str, value: str) -> bytes:
    return b"%b{%b%b} %b\n" % (name.encode(), _LABELS, labels.encode(), value.encode())


@functools.lru_cache(maxsize=4096)
def _price_lines(price: Price | None) -> bytes:
    kinds = () if price is None else ("input", "output", "cache_read", "cache_write")
    return b"".join(
        [
            _line("llm_endpoint_price_usd_per_million_tokens", f',kind="{kind}"', repr(usd))
            for kind in kinds
            if (usd := getattr(price, kind)) is not None
        ]
    )


def _told(view: EndpointView) -> tuple[Value, ...]:
    """Those of `_TOLD`; None where there is to be no line."""
    return (
        view.interval_seconds if view.is_watched else None,
        view.last_probe_at,
        view.last_success_at,
        _price_lines(view.endpoint.price),
        _probe_lines(view),
        view.cost_usd_total if view.probes_total else None,
    )


def _probe_lines(view: EndpointView) -> bytes:
    counts = view.probes_total
    names = counts if len(counts) == 1 else sorted(counts, key=OUTCOME_CODES.__getitem__)
    return b"".join([_probe_line(name) % counts[name] for name in names if counts[name]])


@functools.cache
def _probe_line(outcome: Outcome) -> bytes:
    return _line("llm_probes_total", f',outcome="{outcome}"', _COUNT)
