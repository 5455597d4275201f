"""Incidents as rows: written as the ledger tells them, read back with their ids."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.incidents import Incident
from monitor.storage import schema
from monitor.storage.codec import clean_text, micros
from monitor.storage.names import Names

_DETAIL_LIMIT = 500


@dataclass(frozen=True, slots=True)
class RecordedIncident:
    """`ended_at` is None while it lasts. Instants are UTC seconds. `endpoint` None: the monitor's own trouble; such ids
    are negative, since they are counted apart. `location_suspect`: it began while its location was found to fail
    alone."""

    id: int
    endpoint: str | None
    location: str
    state: str
    cause: str | None
    detail: str | None
    started_at: float
    ended_at: float | None
    location_suspect: bool = False


async def record_incident(connection: AsyncConnection, names: Names, incident: Incident) -> None:
    """Write the incident as it is now: a new row, or the row of the same endpoint, location and start."""
    table = schema.incidents
    key = {
        "endpoint_id": (await names.endpoints(connection, [incident.endpoint]))[incident.endpoint],
        "location_id": (await names.locations(connection, [incident.location]))[incident.location],
        "started_us": micros(incident.started_at),
    }
    values = {
        "state": incident.state.value,
        "cause": None if incident.cause is None else clean_text(incident.cause, _DETAIL_LIMIT),
        "detail": None if incident.detail is None else clean_text(incident.detail, _DETAIL_LIMIT),
        "ended_us": None if incident.ended_at is None else micros(incident.ended_at),
    }
    same = [table.c[name] == value for name, value in key.items()]
    changed = await connection.execute(update(table).where(*same).values(**values))
    if changed.rowcount == 0:
        await connection.execute(insert(table).values(**key, **values))
