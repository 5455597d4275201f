"""Incidents: confirmed states other than operational, with cause, start and end."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage import schema
from monitor.storage.codec import clean_text, micros
from monitor.storage.names import Names

_DETAIL_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Incident:
    """`ended_at` is None while it lasts. Instants are UTC seconds."""

    id: int
    endpoint: str
    location: str
    state: str
    cause: str | None
    detail: str | None
    started_at: float
    ended_at: float | None


async def record_state(
    connection: AsyncConnection,
    names: Names,
    *,
    endpoint: str,
    location: str,
    state: str | None,
    at: float,
    cause: str | None = None,
    detail: str | None = None,
) -> bool:
    """`endpoint` at `location` entered `state` at `at`: what lasted of another state ends, and an incident of this one
    begins. `state` None says that all is well: nothing begins. True if anything changed; the same again changes
    nothing, so that a restart may repeat what it finds."""
    endpoint_id = (await names.endpoints(connection, [endpoint]))[endpoint]
    location_id = (await names.locations(connection, [location]))[location]
    table = schema.incidents
    here = (table.c.endpoint_id == endpoint_id, table.c.location_id == location_id)
    at_us = micros(at)
    lasting = (await connection.execute(select(table).where(*here, table.c.ended_us.is_(None)))).all()
    ending = [row for row in lasting if row.state != state]
    for row in ending:
        ended = update(table).where(table.c.id == row.id).values(ended_us=max(at_us, row.started_us))
        await connection.execute(ended)
    if state is None or len(ending) < len(lasting):
        return bool(ending)
    values = {
        "state": state,
        "cause": None if cause is None else clean_text(cause, _DETAIL_LIMIT),
        "detail": None if detail is None else clean_text(detail, _DETAIL_LIMIT),
        "ended_us": None,
    }
    # Down and degraded within one microsecond, or told twice: the later word stands.
    again = await connection.execute(update(table).where(*here, table.c.started_us == at_us).values(**values))
    if again.rowcount == 0:
        start = {"endpoint_id": endpoint_id, "location_id": location_id, "started_us": at_us}
        await connection.execute(insert(table).values(**start, **values))
    return True
