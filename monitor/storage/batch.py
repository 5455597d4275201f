"""One batch of observations in one transaction: names, raw rows, and what is late into its rollups."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.observation import Observation
from monitor.storage import schema
from monitor.storage.codec import micros, row_of, texts_of
from monitor.storage.facts import Skew, note_skew
from monitor.storage.names import Names
from monitor.storage.rollups import HourBook, merge_late
from monitor.storage.sqlite import insert_new

_KEY = ("due_ms", "endpoint_id", "location_id", "kind_id", "recheck")


async def insert_batch(
    connection: AsyncConnection,
    names: Names,
    observations: Sequence[Observation],
    hours: HourBook,
    skew: Skew,
    now: float,
) -> tuple[list[Observation], Skew]:
    """Insert what went through `codec.as_stored`. Returns those that are new (a key that exists keeps its first row)
    and the start skew from now on; both hold once the transaction is committed."""
    endpoint_ids = await names.endpoints(connection, {observation.endpoint for observation in observations})
    location_ids = await names.locations(connection, {observation.location for observation in observations})
    kind_ids = await names.kinds(connection, {observation.kind for observation in observations})
    text_ids = await names.texts(connection, {text for each in observations for text in texts_of(each)}, now)
    rows = [
        row_of(each, endpoint_ids[each.endpoint], location_ids[each.location], kind_ids[each.kind], text_ids)
        for each in observations
    ]
    try:
        async with connection.begin_nested():
            await connection.execute(insert(schema.raw_observations), rows)
        new = list(observations)
    except IntegrityError:
        # Off the usual path, since RETURNING costs ten times a plain insert.
        statement = insert_new(connection.dialect.name, schema.raw_observations)
        key = [schema.raw_observations.c[name] for name in _KEY]
        added = {tuple(found) for found in await connection.execute(statement.returning(*key), rows)}
        new = []
        for observation, row in zip(observations, rows, strict=True):
            if (its_key := tuple(row[name] for name in _KEY)) in added:
                added.remove(its_key)
                new.append(observation)
    distances = {
        round(each.due_at * 1000): abs(micros(each.started_at) - round(each.due_at * 1000) * 1000) // 1000
        for each in new
    }
    skew = await note_skew(connection, skew, distances)
    late = [observation for observation in new if hours.is_late(observation)]
    if late:
        await merge_late(connection, names, late, hours.rolled_until)
    return new, skew
