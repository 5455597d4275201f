"""Which cadence was in force when, and for which target: what coverage's expected slots are reckoned from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import bindparam, case, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.catalog.model import Catalog
from monitor.catalog.target import target_of
from monitor.slot import Cadence, Era
from monitor.storage import schema, turns
from monitor.storage.codec import micros
from monitor.storage.database import Database
from monitor.storage.names import Names, Place
from monitor.storage.schema import MILLION

EndpointAtLocation = tuple[str, str]
Wanted = Mapping[str, tuple[Cadence, str]]  # endpoint id -> cadence, target
WantedKinds = Mapping[tuple[str, str], tuple[Cadence, str]]  # endpoint id, kind that decides nothing -> the same

_Lane = tuple[int, int | None]
_NO_KINDS: WantedKinds = {}

_ROWS_A_TURN = 250  # eras between two turns of the event loop: some 2 ms
_PLACES_A_TURN = 2500


class RecordedEras(NamedTuple):
    """In order of time: those of endpoints (of the kind of probe that decides), and of their other kinds."""

    endpoints: dict[EndpointAtLocation, tuple[Era, ...]]
    kinds: dict[Place, tuple[Era, ...]]


async def adopt_catalog(
    database: Database, connection: AsyncConnection, location: str, catalog: Catalog, at: float
) -> RecordedEras:
    """`record_catalog`, and every era as it is then, in one transaction: where either fails, neither has happened."""
    if database.is_shared:
        await turns.enter_catalog(connection)
    else:
        # Nobody else probes into this file: what another location left in force, it left when it was renamed.
        await _end_elsewhere(connection, database.names, location, at)
    await record_catalog(connection, database.names, location, catalog, at)
    return RecordedEras(await read_eras(connection), await read_kind_eras(connection))


async def record_catalog(connection: AsyncConnection, names: Names, location: str, catalog: Catalog, at: float) -> int:
    """Make the catalog's cadences and targets the eras in force at `location`; how many changed."""
    wanted = {}
    kinds = {}
    for number, (id_, endpoint) in enumerate(catalog.endpoints.items(), 1):
        wanted[id_] = (Cadence.of(id_, endpoint.interval_seconds), target_of(endpoint))
        for each in endpoint.other_probes:
            kinds[id_, each.kind] = (Cadence.of(endpoint.lane(each.kind), each.interval_seconds), target_of(endpoint))
        if number % _ROWS_A_TURN == 0:
            await asyncio.sleep(0)
    return await record_eras(connection, names, location, wanted, at, kinds)


async def record_eras(
    connection: AsyncConnection,
    names: Names,
    location: str,
    wanted: Wanted,
    at: float,
    wanted_kinds: WantedKinds = _NO_KINDS,
) -> int:
    """Make `wanted` and `wanted_kinds` the eras in force at `location` from `at` on: those that differ or are gone end,
    new ones begin. Returns how many changed; the same again changes none."""
    location_id = (await names.locations(connection, [location]))[location]
    endpoint_ids = await names.endpoints(connection, [*wanted, *(endpoint for endpoint, _ in wanted_kinds)])
    kind_ids = await names.kinds(connection, {kind for _, kind in wanted_kinds})
    # Both by lane, endpoint and kind (None where it decides): id, since, interval, phase, target; and when the last era
    # began or ended.
    in_force: dict[_Lane, tuple[int, int, int, int, str]] = {}
    latest_us: dict[_Lane, int] = {}
    last_id = 0
    table = schema.eras
    page = select(table).where(table.c.location_id == location_id).order_by(table.c.id).limit(_ROWS_A_TURN)
    while rows := (await connection.execute(page.where(table.c.id > last_id))).all():
        for row in rows:
            lane = (row.endpoint_id, row.kind_id)
            if row.until_us is None:
                in_force[lane] = (row.id, row.since_us, row.interval_ms, row.phase_ms, row.target)
            edge_us = row.since_us if row.until_us is None else row.until_us
            latest_us[lane] = max(latest_us.get(lane, edge_us), edge_us)
        last_id = rows[-1].id
    at_us = micros(at)
    new = []
    lanes: list[tuple[_Lane, tuple[Cadence, str]]] = [((endpoint_ids[name], None), its) for name, its in wanted.items()]
    lanes += [((endpoint_ids[name], kind_ids[kind]), its) for (name, kind), its in wanted_kinds.items()]
    for number, (lane, (cadence, target)) in enumerate(lanes, 1):
        if number % _ROWS_A_TURN == 0:
            await asyncio.sleep(0)
        if in_force.get(lane, ())[2:] == (cadence.interval_ms, cadence.phase_ms, target):
            del in_force[lane]
            continue
        new.append(
            {
                "endpoint_id": lane[0],
                "kind_id": lane[1],
                "location_id": location_id,
                # A clock that went back must not let eras overlap: their slots would be expected twice.
                "since_us": max(at_us, latest_us.get(lane, at_us)),
                "interval_ms": cadence.interval_ms,
                "phase_ms": cadence.phase_ms,
                "target": target,
            }
        )
    ended: list[dict[str, int]] = []
    never_were: list[int] = []
    for lane, (era_id, since_us, *_) in in_force.items():
        end_us = max(at_us, latest_us[lane])
        if end_us > since_us:
            ended.append({"era_id": era_id, "end_us": end_us})
        else:
            never_were.append(era_id)
    end = update(table).where(table.c.id == bindparam("era_id")).values(until_us=bindparam("end_us"))
    for start in range(0, len(ended), _ROWS_A_TURN):
        await connection.execute(end, ended[start : start + _ROWS_A_TURN])
    for start in range(0, len(never_were), _ROWS_A_TURN):
        await connection.execute(delete(table).where(table.c.id.in_(never_were[start : start + _ROWS_A_TURN])))
    for start in range(0, len(new), _ROWS_A_TURN):
        await connection.execute(insert(table), new[start : start + _ROWS_A_TURN])
    return len(new) + len(in_force)


