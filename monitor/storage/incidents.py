"""Incidents as rows: written as the ledger tells them, read back with their ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, exists, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.health.incidents import Incident
from monitor.storage import schema
from monitor.storage.codec import clean_text, micros
from monitor.storage.names import Names
from monitor.storage.upsert import insert_for

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


class Fence(NamedTuple):
    """What binds a write to the life of a monitor: void once `shard` of the incident's location is in other hands."""

    shard: int
    holder: int


async def record_incident(
    connection: AsyncConnection, names: Names, incident: Incident, fence: Fence | None = None
) -> bool:
    """Write the incident as it is now: a new row, or the row of the same endpoint, location and start. False if the
    fence held it off."""
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
    adding = insert_for(connection.dialect.name, table)
    row = {**key, **values}
    if fence is None:
        adding = adding.values(**row)
    else:
        columns = [literal(value, table.c[name].type) for name, value in row.items()]
        adding = adding.from_select(list(row), select(*columns).where(_is_held(key["location_id"], fence)))
    return bool(
        (await connection.execute(adding.on_conflict_do_update(index_elements=list(key), set_=values))).rowcount
    )


def _is_held(location_id: int, fence: Fence) -> ColumnElement[bool]:
    """In the statement that writes: asked before, the answer would be old in a process that was frozen since."""
    shards = schema.shards.c
    given = and_(shards.holder.is_(None), shards.giver == fence.holder)  # and taken by nobody yet
    here = shards.location_id == location_id, shards.shard == fence.shard
    return exists().where(*here, or_(shards.holder == fence.holder, given))
