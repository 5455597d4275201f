"""Reading what was kept: observations, rollups, incidents, eras and facts, in one object."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, Table, exists, false, literal, null, or_, select

from monitor.slot import Era
from monitor.storage import schema
from monitor.storage.codec import micros
from monitor.storage.eras import EndpointAtLocation, read_eras, read_kind_eras
from monitor.storage.facts import read_fact
from monitor.storage.incidents import RecordedIncident
from monitor.storage.names import Place
from monitor.storage.own_outages import LOCATION, SELF_SUSPECT
from monitor.storage.raw_reads import RawReads
from monitor.storage.resume_reads import ResumeReads
from monitor.storage.rollup_reads import Rollup, RollupReads, Step
from monitor.storage.schema import MILLION

__all__ = ["History", "Rollup", "Step"]


class History(RawReads, RollupReads, ResumeReads):
    """All reads of one database. Spans are [since, until) in UTC seconds; None is without end."""

    async def incidents(
        self,
        endpoint: str | None = None,
        since: float | None = None,
        until: float | None = None,
        location: str | None = None,
        limit: int = 1000,
    ) -> list[RecordedIncident]:
        """Incidents that lasted at some moment of the span, newest first; the monitor's own outages among them, unless
        one endpoint is asked for."""
        found = await self._endpoint_incidents(endpoint, since, until, location, limit)
        if endpoint is None:
            found += await self.own_outages(since, until, location, limit)
            found.sort(key=lambda one: -one.started_at)
        return found[:limit]

    async def _endpoint_incidents(
        self, endpoint: str | None, since: float | None, until: float | None, location: str | None, limit: int
    ) -> list[RecordedIncident]:
        table = schema.incidents
        query = (
            select(
                table.c.id,
                schema.endpoints.c.name,
                schema.locations.c.name,
                table.c.state,
                table.c.cause,
                table.c.detail,
                table.c.started_us,
                table.c.ended_us,
                _began_while_suspect(table),
            )
            .join(schema.endpoints, schema.endpoints.c.id == table.c.endpoint_id)
            .join(schema.locations, schema.locations.c.id == table.c.location_id)
            .order_by(table.c.started_us.desc(), table.c.id.desc())
            .limit(limit)
        )
        if endpoint is not None:
            query = query.where(schema.endpoints.c.name == endpoint)
        if location is not None:
            query = query.where(schema.locations.c.name == location)
        return await self._lasted_within(query, table, since, until)

    async def own_outages(
        self, since: float | None = None, until: float | None = None, location: str | None = None, limit: int = 1000
    ) -> list[RecordedIncident]:
        """The monitor's own outages that lasted at some moment of the span, newest first: incidents of no endpoint."""
        table = schema.own_outages
        query = (
            select(
                -table.c.id,
                null(),
                schema.locations.c.name,
                literal(SELF_SUSPECT),
                table.c.cause,
                table.c.reason,
                table.c.started_us,
                table.c.ended_us,
                false(),
            )
            .join(schema.locations, schema.locations.c.id == table.c.location_id)
            .order_by(table.c.started_us.desc(), table.c.id.desc())
            .limit(limit)
        )
        if location is not None:
            query = query.where(schema.locations.c.name == location)
        return await self._lasted_within(query, table, since, until)

    async def _lasted_within(
        self, query: Select[Any], table: Table, since: float | None, until: float | None
    ) -> list[RecordedIncident]:
        if since is not None:
            query = query.where(or_(table.c.ended_us.is_(None), table.c.ended_us >= micros(since)))
        if until is not None:
            query = query.where(table.c.started_us < micros(until))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            RecordedIncident(
                id,
                endpoint,
                where,
                state,
                cause,
                detail,
                began / MILLION,
                None if ended is None else ended / MILLION,
                bool(is_suspect),
            )
            for id, endpoint, where, state, cause, detail, began, ended, is_suspect in rows
        ]

    async def eras(self) -> dict[EndpointAtLocation, tuple[Era, ...]]:
        """Every era of the kind of probe that decides, in order of time, by (endpoint, location)."""
        async with self._database.read() as connection:
            return await read_eras(connection)

    async def kind_eras(self) -> dict[Place, tuple[Era, ...]]:
        """The same of the kinds of probe that decide nothing, by (endpoint, location, kind)."""
        async with self._database.read() as connection:
            return await read_kind_eras(connection)

    async def fact(self, name: str) -> str | None:
        """A fact about the whole database (storage.facts), None if it is not on record."""
        async with self._database.read() as connection:
            return await read_fact(connection, name)


def _began_while_suspect(incidents: Table) -> ColumnElement[bool]:
    spans = schema.own_outages.alias()
    return exists().where(
        spans.c.location_id == incidents.c.location_id,
        spans.c.cause == LOCATION,
        spans.c.started_us <= incidents.c.started_us,
        or_(spans.c.ended_us.is_(None), spans.c.ended_us >= incidents.c.started_us),
    )
