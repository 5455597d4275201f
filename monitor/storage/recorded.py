"""What the daemon has written down beside observations: the catalog's cadences and the incidents."""

from __future__ import annotations

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.catalog.model import Catalog
from monitor.catalog.target import target_of
from monitor.health.incidents import Incident
from monitor.slot import Cadence
from monitor.storage import schema
from monitor.storage.codec import clean_text, micros
from monitor.storage.eras import record_eras
from monitor.storage.names import Names

_DETAIL_LIMIT = 500


async def record_catalog(connection: AsyncConnection, names: Names, location: str, catalog: Catalog, at: float) -> int:
    """Make the catalog's cadences and targets the eras in force at `location`; how many changed."""
    wanted = {
        endpoint.id: (Cadence.of(endpoint.id, endpoint.interval_seconds), target_of(endpoint))
        for endpoint in catalog.endpoints.values()
    }
    return await record_eras(connection, names, location, wanted, at)


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
