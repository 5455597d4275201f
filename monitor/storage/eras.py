"""Which cadence was in force when, and for which target: what coverage's expected slots are reckoned from."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.catalog.model import Catalog
from monitor.catalog.target import target_of
from monitor.slot import Cadence, Era
from monitor.storage import schema
from monitor.storage.codec import micros
from monitor.storage.names import Names
from monitor.storage.schema import MILLION

EndpointAtLocation = tuple[str, str]


async def record_eras(
    connection: AsyncConnection, names: Names, location: str, wanted: Mapping[str, tuple[Cadence, str]], at: float
) -> int:
    """Make `wanted` (endpoint id -> cadence, target) the eras in force at `location` from `at` on: those that differ or
    are gone end, new ones begin. Returns how many changed; the same again changes none."""
    location_id = (await names.locations(connection, [location]))[location]
    endpoint_ids = await names.endpoints(connection, wanted)
    table = schema.eras
    in_force = {
        row.endpoint_id: row
        for row in await connection.execute(
            select(table).where(table.c.location_id == location_id, table.c.until_us.is_(None))
        )
    }
    new = []
    for endpoint, (cadence, target) in wanted.items():
        row = in_force.get(endpoint_ids[endpoint])
        if row is not None and (row.interval_ms, row.phase_ms, row.target) == (
            cadence.interval_ms,
            cadence.phase_ms,
            target,
        ):
            del in_force[row.endpoint_id]
            continue
        new.append(
            {
                "endpoint_id": endpoint_ids[endpoint],
                "location_id": location_id,
                "since_us": micros(at),
                "interval_ms": cadence.interval_ms,
                "phase_ms": cadence.phase_ms,
                "target": target,
            }
        )
    for row in in_force.values():
        # A clock that went back must not end an era before it began.
        end_us = max(micros(at), row.since_us)
        await connection.execute(update(table).where(table.c.id == row.id).values(until_us=end_us))
    if new:
        await connection.execute(insert(table), new)
    return len(new) + len(in_force)


async def record_catalog(connection: AsyncConnection, names: Names, location: str, catalog: Catalog, at: float) -> int:
    """Make the catalog's cadences and targets the eras in force at `location`; how many changed."""
    wanted = {
        endpoint.id: (Cadence.of(endpoint.id, endpoint.interval_seconds), target_of(endpoint))
        for endpoint in catalog.endpoints.values()
    }
    return await record_eras(connection, names, location, wanted, at)


async def read_eras(
    connection: AsyncConnection, endpoint_id: int | None = None, location_id: int | None = None
) -> dict[EndpointAtLocation, tuple[Era, ...]]:
    """Every era in order of time, by (endpoint, location); all of them, or one endpoint's at one location."""
    table = schema.eras
    query = (
        select(
            schema.endpoints.c.name.label("endpoint"),
            schema.locations.c.name.label("location"),
            table.c.since_us,
            table.c.until_us,
            table.c.interval_ms,
            table.c.phase_ms,
            table.c.target,
        )
        .join(schema.endpoints, schema.endpoints.c.id == table.c.endpoint_id)
        .join(schema.locations, schema.locations.c.id == table.c.location_id)
        .order_by(table.c.endpoint_id, table.c.location_id, table.c.since_us, table.c.id)
    )
    if endpoint_id is not None:
        query = query.where(table.c.endpoint_id == endpoint_id)
    if location_id is not None:
        query = query.where(table.c.location_id == location_id)
    found: dict[EndpointAtLocation, list[Era]] = {}
    for row in await connection.execute(query):
        era = Era(
            since=row.since_us / MILLION,
            until=None if row.until_us is None else row.until_us / MILLION,
            cadence=Cadence(row.interval_ms, row.phase_ms),
            target=row.target,
        )
        found.setdefault((row.endpoint, row.location), []).append(era)
    return {place: tuple(eras) for place, eras in found.items()}
