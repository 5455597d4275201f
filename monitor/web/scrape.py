"""GET /metrics and GET /metrics/self: what a scrape asks for, and how it is sent."""

from __future__ import annotations

from weakref import WeakValueDictionary

from aiohttp import hdrs, web

from monitor.web.answers import send
from monitor.web.errors import NotFound
from monitor.web.exposition import Generation, Selection
from monitor.web.formats import Format, preferred
from monitor.web.query import Query, shown
from monitor.web.room import ROOM, Room
from monitor.web.sending import SCRAPES, Gzipped

_VARY = f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}"


# Of one form, selection and moment. Who asks while the same page is being made shares it; it goes with the last reader.
Pages = WeakValueDictionary[tuple[str, Selection, Generation], Gzipped]
PAGES: web.AppKey[Pages] = web.AppKey("pages")


async def metrics(request: web.Request) -> web.StreamResponse:
    """Endpoints and the monitor itself; of a selection of endpoints, these alone."""
    room = request.app[ROOM]
    selection = _selection(request, room)
    form = preferred(_accept(request))
    headers = {hdrs.CONTENT_TYPE: form.content_type, hdrs.VARY: _VARY}
    return await request.app[SCRAPES].answer(
        request,
        headers,
        lambda: room.exposition.page(form, room.notice, selection),
        lambda: _page(request.app[PAGES], room, form, selection),
        room.clock,
    )


async def self_metrics(request: web.Request) -> web.Response:
    """The monitor's own figures alone."""
    Query(request.rel_url.raw_query_string, ())
    form = preferred(_accept(request))
    response = await send(request, request.app[ROOM].exposition.own(form), form.content_type)
    response.headers[hdrs.VARY] = _VARY
    return response


def _page(pages: Pages, room: Room, form: Format, selection: Selection) -> Gzipped:
    key = (form.content_type, selection, room.exposition.generation)
    page = pages.get(key)
    # A whole one is old: its own metrics were counted when it was made.
    if page is None or page.is_whole or page.is_broken:
        page = pages[key] = Gzipped(room.exposition.page(form, room.notice, selection), room.clock)
    return page


def _accept(request: web.Request) -> str:
    return ",".join(request.headers.getall(hdrs.ACCEPT, ()))


def _selection(request: web.Request, room: Room) -> Selection:
    names = ("model", "provider", "location")
    query = Query(request.rel_url.raw_query_string, names, repeatable=names)
    models, providers, locations = (frozenset(query.texts(name)) for name in names)
    # A misspelt slug must not look like a provider without endpoints: the target shows as down, with these words.
    if unknown := models - room.catalog.models.keys():
        raise NotFound(f"no model '{shown(min(unknown))}': GET /api/v1/models lists them")
    if unknown := providers - room.catalog.providers.keys():
        raise NotFound(f"no provider '{shown(min(unknown))}': GET /api/v1/providers lists them")
    if locations and (unknown := locations.difference(known := room.board.locations())):
        raise NotFound(f"no location '{shown(min(unknown))}': there are {', '.join(known)}")
    return Selection(models, providers, locations)
