"""Outages of our own as rows, written through the one writer. One that the database does not take now waits: what cuts
us off from the providers often cuts us off from the database too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage.errors import StorageError
from monitor.storage.names import Names
from monitor.storage.own_outages import close_own_outages, record_location_suspect, record_own_outage
from monitor.storage.writer import Writer
from monitor.suspicion.outages import OwnOutage

log = logging.getLogger(__name__)

_WAITING_LIMIT = 1000  # the oldest go first: an outage a minute for most of a day


class Chronicle:
    """`own_outage` when one begins or ends; `write` every few seconds. `life_of()` is the number of this monitor's life
    among others, None without any. Use from one loop."""

    def __init__(
        self,
        writer: Writer,
        names: Names,
        life_of: Callable[[], int | None] = lambda: None,
        *,
        is_begun: bool = True,
    ) -> None:
        self._writer = writer
        self._names = names
        self._life_of = life_of
        # By key, since a row is written whole: that it ended is all there is to say of one that began meanwhile.
        self._waiting: dict[tuple[str, str, float], OwnOutage] = {}
        self._lasting: dict[tuple[str, str, float], tuple[OwnOutage, int | None]] = {}  # on record, and in which life
        self._writing = asyncio.Lock()
        self._is_failing = False
        self._is_begun = is_begun

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def own_outage(self, outage: OwnOutage, location: str) -> None:
        key = (location, outage.cause, outage.started_at)
        self._waiting.pop(key, None)
        self._waiting[key] = outage
        if len(self._waiting) > _WAITING_LIMIT:
            lost = self._waiting.pop(next(iter(self._waiting)))
            log.error("own_outage_lost cause=%s: too many wait for the database", lost.cause)
        await self.write()

    async def write(self) -> None:
        """Write what waits, oldest first; what the database does not take goes on waiting. What outlives the life in
        which it was written ended with that for all others: it is written anew. Nothing before `begin`."""
        if not self._is_begun:
            return
        async with self._writing:
            life = self._life_of()
            for key, (outage, author) in self._lasting.items():
                if life is not None and author != life:
                    self._waiting.setdefault(key, outage)
            for key, outage in list(self._waiting.items()):
                try:
                    await self._record(key[0], outage, life)
                except StorageError as error:
                    if not self._is_failing:
                        log.error("own_outages_wait outages=%d error=%s", len(self._waiting), error)
                    self._is_failing = True
                    return
                self._lasting.pop(key, None)
                if outage.ended_at is None:
                    self._lasting[key] = outage, life
                if self._waiting.get(key) is outage:
                    del self._waiting[key]
            self._is_failing = False

    async def location_suspect(self, location: str, reason: str, since: float, until: float | None) -> None:
        """That a location fails alone; `until` is None while it does."""
        life = self._life_of()
        try:
            await self._writer.submit(
                lambda connection: record_location_suspect(
                    connection, self._names, location, reason, since, until, life
                )
            )
        except StorageError as error:
            log.error("location_suspect_not_written location=%s error=%s", location, error)

    def begin(self) -> None:
        """What former processes left open is closed: from now on an outage that lasts is our own."""
        self._is_begun = True

    async def close_left_open(self, location: str, last_seen_at: float | None) -> None:
        """Outages of our own that a crash left open end where we were last seen. Nothing after `begin`: a restore may
        be begun again, and what is open then is ours."""
        if self._is_begun:
            return
        closed = await self._writer.submit(
            lambda connection: close_own_outages(connection, self._names, location, last_seen_at or 0.0)
        )
        if closed:
            log.warning("own_outages_left_open closed=%d", closed)

    async def _record(self, location: str, outage: OwnOutage, life: int | None) -> None:
        async def job(connection: AsyncConnection) -> None:
            await record_own_outage(
                connection, self._names, location, outage.cause, outage.reason, outage.started_at, outage.ended_at, life
            )

        await self._writer.submit(job)
