"""GET /metrics: Prometheus text 0.0.4. Lines are rendered off the request path, as views change.

One endpoint's lines are rendered once per view and kept for as long as the board hands out that same view; a page is
those lines joined family by family, since the format wants all lines of a family together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from prometheus_client import CollectorRegistry, generate_latest

from monitor.clock import Clock
from monitor.health.view import EndpointView
from monitor.letting_go import let_go
from monitor.settings import ExportSettings
from monitor.web.families import ENDPOINT_FAMILIES, KIND_FAMILIES, WithoutCreated
from monitor.web.kind_lines import render_kinds
from monitor.web.lines import Lines, render

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Endpoints rendered between two turns of the loop: about a millisecond, so that no probe's clock notices.
_SLICE = 32
_JOINED = 8192  # and as long it takes to join so many pieces of a page
_HEADERS = [family.header().encode() for family in ENDPOINT_FAMILIES]
_KIND_HEADERS = [family.header().encode() for family in KIND_FAMILIES]


class Exposition:
    """The page. `refresh` renders what has changed, `page` joins what the last refresh left."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._own_metrics = WithoutCreated(registry)
        self._clock = clock
        self._views: Sequence[EndpointView] = ()
        self._rendered: list[Lines] = []  # of each of the views
        self._export: ExportSettings | None = None
        # Of the views that have other kinds of probe than chat, by endpoint and location.
        self._kinds: dict[tuple[str, str], tuple[EndpointView, Lines]] = {}

    async def refresh(self, views: Sequence[EndpointView], export: ExportSettings) -> None:
        """Render the views that are not the very objects of last time. Not to be run twice at once."""
        rendered: list[Lines | None]
        rendered = self._kept(views) if export == self._export else [None] * len(views)
        stale = [place for place, lines in enumerate(rendered) if lines is None]
        for number, place in enumerate(stale, 1):
            view = views[place]
            rendered[place] = render(view, export)
            if view.kinds:
                self._kinds[view.endpoint.id, view.location] = (view, render_kinds(view, export))
            if number % _SLICE == 0:
                await self._clock.sleep(0)
        fresh = [lines for lines in rendered if lines is not None]
        gone: list[object] = [lines for lines, now in zip_longest(self._rendered, fresh) if lines is not now]
        if self._kinds:
            shown = {id(view) for view in views}
            self._kinds = {key: each for key, each in self._kinds.items() if id(each[0]) in shown}
        self._views, self._rendered, self._export = views, fresh, export
        for _ in let_go(gone):
            await self._clock.sleep(0)

    def _kept(self, views: Sequence[EndpointView]) -> list[Lines | None]:
        """What is rendered of each of `views`; None where it is to be rendered."""
        former = self._views
        if len(views) != len(former):
            known = {id(view): lines for view, lines in zip(former, self._rendered, strict=True)}
            return [known.get(id(view)) for view in views]
        return [
            lines if view is before else None for view, before, lines in zip(views, former, self._rendered, strict=True)
        ]

    async def page(self, notice: str | None) -> list[bytes]:
        """The whole page in pieces, joined a family at a time: the endpoints as of the last refresh, the monitor's own
        figures as of now."""
        comment = f"# {' '.join(notice.split())}\n".encode(errors="replace") if notice else b""
        pieces, rendered, work = [comment], self._rendered, 0
        for place, header in enumerate(_HEADERS):
            lines = b"".join([each[place] for each in rendered])
            if lines:
                pieces += header, lines
            work += len(rendered)
            if work >= _JOINED:
                await self._clock.sleep(0)
                work = 0
        kinds = list(self._kinds.values())
        for place, header in enumerate(_KIND_HEADERS if kinds else ()):
            if lines := b"".join([each[place] for _, each in kinds]):
                pieces += header, lines
        return [*pieces, generate_latest(self._own_metrics)]
