"""What comes into a running monitor, and where it goes.

report -> board.observe (state) -> writer.put -> committed -> board.record (windows) -> views -> metrics and API

Until the board is restored, reports go to the writer alone, and what they mean for states is held back: a state is made
of what was before. Rows that are committed meanwhile are found by the restore.
"""

from __future__ import annotations

import logging
from collections import deque
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


# Reports between two turns of the event loop: some 3 ms.
_HELD_A_TURN = 50


class Intake:
    """`rooms` from when they are built: nothing is reported before, and what is committed then is found by the restore.
    Use from one loop."""

    def __init__(self, settings_of: Callable[[], Settings], tasks: Tasks, clock: Clock) -> None:
        self.rooms: Rooms | None = None
        self._clock = clock
        self._is_recording = False
        self._held: dict[str, deque[ProbeReport]] | None = {}  # by lane: what came in before the board was restored
        self._held_shards: frozenset[int] = frozenset()
        self._settings_of = settings_of
        self._tasks = tasks

    @property
    def _open_rooms(self) -> Rooms:
        assert self.rooms is not None, "the database is not open yet"
        return self.rooms

    def start_recording(self) -> None:
        """The windows are restored: what is committed from now on is theirs to count."""
        self._is_recording = True

    async def let_go(self) -> None:
        """The states are restored too: let what was held back move them, in slices."""
        moved = 0
        while self._held:
            lane, reports = self._held.popitem()
            while reports:
                report = reports.popleft()
                # Soon after a failure a recheck is of use: not if something newer is known.
                self._move(report, is_newest=not reports and lane not in self._held)
                moved += 1
            if moved >= _HELD_A_TURN:
                moved = 0
                await self._clock.sleep(0)
        self._held = None
        if self._held_shards:
            self.on_taken(self._held_shards)

    def _hold(self, held: dict[str, deque[ProbeReport]], report: ProbeReport) -> None:
        """Of a lane no more than a state is made of: a database may be away for hours in mid-restore."""
        lane = report.turn.lane
        if lane not in held:
            rule = self._settings_of().state
            held[lane] = deque(maxlen=2 * max(rule.down_of, rule.up_of))
        held[lane].append(report)

    def on_report(self, report: ProbeReport) -> None:
        rooms, observation = self._open_rooms, report.observation
        rooms.writer.put(observation)
        if report.turn.decides and is_about_our_key(observation.outcome):
            rooms.dispatcher.set_unusable(observation.endpoint, True, report.turn.endpoint)
        tell_probe(observation)
        if self._held is None:
            self._move(report)
        else:
            self._hold(self._held, report)

    def _move(self, report: ProbeReport, *, is_newest: bool = True) -> None:
        """States, and what follows from them."""
        rooms, observation = self._open_rooms, report.observation
        if not report.turn.decides:
            rooms.board.observe(observation)
            return
        board = rooms.board
        before = board.standing(observation.endpoint, observation.location)
        transition = board.observe(observation)
        # Of a success with nothing of ours to mend, as nearly all are, there is nothing to tell or to check again.
        if not observation.is_ok or before.is_ours_to_mend:
            tell_ours(observation, before, board.standing(observation.endpoint, observation.location))
            if is_newest and board.wants_recheck(observation):
                rooms.dispatcher.recheck(report.turn, self._settings_of().state.recheck_seconds)
        if transition is not None:
            self.on_transition(transition)

    def on_transition(self, transition: Transition) -> None:
        tell_transition(transition)
        self.write_incidents(self._open_rooms.ledger.apply(transition))

    def write_incidents(self, events: Sequence[IncidentEvent]) -> None:
        """Those that are ours to tell of: of several monitors one writes."""
        rooms = self._open_rooms
        ours = [one for one in events if rooms.sharing.tells_of(one.incident.endpoint, one.incident.location)]
        if ours:
            rooms.incident_log.put(ours, rooms.sharing.fence_of)
            self._tasks.errand(rooms.incident_log.write())

    def on_taken(self, shards: frozenset[int]) -> None:
        """Endpoints of another monitor's are ours to tell of: what it may not have written any more is written now."""
        if self._held is None:
            self._tasks.errand(self._take_up(shards))
        else:
            self._held_shards |= shards

    async def _take_up(self, shards: frozenset[int]) -> None:
        rooms, location = self._open_rooms, self._settings_of().location

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
            return await still_open(self._open_rooms.history, self._clock.now())
        except StorageError as error:
            log.info("incidents_not_taken_up error=%s", error)
            return None

    def take_in(self, rows: Sequence[Observation], shown: Container[ObservationKey]) -> None:
        """Rows of other monitors, committed; the windows have those that are `shown` already."""
        if not self._is_recording:
            return
        rooms, location = self._open_rooms, self._settings_of().location
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
        self._tasks.errand(self._open_rooms.chronicle.own_outage(outage, self._settings_of().location))

    def on_committed(self, rows: Sequence[Observation], already_shown: bool) -> None:
        rooms = self.rooms
        if rooms is None:
            return
        rooms.sharing.note_own(rows)
        if self._is_recording and not already_shown:
            rooms.board.record(rows)

    def on_spilled(self, rows: Sequence[Observation]) -> None:
        """Not called before `start_recording`: see `Writer.shows_spilled`."""
        self._open_rooms.sharing.note_shown(rows)
        self._open_rooms.board.record(rows)
