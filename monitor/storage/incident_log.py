"""Incidents on their way into the database: what it does not take now waits, and is written when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.incidents import Incident, IncidentEvent
from monitor.storage.errors import StorageError
from monitor.storage.incidents import record_incident
from monitor.storage.names import Names
from monitor.storage.retention import Submit

log = logging.getLogger(__name__)

WAITING_LIMIT = 50_000  # some 20 MB: every one of 10,000 endpoints down, up and down again, and more
_ROWS_A_JOB = 200


class IncidentLog:
    """`put` what the ledger tells, and call `write` then and every few seconds. Use from one loop."""

    def __init__(self, submit: Submit, names: Names, *, waiting_limit: int = WAITING_LIMIT) -> None:
        self.lost = 0
        self._submit = submit
        self._names = names
        self._waiting_limit = waiting_limit
        # By key, since a row is written whole: of several changes of one incident the newest is all there is to say.
        self._waiting: dict[tuple[str, str, float], Incident] = {}
        self._writing = asyncio.Lock()
        self._is_failing = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, events: Iterable[IncidentEvent]) -> None:
        """Never blocks, never raises."""
        for event in events:
            self._waiting.pop(event.incident.key, None)
            self._waiting[event.incident.key] = event.incident
        while len(self._waiting) > self._waiting_limit:
            lost = self._waiting.pop(next(iter(self._waiting)))
            self.lost += 1
            log.error("incident_lost endpoint=%s lost=%d: too many wait for the database", lost.endpoint, self.lost)

    async def write(self) -> None:
        """Write everything that waits, oldest first; what the database does not take goes on waiting."""
        async with self._writing:
            size = _ROWS_A_JOB
            while self._waiting:
                batch = list(islice(self._waiting.values(), size))
                try:
                    await self._submit(partial(self._record, batch))
                except StorageError as error:
                    if not self._is_failing:
                        log.error("incidents_wait incidents=%d error=%s", len(self._waiting), error)
                    self._is_failing = True
                    return
                except Exception:
                    if size > 1:
                        size = 1  # find the one that is at fault
                        continue
                    log.exception("incident_refused endpoint=%s", batch[0].endpoint)
                for incident in batch:
                    if self._waiting.get(incident.key) is incident:
                        del self._waiting[incident.key]
            if self._is_failing:
                log.warning("incidents_written: the database takes them again")
            self._is_failing = False

    async def _record(self, incidents: Sequence[Incident], connection: AsyncConnection) -> None:
        for incident in incidents:
            await record_incident(connection, self._names, incident)
