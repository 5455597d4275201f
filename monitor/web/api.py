"""/api/v1 from memory: models, providers and the routing snapshot."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import hdrs, web

from monitor.health.vantage import Finding
from monitor.routing.values import JsonObject
from monitor.web.answers import JSON, answer, answer_list
from monitor.web.errors import NotFound
from monitor.web.openrouter import (
    Summary,
    described,
    endpoint_object,
    location_object,
    model_object,
    provider_object,
)
from monitor.web.query import Query, shown
from monitor.web.room import ROOM, Room
from monitor.web.sending import READERS

_DEFAULT_PAGE = 500
_LARGEST_PAGE = 1000
# Between two turns of the loop: a millisecond or two, with 25 endpoints each.
_MODELS_A_TURN = 25
_VIEWS_A_TURN = 1000


def location_in(query: Query, room: Room) -> str | None:
    """`?location=`; None = pooled over all."""
    return query.choice("location", room.board.locations())


async def models(request: web.Request) -> web.StreamResponse:
    """Every model, or the page of them that `limit` and `offset` name."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("limit", "offset", "location"))
    location = location_in(query, room)
    known = room.catalog.models
    slugs = list(known)
    paged = query.text("limit") is not None or query.text("offset") is not None
    limit = query.number("limit", _DEFAULT_PAGE, 1, _LARGEST_PAGE) if paged else len(slugs)
    offset = query.number("offset", 0, 0, 1_000_000)
    page = slugs[offset : offset + limit]
    end = offset + limit
    place = "" if location is None else f"&location={quote(location)}"
    following = f"/api/v1/models?limit={limit}&offset={end}{place}" if end < len(slugs) else None
    objects = (model_object(known[slug], room.views(location, known[slug].endpoints)) for slug in page)
    rest: JsonObject = {"total_count": len(slugs), "links": {"next": following}}
    return await answer_list(request, objects, _MODELS_A_TURN, rest)


async def model(request: web.Request) -> web.Response:
    room = request.app[ROOM]
    location = location_in(Query(request.rel_url.raw_query_string, ("location",)), room)
    slug = _model_slug(request, room)
    found = room.catalog.models[slug]
    return await answer(request, {"data": model_object(found, room.views(location, found.endpoints))})


async def model_endpoints(request: web.Request) -> web.Response:
    room = request.app[ROOM]
    location = location_in(Query(request.rel_url.raw_query_string, ("location",)), room)
    found = room.catalog.models[_model_slug(request, room)]
    windows = room.board.performance_windows
    endpoints = [
        endpoint_object(found, room.catalog.providers.get(view.endpoint.provider), view, windows)
        for view in room.views(location, found.endpoints)
    ]
    return await answer(request, {"data": {**described(found), "location": location, "endpoints": endpoints}})


async def providers(request: web.Request) -> web.Response:
    room = request.app[ROOM]
    location = location_in(Query(request.rel_url.raw_query_string, ("location",)), room)
    catalog = room.catalog
    summaries = {slug: Summary() for slug in catalog.providers}
    for number, view in enumerate(room.each_view(location), 1):
        if (mine := summaries.get(view.endpoint.provider)) is not None:  # a reload may come in between
            mine.add(view)
        if number % _VIEWS_A_TURN == 0:
            await room.clock.sleep(0)
    suspects = {each.location for each in room.suspects()}
    data = [provider_object(provider, summaries[slug], suspects) for slug, provider in catalog.providers.items()]
    return await answer(request, {"data": data})


async def locations(request: web.Request) -> web.Response:
    """Every location, what its word is worth, and its figures as measured there; here first."""
    room = request.app[ROOM]
    Query(request.rel_url.raw_query_string, ())
    data = []
    for location in room.board.locations():
        finding = room.board.findings.get(location) or Finding(location)
        data.append(location_object(finding, room.picture.of(location).values()))
        await room.clock.sleep(0)
    return await answer(request, {"data": data})


async def routing(request: web.Request) -> web.StreamResponse:
    """The snapshot; 304 while the caller has the newest one."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("location", "model"))
    location = location_in(query, room)
    slug = query.text("model")
    if slug is not None and slug not in room.catalog.models:
        raise NotFound(f"no model '{shown(slug)}': GET /api/v1/models lists them")
    document = room.routing(location, slug)
    tag = f'W/"{document.etag}"'
    wanted = request.if_none_match or ()
    if any(each.value in (document.etag, "*") for each in wanted):
        return web.Response(status=304, headers={hdrs.ETAG: tag, hdrs.VARY: hdrs.ACCEPT_ENCODING})
    headers = {hdrs.CONTENT_TYPE: JSON, hdrs.VARY: hdrs.ACCEPT_ENCODING, hdrs.ETAG: tag}
    return await request.app[READERS].answer(request, headers, document.chunks, lambda: document.gzipped, room.clock)


def _model_slug(request: web.Request, room: Room) -> str:
    slug = f"{request.match_info['author']}/{request.match_info['slug']}"
    if slug not in room.catalog.models:
        raise NotFound(f"no model '{shown(slug)}': GET /api/v1/models lists them")
    return slug
