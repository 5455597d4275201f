"""What every request is answered from: the daemon's parts, and pictures of the board that are renewed on a timer."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import Clock
from monitor.health.board import Board
from monitor.health.state import State
from monitor.health.view import EndpointView, WindowFigures
from monitor.routing.pooling import pooled_view
from monitor.routing.snapshot import Part, snapshot
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.storage.history import History
from monitor.web.exposition import Exposition
from monitor.web.ports import DaemonStatus, Reload

MADE_UP_LOCATION = "made-up"
MADE_UP_NOTICE = "These figures are made up: a simulated fleet answers the probes, and its past never happened."

# How often the board is looked at. Nothing is rendered while it hands out the same views.
LOOK_SECONDS = 1.0
# A routing snapshot is made anew after this long even if nothing has changed: a router shall see that we are alive.
SNAPSHOT_SECONDS = 5.0
# Work between two turns of the loop, in look-ups of half a microsecond: about a millisecond. To render costs more.
_SLICE = 2000
_RENDERING = 150

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """An encoded answer and the tag that names this very state of it."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Picture:
    """The board at one moment: `seen` as it handed them out, `pooled` one view per endpoint over all locations."""

    seen: tuple[EndpointView, ...] = ()
    pooled: tuple[EndpointView, ...] = ()

    def of(self, location: str | None) -> Sequence[EndpointView]:
        """At most one view per endpoint: from `location`, or pooled."""
        return self.pooled if location is None else [view for view in self.seen if view.location == location]


