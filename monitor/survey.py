"""Looking at the locations from time to time: which of them fails alone is told in log, gauge and database."""

from __future__ import annotations

from collections.abc import Callable

from monitor.clock import Clock
from monitor.health.vantage import Finding
from monitor.rooms import Rooms
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.telling import tell_location


class Survey:
    """Use from one loop, one `look` at a time."""

    def __init__(self, rooms: Rooms, metrics: SelfMetrics, clock: Clock, settings_of: Callable[[], Settings]) -> None:
        self._rooms = rooms
        self._metrics = metrics
        self._clock = clock
        self._settings_of = settings_of
        self._told: dict[str, Finding] = {}  # of those that are suspect, as they were when that was told

    async def look(self) -> None:
        changed = await self._rooms.board.look_at_locations()
        self._metrics.show_locations(
            {location: finding.is_suspect for location, finding in self._rooms.board.findings.items()}
        )
        for finding in changed:
            begun = self._told.pop(finding.location, None)
            if finding.is_suspect:
                self._told[finding.location] = finding
            tell_location(finding, begun)
            # Each location's own monitors put it on record: whoever cannot write here has no rows here to be judged by.
            if finding.location == self._settings_of().location:
                await self._record(finding, begun)

    async def _record(self, finding: Finding, begun: Finding | None) -> None:
        if finding.since is not None:
            await self._rooms.chronicle.location_suspect(finding.location, finding.detail or "", finding.since, None)
        elif begun is not None and begun.since is not None:
            await self._rooms.chronicle.location_suspect(
                begun.location, begun.detail or "", begun.since, max(self._clock.now(), begun.since)
            )
