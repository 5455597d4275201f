"""Incidents on their way into the database: what it does not take now waits, and is written when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.incidents import Incident, IncidentEvent
from monitor.storage.errors import StorageError
from monitor.storage.incidents import Fence, record_incident
from monitor.storage.names import Names
from monitor.storage.retention import Submit

log = logging.getLogger(__name__)

WAITING_LIMIT = 50_000  # some 20 MB: every one of 10,000 endpoints down, up and down again, and more
_ROWS_A_JOB = 200


_Fenced = tuple[Incident, Fence | None]


class IncidentLog:
    """`put` what the ledger tells, and call `write` then and every few seconds. Use from one loop."""

    def __init__(self, submit: Submit, names: Names, *, waiting_limit: int = WAITING_LIMIT) -> None:
        self.lost = 0
        self._submit = submit
        self._names = names
        self._waiting_limit = waiting_limit
        # By key, since a row is written whole: of several changes of one incident the newest is all there is to say.
        self._waiting: dict[tuple[str, str, float], _Fenced] = {}
        self._writing = asyncio.Lock()
        self._is_failing = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put(self, events: Iterable[IncidentEvent], fence_of: Callable[[str], Fence | None] = lambda _: None) -> None:
        """Never blocks, never raises. `fence_of(endpoint)` is asked now: what is written when the shard is another's by
        then is that one's to tell."""
        for event in events:
            self._waiting.pop(event.incident.key, None)
            self._waiting[event.incident.key] = event.incident, fence_of(event.incident.endpoint)
        while len(self._waiting) > self._waiting_limit:
            lost, _ = self._waiting.pop(next(iter(self._waiting)))
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
                    log.exception("incident_refused endpoint=%s", batch[0][0].endpoint)
                for fenced in batch:
                    if self._waiting.get(fenced[0].key) is fenced:
                        del self._waiting[fenced[0].key]
            if self._is_failing:
                log.warning("incidents_written: the database takes them again")
            self._is_failing = False

    async def _record(self, incidents: Sequence[_Fenced], connection: AsyncConnection) -> None:
        for incident, fence in incidents:
            if not await record_incident(connection, self._names, incident, fence):
                log.info("incident_left_to_another endpoint=%s: its shard is not ours any more", incident.endpoint)