async def read_eras(
    connection: AsyncConnection, endpoint_id: int | None = None, location_id: int | None = None
) -> dict[EndpointAtLocation, tuple[Era, ...]]:
    """Every era of the kind that decides, in order of time, by (endpoint, location); all of them, or one endpoint's at
    one location."""
    table = schema.eras
    query = (
        select(
            table.c.id,
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
        .where(table.c.kind_id.is_(None))
        .order_by(table.c.id)
        .limit(_ROWS_A_TURN)
    )
    if endpoint_id is not None:
        query = query.where(table.c.endpoint_id == endpoint_id)
    if location_id is not None:
        query = query.where(table.c.location_id == location_id)
    found: dict[EndpointAtLocation, list[Era]] = {}
    last_id = 0
    while rows := (await connection.execute(query.where(table.c.id > last_id))).all():
        for row in rows:
            found.setdefault((row.endpoint, row.location), []).append(_era_of(row))
        last_id = rows[-1].id
    # Written in order of time; sorted all the same, for rows that an older version wrote when a clock had gone back.
    whole: dict[EndpointAtLocation, tuple[Era, ...]] = {}
    for number, (place, eras) in enumerate(found.items(), 1):
        whole[place] = tuple(sorted(eras, key=lambda era: era.since))
        if number % _PLACES_A_TURN == 0:
            await asyncio.sleep(0)
    return whole


async def read_kind_eras(
    connection: AsyncConnection,
    endpoint_id: int | None = None,
    location_id: int | None = None,
    kind_id: int | None = None,
) -> dict[Place, tuple[Era, ...]]:
    """The same of the kinds that decide nothing, by (endpoint, location, kind)."""
    table = schema.eras
    query = (
        select(
            schema.endpoints.c.name.label("endpoint"),
            schema.locations.c.name.label("location"),
            schema.kinds.c.name.label("kind"),
            *(table.c[name] for name in ("id", "since_us", "until_us", "interval_ms", "phase_ms", "target")),
        )
        .join(schema.endpoints, schema.endpoints.c.id == table.c.endpoint_id)
        .join(schema.locations, schema.locations.c.id == table.c.location_id)
        .join(schema.kinds, schema.kinds.c.id == table.c.kind_id)
        .order_by(table.c.id)
        .limit(_ROWS_A_TURN)
    )
    for column, id_ in (("endpoint_id", endpoint_id), ("location_id", location_id), ("kind_id", kind_id)):
        if id_ is not None:
            query = query.where(table.c[column] == id_)
    found: dict[Place, list[Era]] = {}
    last_id = 0
    while rows := (await connection.execute(query.where(table.c.id > last_id))).all():
        for row in rows:
            found.setdefault((row.endpoint, row.location, row.kind), []).append(_era_of(row))
        last_id = rows[-1].id
    return {place: tuple(sorted(eras, key=lambda era: era.since)) for place, eras in found.items()}


def _era_of(row: Any) -> Era:
    return Era(
        since=row.since_us / MILLION,
        until=None if row.until_us is None else row.until_us / MILLION,
        cadence=Cadence(row.interval_ms, row.phase_ms),
        target=row.target,
    )


async def _end_elsewhere(connection: AsyncConnection, names: Names, location: str, at: float) -> None:
    location_id = (await names.locations(connection, [location]))[location]
    table, at_us = schema.eras, micros(at)
    end_us = case((table.c.since_us > at_us, table.c.since_us), else_=at_us)
    elsewhere = table.c.location_id != location_id
    await connection.execute(update(table).where(elsewhere, table.c.until_us.is_(None)).values(until_us=end_us))
