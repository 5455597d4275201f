"""Outages of our own as rows, written through the one writer."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage.errors import StorageError
from monitor.storage.names import Names
from monitor.storage.own_outages import close_own_outages, record_location_suspect, record_own_outage
from monitor.storage.writer import Writer
from monitor.suspicion.outages import OwnOutage

log = logging.getLogger(__name__)


class Chronicle:
    def __init__(self, writer: Writer, names: Names) -> None:
        self._writer = writer
        self._names = names

    async def own_outage(self, outage: OwnOutage, location: str) -> None:
        async def job(connection: AsyncConnection) -> None:
            await record_own_outage(
                connection, self._names, location, outage.cause, outage.reason, outage.started_at, outage.ended_at
            )

        try:
            await self._writer.submit(job)
        except StorageError as error:
            log.error("own_outage_not_written cause=%s error=%s", outage.cause, error)

    async def location_suspect(self, location: str, reason: str, since: float, until: float | None) -> None:
        """That a location fails alone; `until` is None while it does."""
        try:
            await self._writer.submit(
                lambda connection: record_location_suspect(connection, self._names, location, reason, since, until)
            )
        except StorageError as error:
            log.error("location_suspect_not_written location=%s error=%s", location, error)

    async def close_left_open(self, location: str, last_seen_at: float | None) -> None:
        """Outages of our own that a crash left open end where we were last seen."""
        closed = await self._writer.submit(
            lambda connection: close_own_outages(connection, self._names, location, last_seen_at or 0.0)
        )
        if closed:
            log.warning("own_outages_left_open closed=%d", closed)
