"""GET /metrics: Prometheus text 0.0.4, rendered on a timer and off the request path.

One endpoint's lines are rendered once per view and kept for as long as the board hands out that same view; a page is
those lines joined family by family, since the format wants all lines of a family together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest

from monitor.clock import Clock
from monitor.health.state import State
from monitor.health.view import EndpointView, figure_quantiles
from monitor.letting_go import let_go
from monitor.outcome import OUTCOMES
from monitor.routing.snapshot import quantile_name
from monitor.settings import ExportSettings
from monitor.web.families import ENDPOINT_FAMILIES, WithoutCreated

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Endpoints rendered between two turns of the loop: about a millisecond, so that no probe's clock notices.
_SLICE = 10

Lines = tuple[bytes, ...]  # one item per family, in ENDPOINT_FAMILIES' order


def escape_label(value: str) -> str:
    """A label's value as it stands between the quotes. A lone surrogate, which UTF-8 cannot say, becomes `?`."""
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return escaped.encode(errors="replace").decode()


def ratio_text(ratio: float) -> str:
    """At most six decimals, floored: one failure in a million never reads 1."""
    # Twelve decimals first: 0.999976 is 0.99997599... in binary and must not lose its last digit.
    return f"{ratio:.12f}"[:-6].rstrip("0").rstrip(".")


def _measured_text(value: float) -> str:
    return f"{value:.6g}"


def _exact_text(value: float) -> str:
    return repr(value)


@dataclass(frozen=True, slots=True)
class _Rendered:
    view: EndpointView
    lines: Lines


class Exposition:
    """The page. `refresh` renders it, `page` hands out what the last refresh left."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._own_metrics = WithoutCreated(registry)
        self._clock = clock
        self._rendered: dict[tuple[str, str], _Rendered] = {}
        self._export: ExportSettings | None = None
        self._families: list[bytes] = []

    async def refresh(self, views: Sequence[EndpointView], export: ExportSettings) -> None:
        """Render the views that are not the very objects of last time, and join all. Not to be run twice at once."""
        kept = self._rendered if export == self._export else {}
        rendered: dict[tuple[str, str], _Rendered] = {}
        for number, view in enumerate(views):
            key = (view.endpoint.id, view.location)
            known = kept.get(key)
            rendered[key] = known if known and known.view is view else _Rendered(view, render(view, export))
            if number % _SLICE == _SLICE - 1:
                await self._clock.sleep(0)
        families: list[bytes] = []
        for place, family in enumerate(ENDPOINT_FAMILIES):
            lines = b"".join([each.lines[place] for each in rendered.values()])
            if lines:
                families.append(family.header().encode() + lines)
            await self._clock.sleep(0)
        former: list[object] = list(self._rendered.values())
        self._rendered, self._export = rendered, export
        self._families = families
        del kept
        for _ in let_go(former):
            await self._clock.sleep(0)

    def page(self, notice: str | None) -> list[bytes]:
        """The whole page in pieces: the endpoints as of the last refresh, the monitor's own figures as of now."""
        comment = f"# {' '.join(notice.split())}\n".encode(errors="replace") if notice else b""
        return [comment, *self._families, generate_latest(self._own_metrics)]


def render(view: EndpointView, export: ExportSettings) -> Lines:
    """One endpoint's lines, family by family; empty where it has no data."""
    labels = _labels_of(view)
    return tuple(
        "".join(
            f"{family.name}{{{labels}{more}}} {value}\n" for more, value in _SERIES[family.name](view, export)
        ).encode()
        for family in ENDPOINT_FAMILIES
    )


def _labels_of(view: EndpointView) -> str:
    endpoint = view.endpoint
    pairs = [("model", endpoint.model), ("provider", endpoint.provider)]
    if endpoint.suffix:
        pairs.append(("suffix", endpoint.suffix))
    pairs.append(("location", view.location))
    return ",".join(f'{name}="{escape_label(value)}"' for name, value in pairs)


# A series is what follows the endpoint's own labels (`,window="5m"`), and its value.
Series = Iterable[tuple[str, str]]


def _up(view: EndpointView, export: ExportSettings) -> Series:
    return [] if view.state is State.UNKNOWN else [("", "0" if view.state is State.DOWN else "1")]


