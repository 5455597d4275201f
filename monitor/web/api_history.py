"""/api/v1 from the database: observations, hours and days, incidents."""

from __future__ import annotations

from aiohttp import web

from monitor.outcome import OUTCOMES, Group, group_of
from monitor.probing.kinds import KINDS
from monitor.routing.values import JsonObject
from monitor.storage.history import Step
from monitor.web.answers import answer, sliced
from monitor.web.api import location_in
from monitor.web.errors import NotFound
from monitor.web.query import Query, shown
from monitor.web.records import bucket_object, incident_object, observation_object
from monitor.web.room import ROOM, Room

_DAY = 86_400.0
_DEFAULT_SPAN: dict[Step, float] = {"hour": _DAY, "day": 30 * _DAY}
_LARGEST_LIMIT = 1000
# Objects between two turns of the loop: some 2 ms.
_OBSERVATIONS_A_TURN = 100
_BUCKETS_A_TURN = 10
# Class and group names are told apart by name: no class is called as a group is.
_OUTCOME_WORDS = (*(outcome.value for outcome in OUTCOMES), *(group.value for group in Group))


async def observations(request: web.Request) -> web.Response:
    """The newest observations of one endpoint, rechecks among them."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("since", "until", "limit", "location", "outcome", "kind"))
    endpoint = _endpoint_id(request, room)
    since, until = query.span(room.clock.now(), _DAY)
    limit = query.number("limit", 100, 1, _LARGEST_LIMIT)
    location = location_in(query, room)
    kind = query.choice("kind", KINDS)
    word = query.choice("outcome", _OUTCOME_WORDS)
    policy = room.settings.uptime_policy
    outcomes = (
        None if word is None else [each for each in OUTCOMES if word in (each.value, group_of(each, policy).value)]
    )
    found = await room.history.observations(endpoint, since, until, limit, location, outcomes, kind)
    data = await sliced(room, (observation_object(one, policy) for one in found), _OBSERVATIONS_A_TURN)
    content: JsonObject = {
        "endpoint": endpoint,
        "location": location,
        "data": data,
    }
    return await answer(request, content)


async def history(request: web.Request) -> web.Response:
    """The newest closed UTC hours or days of one endpoint, oldest first: of the kind of probe that decides, or of the
    one that is asked for."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("step", "since", "until", "limit", "location", "kind"))
    endpoint = _endpoint_id(request, room)
    step: Step = "day" if query.choice("step", ("hour", "day"), "hour") == "day" else "hour"
    since, until = query.span(room.clock.now(), _DEFAULT_SPAN[step])
    limit = query.number("limit", _LARGEST_LIMIT, 1, _LARGEST_LIMIT)
    location = location_in(query, room)
    policy = room.settings.uptime_policy
    decided_by = room.catalog.endpoints[endpoint].kind
    kind = query.choice("kind", KINDS, decided_by) or decided_by
    buckets = await room.history.newest_rollups(step, endpoint, since, until, location, limit, kind)
    data = await sliced(room, (bucket_object(each, policy) for each in buckets), _BUCKETS_A_TURN)
    content: JsonObject = {"endpoint": endpoint, "location": location, "kind": kind, "step": step, "data": data}
    return await answer(request, content)


async def incidents(request: web.Request) -> web.Response:
    """Incidents that lasted at some moment of the span, the monitor's own among them, newest first."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("endpoint", "since", "until", "limit", "location"))
    since, until = query.span(room.clock.now(), 30 * _DAY)
    limit = query.number("limit", 100, 1, _LARGEST_LIMIT)
    location = location_in(query, room)
    endpoint = query.text("endpoint")
    if endpoint is not None and endpoint not in room.catalog.endpoints:
        raise _no_endpoint(endpoint)
    found = await room.history.incidents(endpoint, since, until, location, limit)
    return await answer(request, {"location": location, "data": [incident_object(one) for one in found]})


def _endpoint_id(request: web.Request, room: Room) -> str:
    endpoint = request.match_info["endpoint"]
    if endpoint not in room.catalog.endpoints:
        raise _no_endpoint(endpoint)
    return endpoint


def _no_endpoint(endpoint: str) -> NotFound:
    return NotFound(f"no endpoint '{shown(endpoint)}': GET /api/v1/routing lists them, as author/name@provider")
