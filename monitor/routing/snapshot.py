"""The snapshot that a router polls: every endpoint's state, figures and price as plain JSON values. Pure.

An endpoint's part is written once per view and kept; only its age is written anew, so that a snapshot is a joining of
bytes. Unknown is null, and a figure without samples is null too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Mapping

import msgspec
from msgspec.structs import astuple, fields

from monitor.catalog.model import Endpoint
from monitor.clock import utc_text
from monitor.health.quantiles import Layout, Quantiles, Row, picker
from monitor.health.sketch import FIGURES
from monitor.health.view import EndpointView, KindView, Vantage, WindowFigures
from monitor.routing.kinds import kinds_object
from monitor.routing.values import JsonObject, quantile_name, quantiles_of

_SUSPECT = Vantage.SUSPECT


def counts_object(figures: WindowFigures) -> JsonObject:
    """One window's counts and ratios (0..1)."""
    return {
        "samples": figures.samples,
        "successes": figures.successes,
        "seen": figures.seen,
        "expected": figures.expected,
        "uptime_ratio": figures.uptime_ratio,
        "coverage_ratio": figures.coverage_ratio,
        "throttled_ratio": figures.throttled_ratio,
        "answer_ok_ratio": figures.answer_ok_ratio,
    }


def quantiles_object(figures: WindowFigures) -> JsonObject:
    """Each figure's quantiles in one window, in seconds or tokens per second; null without a sample."""
    return {figure: quantiles_of(figures.quantiles.get(figure)) for figure in FIGURES}


class Part(msgspec.Struct, frozen=True, gc=False):
    """One endpoint's encoded object without its age and its closing brace; figures only in the windows whose quantiles
    are kept, so that null always means unknown. `identity` and `price` are what never changes of it."""

    view: EndpointView
    opened: bytes
    identity: str
    price: str

    @classmethod
    def of(cls, view: EndpointView, performance_windows: Container[str], former: Part | None = None) -> Part:
        """`former` is the same endpoint's, if there is one."""
        if former is not None and former.view.endpoint is view.endpoint:
            identity, price = former.identity, former.price
        else:
            identity, price = _identity(view.endpoint), _json(view.endpoint.price)
        windows = [
            f'"{window}":{{{_counts_text(figures)}{_figures_text(figures) if window in performance_windows else ""}}}'
            for window, figures in view.windows.items()
        ]
        opened = _OPENED % (
            identity,
            view.state,
            _text(view.cause),
            _stamp_text(view.state_since),
            "true" if view.usable else "false",
            _text(view.unusable_cause),
            _stamp_text(view.last_probe_at),
            _stamp_text(view.last_success_at),
            view.interval_seconds,
            price,
            ",".join(windows),
            _kinds_text(view.kinds, performance_windows),
            "true" if view.vantage is _SUSPECT else "false",
            _json(view.places) if view.places else "{}",
        )
        return cls(view, opened.encode(), identity, price)


def joined(parts: Iterable[Part], now: float) -> bytes:
    """The whole objects, a comma between two; `age_seconds` since the last probe began, null before the first one."""
    pieces: list[bytes] = []
    for part in parts:
        at = part.view.last_probe_at
        # A wall clock that was stepped back makes no negative age.
        age = b"null" if at is None else b"%.1f" % max(now - at, 0.0)
        pieces += (b"," if pieces else b"", part.opened, b',"age_seconds":', age, b"}")
    return b"".join(pieces)


# By hand and not by an encoder: a probe changes most of an endpoint's hundred numbers, and to make them objects of a
# tree first takes three times as long as to write them.
_OPENED = (
    '{%s,"state":"%s","cause":%s,"state_since":%s,"usable":%s,"unusable_cause":%s,"observed_at":%s,'
    '"last_success_at":%s,"interval_seconds":%r,"price_usd_per_million_tokens":%s,"windows":{%s},"kinds":%s,'
    '"location_suspect":%s,"locations":%s'
)


def _identity(endpoint: Endpoint) -> str:
    named: JsonObject = {
        "endpoint": endpoint.id,
        "model": endpoint.model,
        "provider": endpoint.provider,
        "suffix": endpoint.suffix or None,
    }
    return _json(named)[1:-1]


def _kinds_text(kinds: Mapping[str, KindView], performance_windows: Container[str]) -> str:
    return _json(kinds_object(kinds, performance_windows)) if kinds else "{}"


# What WindowFigures have before their quantiles, in their order.
_Counts = msgspec.defstruct(
    "_Counts", [(each.name, each.type) for each in fields(WindowFigures) if each.name != "quantiles"], gc=False
)
_COUNTED = len(_Counts.__struct_fields__)


def _counts_text(figures: WindowFigures) -> str:
    return _json(_Counts(*astuple(figures)[:_COUNTED]))[1:-1]


def _figures_text(figures: WindowFigures) -> str:
    quantiles = Quantiles.of(figures.quantiles)
    template, ordered = _figures_template(quantiles.layout)
    return template % ordered(quantiles.in_a_row)


@functools.lru_cache(maxsize=256)
def _figures_template(layout: Layout) -> tuple[str, Callable[[Row], Row]]:
    """How figures that lie so are written, and what puts their values in order. Six digits: see `values`."""
    texts, places = [], []
    for figure in FIGURES:
        its, at = layout.places.get(figure, ((), 0))
        ordered = sorted(range(len(its)), key=its.__getitem__)
        values = ",".join([f'"{quantile_name(its[place])}":%.6g' for place in ordered])
        texts.append(f',"{figure}":{{{values}}}' if its else f',"{figure}":null')
        places += [at + place for place in ordered]
    return "".join(texts), picker(places)


def _text(value: str | None) -> str:
    return "null" if value is None else _json(value)


@functools.lru_cache(maxsize=8192)
def _stamp_text(at: float | None) -> str:
    return "null" if at is None else f'"{utc_text(at)}"'


_encoded = msgspec.json.Encoder().encode


def _json(value: object) -> str:
    return _encoded(value).decode()


def snapshot_head(
    now: float, location: str | None, notice: str | None = None, suspect_locations: Iterable[str] = ()
) -> bytes:
    """What stands before the endpoints: `generated_at`, `location` (null = pooled over all), and which locations fail
    alone."""
    head: JsonObject = {"notice": notice} if notice else {}
    head |= {"generated_at": utc_text(now), "location": location, "suspect_locations": list(suspect_locations)}
    return msgspec.json.encode(head)[:-1] + b',"endpoints":['


SNAPSHOT_END = b"]}"


def snapshot(
    parts: Iterable[Part],
    now: float,
    location: str | None,
    notice: str | None = None,
    suspect_locations: Iterable[str] = (),
) -> bytes:
    """The whole document: the head and one object per endpoint."""
    head = snapshot_head(now, location, notice, suspect_locations)
    return head + joined(parts, now) + SNAPSHOT_END
