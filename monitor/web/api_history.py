"""/api/v1 from the database: observations, hours and days, incidents."""

from __future__ import annotations

from itertools import groupby

from aiohttp import web

from monitor.observation import Observation
from monitor.outcome import OUTCOMES, Group, Outcome, group_of
from monitor.routing.snapshot import JsonObject
from monitor.storage.history import Rollup, Step
from monitor.web.answers import answer
from monitor.web.api import location_in
from monitor.web.errors import NotFound
from monitor.web.query import Query, shown
from monitor.web.records import bucket_object, incident_object, observation_object
from monitor.web.room import ROOM, Room

_DAY = 86_400.0
_DEFAULT_SPAN: dict[Step, float] = {"hour": _DAY, "day": 30 * _DAY}
_LARGEST_LIMIT = 1000
# Class and group names are told apart by name: no class is called as a group is.
_OUTCOME_WORDS = (*(outcome.value for outcome in OUTCOMES), *(group.value for group in Group))


async def observations(request: web.Request) -> web.Response:
    """The newest observations of one endpoint, rechecks among them."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("since", "until", "limit", "location", "outcome"))
    endpoint = _endpoint_id(request, room)
    since, until = query.span(room.clock.now(), _DAY)
    limit = query.number("limit", 100, 1, _LARGEST_LIMIT)
    location = location_in(query, room)
    word = query.choice("outcome", _OUTCOME_WORDS)
    policy = room.settings.uptime_policy
    found: list[Observation] = []
    async for chunk in room.history.stream(since, until, endpoint, location, newest_first=True, chunk=limit):
        found += [one for one in chunk if word is None or _is(one.outcome, word, policy)]
        if len(found) >= limit:
            break
    content: JsonObject = {
        "endpoint": endpoint,
        "location": location,
        "data": [observation_object(one, policy) for one in found[:limit]],
    }
    return await answer(request, content)


async def history(request: web.Request) -> web.Response:
    """Closed UTC hours or days of one endpoint, oldest first."""
    room = request.app[ROOM]
    query = Query(request.rel_url.raw_query_string, ("step", "since", "until", "location"))
    endpoint = _endpoint_id(request, room)
    step: Step = "day" if query.choice("step", ("hour", "day"), "hour") == "day" else "hour"
    since, until = query.span(room.clock.now(), _DEFAULT_SPAN[step])
    location = location_in(query, room)
    rollups: list[Rollup] = []
    async for chunk in room.history.rollups(step, endpoint, since, until, location):
        rollups += chunk
    policy = room.settings.uptime_policy
    buckets = [bucket_object(one_bucket, policy) for _, one_bucket in groupby(rollups, key=lambda row: row.start)]
    return await answer(request, {"endpoint": endpoint, "location": location, "step": step, "data": buckets})


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


def _is(outcome: Outcome, word: str, policy: str) -> bool:
    return word in (outcome.value, group_of(outcome, policy).value)


def _endpoint_id(request: web.Request, room: Room) -> str:
    endpoint = request.match_info["endpoint"]
    if endpoint not in room.catalog.endpoints:
        raise _no_endpoint(endpoint)
    return endpoint


def _no_endpoint(endpoint: str) -> NotFound:
    return NotFound(f"no endpoint '{shown(endpoint)}': GET /api/v1/routing lists them, as author/name@provider")