def _usable(view: EndpointView, export: ExportSettings) -> Series:
    return [("", "1" if view.usable else "0")] if view.is_watched else []


def _degraded(view: EndpointView, export: ExportSettings) -> Series:
    return [] if view.state is State.UNKNOWN else [("", "1" if view.state is State.DEGRADED else "0")]


def _interval(view: EndpointView, export: ExportSettings) -> Series:
    return [("", _measured_text(view.interval_seconds))] if view.is_watched else []


def _last_probe(view: EndpointView, export: ExportSettings) -> Series:
    return [] if view.last_probe_at is None else [("", f"{view.last_probe_at:.3f}")]


def _last_success(view: EndpointView, export: ExportSettings) -> Series:
    return [] if view.last_success_at is None else [("", f"{view.last_success_at:.3f}")]


def _price(view: EndpointView, export: ExportSettings) -> Series:
    price = view.endpoint.price
    if price is None:
        return
    for kind in ("input", "output", "cache_read", "cache_write"):
        usd = getattr(price, kind)
        if usd is not None:
            yield f',kind="{kind}"', _exact_text(usd)


def _probes(view: EndpointView, export: ExportSettings) -> Series:
    return ((f',outcome="{name}"', str(view.probes_total[name])) for name in OUTCOMES if view.probes_total.get(name))


def _cost(view: EndpointView, export: ExportSettings) -> Series:
    return [("", _exact_text(view.cost_usd_total))] if view.probes_total else []


def _of_windows(field: str, text: Callable[[float], str]) -> Callable[[EndpointView, ExportSettings], Series]:
    def series(view: EndpointView, export: ExportSettings) -> Iterator[tuple[str, str]]:
        for window in export.windows:
            figures = view.windows.get(window)
            value = None if figures is None else getattr(figures, field)
            if value is not None:
                yield f',window="{window}"', text(value)

    return series


def _of_quantiles(figure: str) -> Callable[[EndpointView, ExportSettings], Series]:
    def series(view: EndpointView, export: ExportSettings) -> Iterator[tuple[str, str]]:
        for window in export.performance_windows:
            figures = view.windows.get(window)
            values = None if figures is None else figures.quantiles.get(figure)
            if values:
                for quantile, place in _quantile_places(figure, window, export.quantiles):
                    if quantile in values:
                        yield place, _measured_text(values[quantile])

    return series


@functools.lru_cache(maxsize=256)
def _quantile_places(figure: str, window: str, quantiles: tuple[float, ...]) -> tuple[tuple[float, str], ...]:
    return tuple(
        (quantile, f',window="{window}",quantile="{quantile_name(quantile)}"')
        for quantile in figure_quantiles(figure, quantiles)
    )


_SERIES: dict[str, Callable[[EndpointView, ExportSettings], Series]] = {
    "llm_endpoint_up": _up,
    "llm_endpoint_usable": _usable,
    "llm_endpoint_degraded": _degraded,
    "llm_endpoint_uptime_ratio": _of_windows("uptime_ratio", ratio_text),
    "llm_endpoint_samples": _of_windows("samples", str),
    "llm_endpoint_successes": _of_windows("successes", str),
    "llm_endpoint_coverage_ratio": _of_windows("coverage_ratio", ratio_text),
    "llm_endpoint_throttled_ratio": _of_windows("throttled_ratio", ratio_text),
    "llm_endpoint_answer_ok_ratio": _of_windows("answer_ok_ratio", ratio_text),
    "llm_endpoint_ttft_seconds": _of_quantiles("ttft_seconds"),
    "llm_endpoint_latency_seconds": _of_quantiles("latency_seconds"),
    "llm_endpoint_output_tokens_per_second": _of_quantiles("output_tokens_per_second"),
    "llm_endpoint_throughput_tokens_per_second": _of_quantiles("throughput_tokens_per_second"),
    "llm_endpoint_probe_interval_seconds": _interval,
    "llm_endpoint_last_probe_timestamp_seconds": _last_probe,
    "llm_endpoint_last_success_timestamp_seconds": _last_success,
    "llm_endpoint_price_usd_per_million_tokens": _price,
    "llm_probes_total": _probes,
    "llm_probe_cost_usd_total": _cost,
}
