"""The monitor's own outages as rows. History reads them beside incidents, with no endpoint."""

from __future__ import annotations

from sqlalchemy import case, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage import schema
from monitor.storage.codec import clean_text, micros
from monitor.storage.names import Names
from monitor.storage.schema import MILLION

SELF_SUSPECT = "self_suspect"  # the state of such an incident
LOCATION = "location"  # the cause of one that only other locations' rows could show: see `health/vantage.py`
_REASON_LIMIT = 500


async def record_own_outage(
    connection: AsyncConnection,
    names: Names,
    location: str,
    cause: str,
    reason: str,
    started_at: float,
    ended_at: float | None,
    author: int | None = None,
) -> None:
    """Write it as it is now: a new row, or the row of the same location, cause and start. `author` is the life of the
    monitor whose outage it is: with that it ends, if not before (see `sharing.registry`)."""
    table = schema.own_outages
    key = {
        "location_id": (await names.locations(connection, [location]))[location],
        "cause": cause,
        "started_us": micros(started_at),
    }
    values = {
        "reason": clean_text(reason, _REASON_LIMIT),
        "ended_us": None if ended_at is None else micros(ended_at),
        "author": author,
    }
    same = [table.c[name] == value for name, value in key.items()]
    changed = await connection.execute(update(table).where(*same).values(**values))
    if changed.rowcount == 0:
        await connection.execute(insert(table).values(**key, **values))


async def record_location_suspect(
    connection: AsyncConnection,
    names: Names,
    location: str,
    reason: str,
    since: float,
    until: float | None,
    life: int | None = None,
) -> None:
    """The same of a location that fails alone. Several monitors of one location find it out at about one moment: the
    first one's row is everybody's. Nothing is written for a `life` that is buried: what it found may be over."""
    table = schema.own_outages
    location_id = (await names.locations(connection, [location]))[location]
    # One after the other: two that find none would both begin one, and only one of them would ever be ended.
    taking_turns = select(schema.locations.c.id).where(schema.locations.c.id == location_id)
    await connection.execute(taking_turns.with_for_update(key_share=True))
    monitors = schema.monitors.c
    living = select(monitors.id).where(monitors.id == life, monitors.buried.is_(False))
    if life is not None and (await connection.execute(living)).first() is None:
        return
    lasting = select(table.c.started_us).where(
        table.c.location_id == location_id, table.c.cause == LOCATION, table.c.ended_us.is_(None)
    )
    known = (await connection.execute(lasting)).scalars().first()
    if known is None and until is not None:
        return  # ended by another
    started_at = since if known is None else known / MILLION
    await record_own_outage(connection, names, location, LOCATION, reason, started_at, until)


async def close_own_outages(connection: AsyncConnection, names: Names, location: str, at: float) -> int:
    """End what a crash left open at `location`, at `at` or where it began if that is later; how many. What one
    has open that is not buried is left to who buries it."""
    table = schema.own_outages
    location_id = (await names.locations(connection, [location]))[location]
    ended = case((table.c.started_us > micros(at), table.c.started_us), else_=micros(at))
    living = select(schema.monitors.c.id).where(schema.monitors.c.buried.is_(False))
    is_nobodys = or_(table.c.author.is_(None), table.c.author.not_in(living))
    left_open = [table.c.location_id == location_id, table.c.ended_us.is_(None), is_nobodys]
    return int((await connection.execute(update(table).where(*left_open).values(ended_us=ended))).rowcount)
