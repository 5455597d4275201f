"""One batch of observations in one transaction: names, raw rows, and what is late into its rollups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.compiler import SQLCompiler

from monitor.observation import Observation
from monitor.storage import schema
from monitor.storage.codec import WRITTEN_COLUMNS, row_of
from monitor.storage.database import Database
from monitor.storage.facts import Skew, note_skew
from monitor.storage.names import Names
from monitor.storage.rollups import HourBook, merge_late
from monitor.storage.sqlite import insert_new

_KEY = ("due_ms", "endpoint_id", "location_id", "kind_id", "recheck")
assert WRITTEN_COLUMNS[: len(_KEY)] == _KEY
_DELAY = WRITTEN_COLUMNS.index("delay_us")

Row = tuple[Any, ...]


class _DoublesError(Exception):
    """Some rows are there already."""


async def commit_batch(
    database: Database,
    observations: Sequence[Observation],
    hours: HourBook,
    skew: Skew,
    now: float,
    before_commit: Callable[[Sequence[Observation]], None] = lambda _new: None,
) -> tuple[list[Observation], Skew]:
    """Commit what went through `codec.as_stored`. Returns those that are new (a key that exists keeps its first row)
    and the start skew from now on. `before_commit` is told the new ones: if an error follows, they may be in or not."""
    try:
        async with database.write() as connection:
            done = await _insert(connection, database.names, observations, hours, skew, now, can_double=False)
            before_commit(done[0])
    except _DoublesError:
        async with database.write() as connection:
            done = await _insert(connection, database.names, observations, hours, skew, now, can_double=True)
            before_commit(done[0])
    return done


async def _insert(
    connection: AsyncConnection,
    names: Names,
    observations: Sequence[Observation],
    hours: HourBook,
    skew: Skew,
    now: float,
    *,
    can_double: bool,
) -> tuple[list[Observation], Skew]:
    endpoint_ids = await names.endpoints(connection, {each.endpoint for each in observations})
    location_ids = await names.locations(connection, {each.location for each in observations})
    kind_ids = await names.kinds(connection, {each.kind for each in observations})
    texts = {
        text for each in observations for text in (each.error_code, each.response_model, each.finish_reason, each.told)
    }
    text_ids = await names.texts(connection, (text for text in texts if text is not None), now)
    rows = [
        row_of(each, endpoint_ids[each.endpoint], location_ids[each.location], kind_ids[each.kind], text_ids)
        for each in observations
    ]
    if can_double:
        new = await _insert_and_tell(connection, observations, rows)
    else:
        # The driver's own text and tuples: by way of named parameters SQLAlchemy's share is more than the database's.
        result = await connection.exec_driver_sql(_statement(connection.dialect), rows)
        if result.rowcount != len(rows):
            raise _DoublesError
        new = list(zip(observations, rows, strict=True))
    skew = await note_skew(connection, skew, {row[0]: abs(row[_DELAY]) // 1000 for _, row in new})
    late = [observation for observation, _ in new if hours.is_late(observation)]
    if late:
        await merge_late(connection, names, late, hours.rolled_until)
    return [observation for observation, _ in new], skew


async def _insert_and_tell(
    connection: AsyncConnection, observations: Sequence[Observation], rows: Sequence[Row]
) -> list[tuple[Observation, Row]]:
    """Which rows are new. Off the usual path, since RETURNING costs ten times a plain insert."""
    key = [schema.raw_observations.c[name] for name in _KEY]
    statement = insert_new(connection.dialect.name, schema.raw_observations).returning(*key)
    found = await connection.execute(statement, [dict(zip(WRITTEN_COLUMNS, row, strict=True)) for row in rows])
    added = {tuple(one) for one in found}
    new = []
    for observation, row in zip(observations, rows, strict=True):
        if (its_key := row[: len(_KEY)]) in added:
            added.remove(its_key)
            new.append((observation, row))
    return new


@lru_cache(maxsize=1)
def _statement(dialect: Dialect) -> str:
    """An insert of WRITTEN_COLUMNS that passes over rows whose key exists, as the driver takes it."""
    compiled = insert_new(dialect.name, schema.raw_observations).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler) and tuple(compiled.positiontup or ()) == WRITTEN_COLUMNS
    return str(compiled)
