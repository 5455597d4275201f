"""A running monitor judges its history again: rows and rollups through the writer, windows as each slice is committed,
and at the end the states of those whose recent past is another one now."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from monitor.clock import Clock
from monitor.health.incidents import IncidentEvent
from monitor.health.state import State, Transition
from monitor.observation import Observation
from monitor.rooms import Rooms
from monitor.settings import Settings
from monitor.storage.codec import DAY, HOUR
from monitor.storage.reclassify import Change, Reclassified, reclassify

log = logging.getLogger(__name__)

# What a state is made of: as a failing key is asked every 15 minutes at least, it is all in two hours.
_LEAST_RECENT_SECONDS = 2.0 * HOUR


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
    board = rooms.board
    forget = max((view.interval_seconds for view in board.views()), default=0.0) * settings.state.forget_intervals
    recent_since = clock.now() - min(max(forget, _LEAST_RECENT_SECONDS), DAY)
    touched: set[tuple[str, str]] = set()

    def follow(changes: Sequence[Change]) -> None:
        for one in changes:
            rooms.writer.hours.move(one.observation, one.outcome)
            if one.observation.started_at >= recent_since:
                touched.add((one.observation.endpoint, one.observation.location))
        board.move((one.observation, one.outcome) for one in changes)

    try:
        done = await reclassify(
            rooms.database, rooms.writer.submit, settings.catalog, since, is_dry=is_dry, on_changed=follow
        )
    finally:
        # Also of what is done when the rest fails.
        if touched:
            await _relive(rooms, settings, clock, touched, recent_since, on_transition, on_incidents)
    if done.changed and not is_dry:
        log.info("reclassified judged=%d changed=%d", done.judged, done.changed.total())
    return done


async def _relive(
    rooms: Rooms,
    settings: Settings,
    clock: Clock,
    touched: set[tuple[str, str]],
    since: float,
    on_transition: Callable[[Transition], None],
    on_incidents: Callable[[Sequence[IncidentEvent]], None],
) -> None:
    recent: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    async for rows in rooms.history.stream(since):
        for one in rows:
            if (one.endpoint, one.location) in touched:
                recent[one.endpoint, one.location].append(one)
    never_was: set[tuple[str, str]] = set()
    for place in sorted(touched):
        endpoint, location = place
        transition = rooms.board.relive(endpoint, location, recent[place])
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
