"""A running monitor judges its history again: rows and rollups through the writer, windows as each slice is committed,
and at the end the states of those whose recent past is another one now. Where another monitor has done so, states
alone: windows are restored by `storage.hour_turn`."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from monitor.clock import Clock
from monitor.health.incidents import IncidentEvent
from monitor.health.machine import Moment, moment_of
from monitor.health.state import State, Transition
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.rejudging import TOLD_OUTCOMES
from monitor.rooms import Rooms
from monitor.settings import Settings
from monitor.storage.codec import DAY, HOUR
from monitor.storage.database import Job, T
from monitor.storage.reclassify import Change, Reclassified, reclassify

log = logging.getLogger(__name__)

# What a state is made of lies no longer back than `forget`, and what makes it unusable within two hours: a failing key
# is asked every 15 minutes at least.
_LEAST_RECENT_SECONDS = 2.0 * HOUR
_FEW = 16
_SERIES_A_TURN = 250  # some 2 ms

_Place = tuple[str, str]  # endpoint, location


async def reclassify_here(
    rooms: Rooms,
    settings: Settings,
    clock: Clock,
    since: float | None,
    is_dry: bool,
    on_transition: Callable[[Transition], None],
    on_incidents: Callable[[Sequence[IncidentEvent]], None],
) -> Reclassified:
    """Judge what started at `since` or later (None: all raw rows). See `storage.reclassify`."""
    board, now = rooms.board, clock.now()
    forget = _forgotten_after(rooms, settings)
    touched: dict[_Place, dict[Moment, Outcome]] = defaultdict(dict)

    def follow(changes: Sequence[Change]) -> None:
        for one in changes:
            observation = one.observation
            place = (observation.endpoint, observation.location)
            rooms.writer.hours.move(observation, one.outcome)
            if observation.started_at >= now - max(forget.get(place, 0.0), _LEAST_RECENT_SECONDS):
                touched[place][moment_of(observation)] = one.outcome
        board.move((one.observation, one.outcome) for one in changes)

    async def submit(job: Job[T], after_commit: Callable[[T], None], /) -> T:
        return await rooms.writer.submit(rooms.sharing.rewriting(job), after_commit)

    try:
        done = await reclassify(rooms.database, submit, settings.catalog, since, is_dry=is_dry, on_changed=follow)
    finally:
        # Also of what is done when the rest fails.
        if touched:
            since = _recent_since(touched, forget, now)
            await _relive(rooms, settings, clock, touched, since, on_transition, on_incidents)
    if done.changed and not is_dry:
        log.info("reclassified judged=%d changed=%d", done.judged, done.changed.total())
    return done


async def relive_rewritten(
    rooms: Rooms,
    settings: Settings,
    clock: Clock,
    on_transition: Callable[[Transition], None],
    on_incidents: Callable[[Sequence[IncidentEvent]], None],
) -> None:
    """Find states anew where another monitor has judged again what they were made of. Idempotent; StorageError."""
    known: dict[_Place, dict[Moment, Outcome]] = {}
    now = since = clock.now()
    for number, (endpoint, location, faults) in enumerate(rooms.board.remembered_faults(), 1):
        if faults:
            known[endpoint, location] = {moment_of(one): one.outcome for one in faults}
            since = min(since, *(one.started_at for one in faults))
        if number % _SERIES_A_TURN == 0:
            await clock.sleep(0)
    if not known:
        return
    touched: dict[_Place, dict[Moment, Outcome]] = defaultdict(dict)
    async for rows in rooms.history.stream(max(since, now - DAY), outcomes=TOLD_OUTCOMES):
        for one in rows:
            place, moment = (one.endpoint, one.location), moment_of(one)
            if known.get(place, {}).get(moment, one.outcome) is not one.outcome:
                touched[place][moment] = one.outcome
    if touched:
        since = _recent_since(touched, _forgotten_after(rooms, settings), now)
        await _relive(rooms, settings, clock, touched, since, on_transition, on_incidents)
        log.info("states_found_anew endpoints=%d: another monitor has judged again", len(touched))


def _forgotten_after(rooms: Rooms, settings: Settings) -> dict[_Place, float]:
    """Seconds."""
    forget = settings.state.forget_intervals
    return {(view.endpoint.id, view.location): view.interval_seconds * forget for view in rooms.board.views()}


def _recent_since(places: Iterable[_Place], forget: Mapping[_Place, float], now: float) -> float:
    """From when on rows bear on these states. A day at most, as after a restart: what is older is remembered, or found
    out anew."""
    return now - min(max(_LEAST_RECENT_SECONDS, *(forget.get(place, 0.0) for place in places)), DAY)


async def _relive(
    rooms: Rooms,
    settings: Settings,
    clock: Clock,
    touched: Mapping[_Place, Mapping[Moment, Outcome]],
    since: float,
    on_transition: Callable[[Transition], None],
    on_incidents: Callable[[Sequence[IncidentEvent]], None],
) -> None:
    recent: dict[_Place, list[Observation]] = defaultdict(list)
    # A few are read one by one, so that the others' rows are passed over in SQL; many in one go.
    endpoints = sorted({endpoint for endpoint, _ in touched})
    for wanted in endpoints if len(endpoints) <= _FEW else (None,):
        async for rows in rooms.history.stream(since, endpoint=wanted):
            for one in rows:
                if (one.endpoint, one.location) in touched:
                    recent[one.endpoint, one.location].append(one)
    never_was: set[_Place] = set()
    for place, changed in sorted(touched.items()):
        endpoint, location = place
        transition = rooms.board.relive(endpoint, location, recent[place], changed)
        standing = rooms.board.standing(endpoint, location)
        if transition is not None:
            on_transition(transition)
        if standing.state is State.UNKNOWN:
            never_was.add(place)
        if location == settings.location and endpoint in settings.catalog.endpoints:
            rooms.dispatcher.set_unusable(endpoint, not standing.usable)
    # Unknown ends no incident by itself; but here the faults that began it were none.
    on_incidents(rooms.ledger.close_unwatched(lambda *place: place not in never_was, clock.now()))
    await rooms.board.refresh()