class Room:
    """Shared by all handlers of one application. Use from its loop."""

    def __init__(
        self,
        board: Board,
        settings_of: Callable[[], Settings],
        history: History,
        metrics: SelfMetrics,
        status: DaemonStatus,
        reload: Reload,
        clock: Clock,
        notice: str | None,
    ) -> None:
        self.board = board
        self.settings_of = settings_of
        self.history = history
        self.status = status
        self.reload = reload
        self.clock = clock
        self.exposition = Exposition(metrics.registry, clock)
        self.picture = Picture()
        self._notice = notice
        self._rendered_export: object = None
        self._pooled: dict[str, tuple[tuple[EndpointView, ...], EndpointView]] = {}
        self._parts: dict[tuple[str, str], Part] = {}
        self._documents: dict[tuple[str | None, str | None, str | None], Document] = {}
        self._documents_since = float("-inf")
        self._etag_seed = secrets.token_hex(4)
        self._etag_number = 0
        self._refreshing = asyncio.Lock()
        self._has_figures = False

    @property
    def starting(self) -> str:
        """What is awaited before there are figures to serve; empty once there are."""
        return self.status.starting or ("" if self._has_figures else "the first figures are being rendered")

    @property
    def settings(self) -> Settings:
        return self.settings_of()

    @property
    def catalog(self) -> Catalog:
        return self.settings_of().catalog

    @property
    def notice(self) -> str | None:
        """What every answer says of itself when its figures are not real."""
        if self._notice is None and self.settings.location == MADE_UP_LOCATION:
            return MADE_UP_NOTICE
        return self._notice

    async def refresh(self) -> None:
        """Take up what the board has now, in slices; cheap if it is what it was. Nothing before the board is restored:
        half a picture would be believed."""
        async with self._refreshing:
            if not self.status.starting:
                await self._take_up()

    async def _take_up(self) -> None:
        seen, export = self.board.views(), self.settings.export
        if seen is self.picture.seen and export == self._rendered_export:
            return
        pooled = await self._pool(seen)
        await self._encode(seen, pooled)
        await self.exposition.refresh(seen, export)
        self.picture, self._rendered_export = Picture(seen, pooled), export
        self._documents.clear()
        self._has_figures = True

    async def keep_fresh(self) -> None:
        """Refresh for ever. A failure is logged and tried again: it leaves the last good picture standing."""
        failing = False
        while True:
            await self.clock.sleep(LOOK_SECONDS)
            try:
                await self.refresh()
                failing = False
            except Exception:
                if not failing:
                    _log.exception("web.refresh failed; the last picture stays")
                failing = True

    def views(self, location: str | None, endpoints: Sequence[Endpoint] | None = None) -> list[EndpointView]:
        """One view for each of `endpoints` (default: the whole catalog), unknown where the board has none yet."""
        wanted = self.catalog.endpoints.values() if endpoints is None else endpoints
        known = {view.endpoint.id: view for view in self.picture.of(location)}
        return [known.get(endpoint.id) or blank_view(endpoint, location or "") for endpoint in wanted]

    def routing(self, location: str | None, model: str | None) -> Document:
        """The snapshot; the same bytes until the picture changes or SNAPSHOT_SECONDS have gone by."""
        if self.clock.monotonic() - self._documents_since >= SNAPSHOT_SECONDS:
            self._documents.clear()
        if not self._documents:
            self._documents_since = self.clock.monotonic()
            self._etag_number += 1
        key = (location, model, self.notice)
        if key not in self._documents:
            views = [view for view in self.picture.of(location) if model is None or view.endpoint.model == model]
            parts = (self._parts.get((view.endpoint.id, view.location)) or self._part(view) for view in views)
            body = snapshot(parts, self.clock.now(), location, self.notice)
            etag = f"{self._etag_seed}-{self._etag_number}-{len(self._documents)}"
            self._documents[key] = Document(body, etag)
        return self._documents[key]

    async def _pool(self, seen: tuple[EndpointView, ...]) -> tuple[EndpointView, ...]:
        by_endpoint: dict[str, list[EndpointView]] = {}
        for view in seen:
            by_endpoint.setdefault(view.endpoint.id, []).append(view)
        pooled: dict[str, tuple[tuple[EndpointView, ...], EndpointView]] = {}
        work = 0
        for endpoint, views in by_endpoint.items():
            known = self._pooled.get(endpoint)
            if known is None or not _same(known[0], views):
                known = (tuple(views), pooled_view(views, self._figures))
                work += _RENDERING * len(views) if len(views) > 1 else 0
            pooled[endpoint] = known
            work = await self._breathe(work + 1)
        self._pooled = pooled
        return tuple(view for _, view in pooled.values())

    def _figures(self, endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
        quantiles = self.board.quantiles if window in self.board.performance_windows else ()
        return self.board.figures(endpoints, location, window, quantiles)

    def _part(self, view: EndpointView) -> Part:
        return Part.of(view, self.board.performance_windows)

    async def _encode(self, seen: Sequence[EndpointView], pooled: Sequence[EndpointView]) -> None:
        parts: dict[tuple[str, str], Part] = {}
        work = 0
        for view in (*seen, *pooled):
            key = (view.endpoint.id, view.location)
            known = self._parts.get(key)
            if known is None or known.view is not view:
                known = self._part(view)
                work += _RENDERING
            parts[key] = known
            work = await self._breathe(work + 1)
        self._parts = parts

    async def _breathe(self, work: int) -> int:
        """Let others run once a slice is full; the work done since."""
        if work < _SLICE:
            return work
        await self.clock.sleep(0)
        return 0


ROOM = web.AppKey("room", Room)


def blank_view(endpoint: Endpoint, location: str) -> EndpointView:
    """An endpoint that nothing is known about."""
    windows: Mapping[str, WindowFigures] = {}
    return EndpointView(
        endpoint=endpoint,
        location=location,
        state=State.UNKNOWN,
        cause=None,
        state_since=None,
        usable=True,
        interval_seconds=endpoint.interval_seconds,
        last_probe_at=None,
        last_success_at=None,
        windows=windows,
        probes_total={},
        cost_usd_total=0.0,
    )


def _same(known: Sequence[EndpointView], views: Sequence[EndpointView]) -> bool:
    return len(known) == len(views) and all(a is b for a, b in zip(known, views, strict=True))
