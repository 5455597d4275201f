"""The pages of GET /metrics. Lines are rendered off the request path, as views change, and sent as they are.

One endpoint's lines are rendered once per view and kept for as long as the board hands out that same view. A page is
those lines family by family, since the formats want all lines of a family together. It is joined while it is sent, a
quarter of a megabyte at a time: whole, the page of 10,000 endpoints is 80 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from monitor.clock import Clock
from monitor.health.view import EndpointView
from monitor.letting_go import let_go
from monitor.settings import ExportSettings
from monitor.web.families import ENDPOINT_FAMILIES, OwnMetrics
from monitor.web.formats import Format
from monitor.web.kind_lines import render_kinds
from monitor.web.lines import Lines, render

# Kinds of probe of endpoints rendered between two turns of the loop, chat one of them: a millisecond, for which who
# asks meanwhile waits.
_SLICE = 32
# Endpoints whose lines are joined at once, of one family: up to a quarter of a megabyte, a tenth of a millisecond.
_JOINED = 256
_CHUNK_BYTES = 256 * 1024
# Endpoints that are looked at for a chunk, however little they have to say: half a millisecond.
_LOOKED_AT = 20 * _JOINED
# The first is short: it is on its way before the second is looked at.
_FIRST_CHUNK_BYTES = 32 * 1024

_CHAT = len(ENDPOINT_FAMILIES)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which endpoints a page is about; an empty set leaves nobody out."""

    models: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    locations: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.models or self.providers or self.locations)

    def of(self, views: Iterable[EndpointView], lines: Iterable[Lines]) -> Sequence[Lines]:
        """Of `lines`, which are those of `views`, what it takes. A question at a time: a millisecond for 10,000."""
        pairs: Iterable[tuple[EndpointView, Lines]] = zip(views, lines, strict=True)
        if models := self.models:
            pairs = [pair for pair in pairs if pair[0].endpoint.model in models]
        if providers := self.providers:
            pairs = [pair for pair in pairs if pair[0].endpoint.provider in providers]
        if locations := self.locations:
            pairs = [pair for pair in pairs if pair[0].location in locations]
        return [lines for _, lines in pairs]


EVERYTHING = Selection()


@dataclass(frozen=True, eq=False, slots=True)
class Generation:
    """What one refresh left, and never changed: a page that is being sent is of one moment, whatever comes meanwhile.
    `lines` of each view: one item per family of ENDPOINT_FAMILIES and, where it has other kinds of probe than chat, of
    KIND_FAMILIES."""

    views: Sequence[EndpointView] = ()
    lines: Sequence[Lines] = ()
    export: ExportSettings | None = None


class Exposition:
    """`refresh` renders what has changed, `page` and `own` hand out what is there."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._own_metrics = OwnMetrics(registry)
        self._clock = clock
        self.generation = Generation()

    async def refresh(
        self, views: Sequence[EndpointView], export: ExportSettings, changed: Sequence[int] | None = None
    ) -> None:
        """Render the views that are not the very objects of last time: those at the places `changed`, where that is
        known. Not to be run twice at once."""
        former = self.generation
        rendered: list[Lines]
        if changed is None or export != former.export:
            known = _kept(former, views) if export == former.export else [None] * len(views)
            changed = [place for place, lines in enumerate(known) if lines is None]
            rendered = [lines or () for lines in known]
        else:
            rendered = list(former.lines)
        await self._clock.sleep(0)
        work = 0
        for place in changed:
            if work >= _SLICE:
                await self._clock.sleep(0)
                work = 0
            rendered[place] = _lines(views[place], export)
            work += 1 + len(views[place].kinds)
        await self._clock.sleep(0)
        is_alike = len(former.lines) == len(rendered)
        gone: list[object] = [former.lines[place] for place in changed] if is_alike else list(former.lines)
        self.generation = Generation(views, rendered, export)
        del former, rendered
        for _ in let_go(gone):
            await self._clock.sleep(0)

    def page(self, form: Format, notice: str | None, selection: Selection = EVERYTHING) -> Iterator[bytes]:
        """In chunks, each made when it is asked for, some of them empty: the endpoints as of the last refresh, then the
        monitor's own figures as of when they are come to; these are left out of a selection."""
        now = self.generation
        lines = selection.of(now.views, now.lines) if selection else now.lines
        remark = form.remark(notice) if notice else b""
        own: Callable[[], bytes] = (lambda: form.end) if selection else (lambda: self.own(form))
        return _chunks(lines, form, remark, own)

    def own(self, form: Format) -> bytes:
        """The monitor's own figures, as of now."""
        collector: Collector = self._own_metrics
        return form.own(collector) + form.end


def _lines(view: EndpointView, export: ExportSettings) -> Lines:
    lines = render(view, export)
    return (*lines, *render_kinds(view, export)) if view.kinds else lines


def _kept(former: Generation, views: Sequence[EndpointView]) -> list[Lines | None]:
    """What is rendered of each of `views`; None where it is to be rendered."""
    pairs = zip(former.views, former.lines, strict=True)
    if len(views) != len(former.views):
        known = {id(view): lines for view, lines in pairs}
        return [known.get(id(view)) for view in views]
    return [lines if view is before else None for view, (before, lines) in zip(views, pairs, strict=True)]


def _chunks(rendered: Sequence[Lines], form: Format, remark: bytes, own: Callable[[], bytes]) -> Iterator[bytes]:
    pieces, size, enough, looked = [remark], 0, _FIRST_CHUNK_BYTES, 0
    kinds: Sequence[Lines] = ()
    for place, head in enumerate(form.heads):
        if place == _CHAT:
            yield b"".join(pieces)
            pieces, size, looked = [], 0, 0
            kinds = [lines for lines in rendered if len(lines) > _CHAT]
        of = rendered if place < _CHAT else kinds
        is_begun = False
        for start in range(0, len(of), _JOINED):
            lines = [each[place] for each in of[start : start + _JOINED]]
            looked += _JOINED
            if length := sum(map(len, lines)):
                if not is_begun:
                    pieces.append(head)
                    is_begun = True
                pieces += lines
                size += length
            if size >= enough or looked >= _LOOKED_AT:
                yield b"".join(pieces)
                pieces, size, enough, looked = [], 0, _CHUNK_BYTES, 0
    yield b"".join(pieces)
    yield own()
