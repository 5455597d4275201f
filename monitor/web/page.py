"""The page: what is down, since when and why, on one screen. Rendered on the server, without a script."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from aiohttp import hdrs, web
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from monitor.catalog.model import Catalog, Price
from monitor.clock import utc_text
from monitor.health.state import State
from monitor.health.uptime import percent
from monitor.health.view import API_PERFORMANCE_WINDOW, EndpointView, KindView, Vantage, WindowFigures
from monitor.routing.pooling import PARTIAL
from monitor.web.answers import send
from monitor.web.api import location_in
from monitor.web.errors import NotFound
from monitor.web.openrouter import summary
from monitor.web.query import Query
from monitor.web.room import ROOM

REFRESH_SECONDS = 30
ROWS = 1000  # endpoints on one page: some 70 ms of work, 600 kB
UNUSABLE = "unusable"
_STATES = (*(state.value for state in State), UNUSABLE)
# The order of trouble, for the counts on top.
_SHOWN_STATES = tuple(state.value for state in (State.DOWN, State.DEGRADED, State.OPERATIONAL, State.UNKNOWN))
_NOTHING = "–"
# Template pieces between two turns of the loop: a row has some 40, and ten rows take half a millisecond.
_PIECES = 400
_VIEWS = 1000  # views counted between two turns, a millisecond
_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Page:
    """The template and the static files, read once: a handler never touches the disk."""

    template: Template
    files: dict[str, bytes]
    version: str  # changes with the files, so that a browser may keep them for ever

    @classmethod
    def load(cls) -> Page:
        environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        files = {path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir())}
        version = hashlib.blake2b(b"".join(files.values()), digest_size=6).hexdigest()
        return cls(environment.get_template("index.html"), files, version)


PAGE = web.AppKey("page", Page)


@dataclass(frozen=True, slots=True)
class KindRow:
    """One kind of probe other than chat as text: its month."""

    kind: str
    success: str
    samples: str
    band: str
    figures: str


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint as text."""

    endpoint: str
    tag: str
    state: str
    usable: bool
    cause: str
    unusable_cause: str
    since: str
    detail: str
    uptime: str
    uptime_band: str  # good, fair, poor or nothing: OpenRouter's bands, 95 and 80 %
    samples: str
    ttft_p50: str
    ttft_p90: str
    output_speed: str
    throughput: str
    price: str
    last_probe: str
    last_probe_at: str
    is_suspect: bool  # seen from a location that fails alone
    kinds: list[KindRow]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A location that fails alone, as text."""

    location: str
    since: str
    detail: str


@dataclass(frozen=True, slots=True)
class ModelRows:
    slug: str
    name: str
    uptime: str
    rows: Iterator[Row]


async def index(request: web.Request) -> web.Response:
    room, page = request.app[ROOM], request.app[PAGE]
    query = Query(request.rel_url.raw_query_string, ("model", "provider", "state", "location", "page"))
    catalog = room.catalog
    model = query.choice("model", catalog.models)
    provider = query.choice("provider", catalog.providers)
    state = query.choice("state", _STATES)
    location = location_in(query, room)
    number = query.number("page", 1, 1, 10_000)
    now = room.clock.now()
    states: Counter[str] = Counter()
    grouped: dict[str, list[EndpointView]] = {slug: [] for slug in catalog.models}
    for turn, view in enumerate(room.each_view(location), 1):
        states[_counted_as(view)] += 1
        if _is_wanted(view, model, provider, state):
            grouped[view.endpoint.model].append(view)
        if turn % _VIEWS == 0:
            await room.clock.sleep(0)
    shown = sum(map(len, grouped.values()))
    last = max(-(-shown // ROWS), 1)
    number = min(number, last)
    narrowed = {"model": model, "provider": provider, "state": state, "location": location}
    kept = {name: value for name, value in narrowed.items() if value}
    pieces = page.template.generate(
        notice=room.notice,
        counts=[(name, states[name]) for name in (*_SHOWN_STATES, UNUSABLE)],
        # Rows are made as the template asks for them, so that this work is cut into slices with the rest.
        models=_page_of(catalog, grouped, (number - 1) * ROWS, now),
        shown=shown,
        total=states.total(),
        page=number,
        pages=[(each, "?" + urlencode({**kept, "page": each})) for each in range(1, last + 1)],
        model_slugs=list(catalog.models),
        provider_slugs=list(catalog.providers),
        states=_STATES,
        locations=room.board.locations(),
        **narrowed,
        suspects=[
            Suspect(each.location, age_text(now - each.since), each.detail or "")
            for each in room.suspects()
            if each.since is not None
        ],
        now=utc_text(now, "seconds").replace("T", " ").replace("Z", " UTC"),
        refresh_seconds=REFRESH_SECONDS,
        version=page.version,
    )
    html: list[str] = []
    for turn, piece in enumerate(pieces):
        html.append(piece)
        if turn % _PIECES == _PIECES - 1:
            await room.clock.sleep(0)
    return await send(request, "".join(html).encode(errors="replace"), "text/html; charset=utf-8")


async def static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    page = request.app[PAGE]
    if name not in page.files:
        raise NotFound("no such file")
    response = await send(request, page.files[name], _TYPES[Path(name).suffix])
    if request.query.get("v") == page.version:
        response.headers[hdrs.CACHE_CONTROL] = "public, max-age=31536000, immutable"
    return response


def _is_wanted(view: EndpointView, model: str | None, provider: str | None, state: str | None) -> bool:
    return (
        model in (None, view.endpoint.model)
        and provider in (None, view.endpoint.provider)
        and state in (None, _counted_as(view))
    )


def _counted_as(view: EndpointView) -> str:
    """One word for each endpoint, so that the counts add up: with a key that fails, its state is an old one."""
    return view.state.value if view.usable else UNUSABLE


def _page_of(
    catalog: Catalog, grouped: Mapping[str, Sequence[EndpointView]], start: int, now: float
) -> Iterator[ModelRows]:
    """ROWS endpoints from the `start`th on, by model; its uptime is that of all its views, whatever their page."""
    end = start + ROWS
    for slug, views in grouped.items():
        if part := views[max(start, 0) : max(end, 0)]:
            pooled = summary(views)["uptime_last_30d"]
            uptime = f"{pooled:.2f} %" if isinstance(pooled, float) else _NOTHING
            yield ModelRows(slug, catalog.models[slug].name, uptime, (row_of(view, now) for view in part))
        start, end = start - len(views), end - len(views)


def row_of(view: EndpointView, now: float) -> Row:
    recent = view.windows.get(API_PERFORMANCE_WINDOW)
    month = view.windows.get("30d")
    uptime = percent(month.uptime_ratio) if month else None
    return Row(
        endpoint=view.endpoint.id,
        tag=view.endpoint.tag,
        state=view.state.value,
        usable=view.usable,
        cause=(view.detail or "") if view.cause == PARTIAL else _words(view.cause),
        unusable_cause=_words(view.unusable_cause),
        since="" if view.state_since is None else age_text(now - view.state_since),
        detail=view.detail or "",
        uptime=_NOTHING if uptime is None else f"{uptime:.2f} %",
        uptime_band=_band(uptime),
        samples=f"{month.samples:,}" if month and month.samples else "",
        ttft_p50=_quantile(recent, "ttft_seconds", 0.5, seconds_text),
        ttft_p90=_quantile(recent, "ttft_seconds", 0.9, seconds_text),
        output_speed=_quantile(recent, "output_tokens_per_second", 0.5, speed_text),
        throughput=_quantile(recent, "throughput_tokens_per_second", 0.5, speed_text),
        price=price_text(view.endpoint.price),
        last_probe="never" if view.last_probe_at is None else f"{age_text(now - view.last_probe_at)} ago",
        last_probe_at="" if view.last_probe_at is None else utc_text(view.last_probe_at, "seconds"),
        is_suspect=view.vantage is Vantage.SUSPECT and view.location != "",
        kinds=[kind_row(each) for each in view.kinds.values()] if view.kinds else [],
    )


def kind_row(view: KindView) -> KindRow:
    month = view.windows["30d"]
    success = percent(month.uptime_ratio)
    answered = percent(month.answer_ok_ratio)
    told = [
        "" if answered is None else f"right {answered:.2f} %",
        _told("first token", _quantile(month, "ttft_seconds", 0.5, seconds_text)),
        _told("whole", _quantile(month, "latency_seconds", 0.5, seconds_text)),
        _told("reads tok/s", _quantile(month, "prefill_tokens_per_second", 0.5, speed_text)),
        "" if month.cached_ratio is None else f"cached {percent(month.cached_ratio):.2f} %",
        "" if month.saved_usd is None else f"saves {_small_dollars(month.saved_usd)}",
    ]
    return KindRow(
        view.kind,
        _NOTHING if success is None else f"{success:.2f} %",
        f"{month.samples:,}" if month.samples else "",
        _band(success),
        ", ".join(text for text in told if text),
    )


def _told(name: str, value: str) -> str:
    return "" if value == _NOTHING else f"{name} {value}"


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def _band(uptime: float | None) -> str:
    if uptime is None:
        return "nothing"
    return "good" if uptime >= 95 else "fair" if uptime >= 80 else "poor"


def _quantile(figures: WindowFigures | None, figure: str, quantile: float, text: Callable[[float], str]) -> str:
    value = None if figures is None else figures.quantiles.get(figure, {}).get(quantile)
    return _NOTHING if value is None else text(value)


def seconds_text(seconds: float) -> str:
    """Three digits, as a person says it: 446 ms, 1.25 s, 12.3 s."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"


def speed_text(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f}" if tokens_per_second < 9.95 else f"{tokens_per_second:,.0f}"


def age_text(seconds: float) -> str:
    """The largest whole unit: 45 s, 12 min, 5 h, 3 d. A clock that was stepped back makes it 0 s."""
    seconds = max(seconds, 0.0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def price_text(price: Price | None) -> str:
    """USD per million tokens, in and out."""
    if price is None or (price.input is None and price.output is None):
        return _NOTHING
    return " / ".join(_NOTHING if usd is None else _dollars(usd) for usd in (price.input, price.output))


def _small_dollars(usd: float) -> str:
    """Three digits, however small: what one probe costs is a fraction of a cent."""
    return f"${float(f'{usd:.3g}'):.12f}".rstrip("0").rstrip(".")


def _dollars(usd: float) -> str:
    return f"${usd:.2f}" if round(usd, 2) == usd else f"${usd:.6g}"
