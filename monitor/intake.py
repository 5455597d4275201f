"""What comes into a running monitor, and where it goes.

report -> board.observe (state) -> writer.put -> committed -> board.record (windows) -> views -> metrics and API
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from monitor.health.incidents import IncidentEvent
from monitor.health.state import Transition, is_about_our_key
from monitor.observation import Observation
from monitor.probing.report import ProbeReport
from monitor.settings import Settings
from monitor.suspicion.outages import OwnOutage
from monitor.tasks import Tasks
from monitor.telling import tell_ours, tell_probe, tell_transition

if TYPE_CHECKING:
    from monitor.rooms import Rooms


class Intake:
    """Use from one loop."""

    def __init__(self, rooms_of: Callable[[], Rooms], settings_of: Callable[[], Settings], tasks: Tasks) -> None:
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
        if events:
            incident_log = self._rooms_of().incident_log
            incident_log.put(events)
            self._tasks.errand(incident_log.write())

    def on_own_outage(self, outage: OwnOutage) -> None:
        self._tasks.errand(self._rooms_of().chronicle.own_outage(outage, self._settings_of().location))

    def on_committed(self, rows: Sequence[Observation], already_shown: bool) -> None:
        if self.is_recording and not already_shown:
            self._rooms_of().board.record(rows)

    def on_spilled(self, rows: Sequence[Observation]) -> None:
        if self.is_recording:
            self._rooms_of().board.record(rows)
