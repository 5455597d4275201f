"""What comes into a running monitor, and where it goes.

report -> board.observe (state) -> writer.put -> committed -> board.record (windows) -> views -> metrics and API
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from monitor.clock import Clock
from monitor.health.incidents import Incident, IncidentEvent
from monitor.health.state import Transition, is_about_our_key
from monitor.observation import Observation, ObservationKey
from monitor.probing.report import ProbeReport
from monitor.scheduling.shards import shard_of
from monitor.settings import Settings
from monitor.storage.errors import StorageError
from monitor.storage.restore import still_open
from monitor.suspicion.outages import OwnOutage
from monitor.tasks import Tasks
from monitor.telling import tell_ours, tell_probe, tell_transition

if TYPE_CHECKING:
    from monitor.rooms import Rooms

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0


class Intake:
    """Use from one loop."""

    def __init__(
        self, rooms_of: Callable[[], Rooms], settings_of: Callable[[], Settings], tasks: Tasks, clock: Clock
    ) -> None:
        self._clock = clock
        self.is_recording = False  # what is committed before the restore is found by it
        self._rooms_of = rooms_of
        self._settings_of = settings_of
        self._tasks = tasks

    def on_report(self, report: ProbeReport) -> None:
        rooms, observation = self._rooms_of(), report.observation
        if not report.turn.decides:
            rooms.board.observe(observation)
            rooms.writer.put(observation)
            tell_probe(observation)
            return
        before = rooms.board.standing(observation.endpoint, observation.location)
        transition = rooms.board.observe(observation)
        tell_ours(observation, before, rooms.board.standing(observation.endpoint, observation.location))
        rooms.writer.put(observation)
        if is_about_our_key(observation.outcome):
            rooms.dispatcher.set_unusable(observation.endpoint, True, report.turn.endpoint)
        if rooms.board.wants_recheck(observation):
            rooms.dispatcher.recheck(report.turn, self._settings_of().state.recheck_seconds)
        tell_probe(observation)
        if transition is not None:
            self.on_transition(transition)

    def on_transition(self, transition: Transition) -> None:
        tell_transition(transition)
        self.write_incidents(self._rooms_of().ledger.apply(transition))

    def write_incidents(self, events: Sequence[IncidentEvent]) -> None:
        """Those that are ours to tell of: of several monitors one writes."""
        rooms = self._rooms_of()
        ours = [one for one in events if rooms.sharing.tells_of(one.incident.endpoint, one.incident.location)]
        if ours:
            rooms.incident_log.put(ours, rooms.sharing.fence_of)
            self._tasks.errand(rooms.incident_log.write())

    def on_taken(self, shards: frozenset[int]) -> None:
        """Endpoints of another monitor's are ours to tell of: what it may not have written any more is written now."""
        self._tasks.errand(self._take_up(shards))

    async def _take_up(self, shards: frozenset[int]) -> None:
        rooms, location = self._rooms_of(), self._settings_of().location

        def is_taken(endpoint: str, where: str) -> bool:
            return where == location and shard_of(endpoint) in shards

        while (found := await self._still_open()) is None:
            await self._clock.sleep(_AGAIN_SECONDS)
            if not shards & rooms.sharing.held:
                return
        now = self._clock.now()
        recorded = [one for one in found if is_taken(one.endpoint, one.location)]
        self.write_incidents(rooms.ledger.take_up(recorded))
        self.write_incidents(rooms.ledger.close_unwatched(rooms.board.is_watched, now))
        known = [one for place, one in rooms.ledger.still_open.items() if is_taken(*place)]
        self.write_incidents([IncidentEvent("changed", one) for one in known])
        for standing in rooms.board.standings():
            if is_taken(standing.endpoint, standing.location):
                self.write_incidents(rooms.ledger.apply(standing))

    async def _still_open(self) -> list[Incident] | None:
        """None if the database fails, as it may where a monitor has just died."""
        try:
            return await still_open(self._rooms_of().history, self._clock.now())
        except StorageError as error:
            log.info("incidents_not_taken_up error=%s", error)
            return None

    def take_in(self, rows: Sequence[Observation], shown: Container[ObservationKey]) -> None:
        """Rows of other monitors, committed; the windows have those that are `shown` already."""
        if not self.is_recording:
            return
        rooms, location = self._rooms_of(), self._settings_of().location
        catalog = self._settings_of().catalog
        for one in rows:
            transition = rooms.board.observe(one, foreign=True)
            endpoint = catalog.endpoints.get(one.endpoint)
            if endpoint is not None and one.location == location:
                rooms.dispatcher.sent_elsewhere(one, endpoint.lane(one.kind))
            if transition is not None:
                self.on_transition(transition)
        rooms.board.record([one for one in rows if one.key not in shown])

    def on_own_outage(self, outage: OwnOutage) -> None:
        self._tasks.errand(self._rooms_of().chronicle.own_outage(outage, self._settings_of().location))

    def on_committed(self, rows: Sequence[Observation], already_shown: bool) -> None:
        self._rooms_of().sharing.note_own(rows)
        if self.is_recording and not already_shown:
            self._rooms_of().board.record(rows)

    def on_spilled(self, rows: Sequence[Observation]) -> None:
        self._rooms_of().sharing.note_shown(rows)
        if self.is_recording:
            self._rooms_of().board.record(rows)
