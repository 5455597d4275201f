"""What every request is answered from: the daemon's parts, and pictures of the board that are renewed on a timer."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from operator import is_not

from aiohttp import web

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import Clock
from monitor.health.board import Board
from monitor.health.state import State
from monitor.health.vantage import Finding
from monitor.health.view import EndpointView, WindowFigures
from monitor.letting_go import let_go
from monitor.routing.pooling import pooled_view
from monitor.routing.snapshot import Part, snapshot_head
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.storage.history import History
from monitor.web.document import Document
from monitor.web.errors import Unavailable
from monitor.web.exposition import Exposition
from monitor.web.ports import DaemonStatus, Reload

MADE_UP_LOCATION = "made-up"
MADE_UP_NOTICE = "These figures are made up: a simulated fleet answers the probes, and its past never happened."

# How often the board is looked at: 9 us each time, and nothing is rendered, while it hands out the same views.
LOOK_SECONDS = 0.125
_FAILED_SECONDS = 1.0  # until it is looked at again by who has failed to render it
# Work between two turns of the loop, in look-ups of half a microsecond: about a millisecond. To render costs more.
_SLICE = 2000
_POOLING = 150

_log = logging.getLogger(__name__)


Views = Mapping[str, EndpointView]  # by endpoint id


@dataclass(frozen=True, slots=True)
class Picture:
    """The board at one moment: `seen` as it handed them out, one view per endpoint `pooled` over all locations, and
    those of each location."""

    seen: tuple[EndpointView, ...] = ()
    pooled: Views = field(default_factory=dict)
    by_location: Mapping[str, Views] = field(default_factory=dict)

    def of(self, location: str | None) -> Views:
        """At most one view per endpoint: from `location`, or pooled."""
        return self.pooled if location is None else self.by_location.get(location, {})

    def with_changed(self, seen: tuple[EndpointView, ...], changed: Iterable[EndpointView]) -> Picture:
        """The same of one location alone, with `changed` in the place of the views of the same endpoints."""
        (location,) = self.by_location
        views = {**self.pooled, **{view.endpoint.id: view for view in changed}}
        return Picture(seen, views, {location: views})


class Room:
    """Shared by all handlers of one application. Use from its loop."""

    def __init__(
        self,
        board: Board | None,
        settings_of: Callable[[], Settings],
        history: History | None,
        metrics: SelfMetrics,
        status: DaemonStatus,
        reload: Reload,
        clock: Clock,
        notice: str | None,
    ) -> None:
        self.settings_of = settings_of
        self.status = status
        self.reload = reload
        self.clock = clock
        self.exposition = Exposition(metrics.registry, clock)
        self.picture = Picture()
        self._board = board
        self._history = history
        self._notice = notice
        self._rendered_export: object = None
        self._pooled: dict[str, tuple[tuple[EndpointView, ...], EndpointView]] = {}
        self._parts: dict[tuple[str, str], Part] = {}
        self._documents: dict[tuple[str | None, str | None, str | None], Document] = {}
        self._etag_seed = secrets.token_hex(4)
        self._etag_number = 0
        self._refreshing = asyncio.Lock()
        self._has_figures = False

    def furnish(self, board: Board | None, history: History | None) -> None:
        """What there is to answer from now that the database is open; None once it is closed again."""
        self._board, self._history = board, history

    @property
    def board(self) -> Board:
        """Unavailable while the database is not open."""
        if self._board is None:
            raise Unavailable(f"starting: {self.starting}")
        return self._board

    @property
    def history(self) -> History:
        """As `board`."""
        if self._history is None:
            raise Unavailable(f"starting: {self.starting}")
        return self._history

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
        former = self.picture
        await self.clock.sleep(0)  # to look through 10,000 views once is a millisecond, and is done four times here
        changed = changed_places(former.seen, seen) if len(former.by_location) == 1 else None
        if changed is None:
            picture = await self._pool(seen)
            is_alone = len(picture.by_location) <= 1  # then the pooled views are the very same
            await self._forget_parts(chain(seen, () if is_alone else picture.pooled.values()))
            gone: list[object] = list(former.seen)
        else:
            await self.clock.sleep(0)
            news = [seen[place] for place in changed]
            picture = former.with_changed(seen, news)
            gone = [former.seen[place] for place in changed]
        await self.clock.sleep(0)
        is_of_former = self.exposition.generation.views is former.seen  # not where the refresh before failed midway
        await self.exposition.refresh(seen, export, changed if is_of_former else None)
        self.picture, self._rendered_export = picture, export
        for document in self._documents.values():
            document.pass_by()
        self._documents = {key: document for key, document in self._documents.items() if document.is_fresh}
        self._has_figures = True
        del former
        for _ in let_go(gone):
            await self.clock.sleep(0)

    def suspects(self) -> list[Finding]:
        """The locations that fail alone."""
        return [each for each in self.board.findings.values() if each.is_suspect]

    async def keep_fresh(self) -> None:
        """Refresh for ever. A failure is logged and tried again: it leaves the last good picture standing."""
        failing = False
        while True:
            await self.clock.sleep(_FAILED_SECONDS if failing else LOOK_SECONDS)
            try:
                await self.refresh()
                failing = False
            except Exception:
                if not failing:
                    _log.exception("web.refresh failed; the last picture stays")
                failing = True

    def views(self, location: str | None, endpoints: Sequence[Endpoint]) -> list[EndpointView]:
        """One view for each of `endpoints`, unknown where the board has none yet."""
        return list(self._views_of(location, endpoints))

    def each_view(self, location: str | None) -> Iterator[EndpointView]:
        """The same of the whole catalog as it is now, one by one: 10,000 are too many for one turn."""
        return self._views_of(location, self.catalog.endpoints.values())

    def _views_of(self, location: str | None, endpoints: Iterable[Endpoint]) -> Iterator[EndpointView]:
        known = self.picture.of(location)
        return (known.get(each.id) or blank_view(each, location or "") for each in endpoints)

    def routing(self, location: str | None, model: str | None) -> Document:
        """The snapshot; the same one for all who ask until it is out of date."""
        key = (location, model, self.notice)
        document = self._documents.get(key)
        if document is None or not document.is_fresh:
            document = self._documents[key] = self._document(location, model)
        return document

    def _document(self, location: str | None, model: str | None) -> Document:
        self._etag_number += 1
        etag, now = f"{self._etag_seed}-{self._etag_number}", self.clock.now()
        known = self.picture.of(location)
        if model is None:
            views = list(known.values())
        else:
            views = [known[each.id] for each in self.catalog.models[model].endpoints if each.id in known]
        head = snapshot_head(now, location, self.notice, [each.location for each in self.suspects()])
        return Document(head, views, self._part, now, etag, self.clock)

    async def _pool(self, seen: tuple[EndpointView, ...]) -> Picture:
        by_endpoint: dict[str, list[EndpointView]] = {}
        by_location: dict[str, dict[str, EndpointView]] = {}
        work = 0
        for view in seen:
            id_ = view.endpoint.id
            by_endpoint.setdefault(id_, []).append(view)
            by_location.setdefault(view.location, {})[id_] = view
            work = await self._breathe(work + 1)
        known_pools, self._pooled = self._pooled, {}
        pooled: dict[str, EndpointView] = {}
        for endpoint, views in by_endpoint.items():
            known = known_pools.get(endpoint)
            if known is None or not _same(known[0], views):
                known = (tuple(views), pooled_view(views, self._figures, self.board.pooled_kinds))
                work += _POOLING * len(views) if len(views) > 1 else 0
            self._pooled[endpoint] = known
            pooled[endpoint] = known[1]
            work = await self._breathe(work + 1)
        return Picture(seen, pooled, by_location)

    def _figures(self, endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
        quantiles = self.board.quantiles if window in self.board.performance_windows else ()
        return self.board.figures(endpoints, location, window, quantiles)

    def _part(self, view: EndpointView) -> Part:
        """The one that is kept, if it is of this very view."""
        key = (view.endpoint.id, view.location)
        known = self._parts.get(key)
        if known is not None and known.view is view:
            return known
        part = Part.of(view, self.board.performance_windows, known)
        if known is None or known.view.version <= view.version:  # else somebody still reads an old snapshot
            self._parts[key] = part
        return part

    async def _forget_parts(self, views: Iterable[EndpointView]) -> None:
        """Of all but these views' endpoints."""
        parts: dict[tuple[str, str], Part] = {}
        work = 0
        for view in views:
            key = (view.endpoint.id, view.location)
            if (known := self._parts.get(key)) is not None:
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


def changed_places(former: Sequence[EndpointView], seen: Sequence[EndpointView]) -> list[int] | None:
    """Where `seen` has another view than `former` of the same endpoint and location; None if it is of others."""
    if len(former) != len(seen):
        return None
    places = list(compress(range(len(seen)), map(is_not, former, seen)))
    for place in places:
        before, now = former[place], seen[place]
        if (before.endpoint.id, before.location) != (now.endpoint.id, now.location):
            return None
    return places


def _same(known: Sequence[EndpointView], views: Sequence[EndpointView]) -> bool:
    return len(known) == len(views) and all(a is b for a, b in zip(known, views, strict=True))
