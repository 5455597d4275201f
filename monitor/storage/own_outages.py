"""The monitor's own outages as rows. History reads them beside incidents, with no endpoint."""

from __future__ import annotations

from sqlalchemy import case, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage import schema
from monitor.storage.codec import clean_text, micros
from monitor.storage.names import Names

SELF_SUSPECT = "self_suspect"  # the state of such an incident
_REASON_LIMIT = 500


async def record_own_outage(
    connection: AsyncConnection,
    names: Names,
    location: str,
    cause: str,
    reason: str,
    started_at: float,
    ended_at: float | None,
) -> None:
    """Write it as it is now: a new row, or the row of the same location, cause and start."""
    table = schema.own_outages
    key = {
        "location_id": (await names.locations(connection, [location]))[location],
        "cause": cause,
        "started_us": micros(started_at),
    }
    values = {
        "reason": clean_text(reason, _REASON_LIMIT),
        "ended_us": None if ended_at is None else micros(ended_at),
    }
    same = [table.c[name] == value for name, value in key.items()]
    changed = await connection.execute(update(table).where(*same).values(**values))
    if changed.rowcount == 0:
        await connection.execute(insert(table).values(**key, **values))


async def close_own_outages(connection: AsyncConnection, names: Names, location: str, at: float) -> int:
    """End what a crash left open at `location`, at `at` or where it began if that is later; how many."""
    table = schema.own_outages
    location_id = (await names.locations(connection, [location]))[location]
    ended = case((table.c.started_us > micros(at), table.c.started_us), else_=micros(at))
    left_open = [table.c.location_id == location_id, table.c.ended_us.is_(None)]
    return int((await connection.execute(update(table).where(*left_open).values(ended_us=ended))).rowcount)
