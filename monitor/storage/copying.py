"""A whole database into another one, of either kind: table by table, in batches that are committed one by one, so that
a copy that was broken off goes on where it stopped; compared in the end.

The target's meta table says that it is a copy under way, and of what, until everything agrees.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Integer, Select, Table, and_, delete, func, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from monitor.storage import migrate, schema
from monitor.storage.engine import Engine, Row
from monitor.storage.errors import CopyRefused, StorageError, is_outage
from monitor.storage.facts import COPY_OF, read_fact, write_fact
from monitor.storage.upsert import insert_new

ROWS_A_BATCH = 5_000
# Names first, since others refer to them. What an older run copied of these two kinds stands as it is, ...
_NAMES = (schema.endpoints, schema.locations, schema.kinds, schema.texts)
_HISTORY = (schema.hourly_rollups, schema.daily_rollups, schema.raw_observations)
# ... and these, which are few and change, are copied anew.
_CHANGING = (schema.eras, schema.incidents, schema.own_outages)
COPIED = (*_NAMES, *_CHANGING, *_HISTORY)
_PRIME = "1000003"  # sums of remainders: 64 bits hold them for any number of rows
_SPOT_ROWS = 200

Progress = Callable[[str, int, int], None]  # table, rows so far, rows in all


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not the same in both: rows, or a column's sum, or one row that was looked at."""

    table: str
    what: str
    source: object
    target: object

    def __str__(self) -> str:
        return f"{self.table}: {self.what}: {self.source} in the source, {self.target} in the copy"


@dataclass(frozen=True, slots=True)
class Copied:
    """`rows` by table, in the source; none of `differences` if the copy is whole."""

    rows: dict[str, int]
    resumed: bool
    differences: list[Difference]


async def copy_database(source: Engine, target: Engine, now: float, tell: Progress) -> Copied:
    """Copy all of `source` into `target`, whose schema is made or upgraded. CopyRefused if `target` holds rows of its
    own, or a part of another database. Neither may be written to meanwhile."""
    migrate.check_readable(await migrate.revision_of(source, source.reading), source.name)
    await target.upgrade(now)
    reading, writing = source.patient_reading(), target.migrating()
    try:
        # One transaction: of a server that others go on writing to, this is one moment of it.
        async with reading.connect() as connection:
            resumed = await _claim(writing, source.name, target.name)
            copy = _Copy(source, connection, target, writing, tell)
            for table in COPIED:
                await copy.table(table)
            await copy.outcomes()
            differences = await copy.differences()
            if not differences:
                await copy.finish()
        return Copied(copy.rows, resumed, differences)
    except Exception as error:
        if is_outage(error) and not isinstance(error, StorageError):
            raise target.explained(error) from error
        raise
    finally:
        await reading.dispose()
        await writing.dispose()


async def _claim(writing: AsyncEngine, source: str, target: str) -> bool:
    """Mark the target as a copy under way; whether it was one already."""
    async with writing.begin() as connection:
        mark = await read_fact(connection, COPY_OF)
        if mark is not None:
            if mark != source:
                raise CopyRefused(
                    f"database {target}: holds part of a copy of {mark}; go on with that, or name an empty database"
                )
            for table in _CHANGING:
                await connection.execute(delete(table))
            return True
        for table in (*COPIED, schema.meta):
            if (await connection.execute(select(table).limit(1))).first() is not None:
                raise CopyRefused(f"database {target}: holds rows already, in {table.name}; name an empty database")
        await write_fact(connection, COPY_OF, source)
    return False


class _Copy:
    def __init__(
        self, source: Engine, reading: AsyncConnection, target: Engine, writing: AsyncEngine, tell: Progress
    ) -> None:
        self.rows: dict[str, int] = {}
        self._source = source
        self._reading = reading
        self._target = target
        self._writing = writing
        self._tell = tell
        self._seen: dict[str, list[Row]] = {}  # some rows of each table, to be looked at in the end
        self._chance = random.Random(0)  # which rows are looked at is no secret

    async def table(self, table: Table) -> None:
        name, key = table.name, list(table.primary_key)
        counting = select(func.count()).select_from(table)
        whole = self.rows[name] = int((await self._read(counting))[0][0])
        async with self._writing.connect() as connection:
            done = int((await connection.execute(counting)).scalar_one())
            newest = select(*key).order_by(*(column.desc() for column in key)).limit(1)
            newest_key = (await connection.execute(newest)).first()
            after: Row | None = None if newest_key is None else tuple(newest_key)
        self._tell(name, done, whole)
        page = select(table).order_by(*key).limit(ROWS_A_BATCH)
        while True:
            query = page if after is None else page.where(_beyond(key, after))
            rows = [tuple(row) for row in await self._read(query)]
            if rows:
                await self._load(table, rows)
                done += len(rows)
                after = _key_of(table, rows[-1])
                self._tell(name, done, whole)
            if len(rows) < ROWS_A_BATCH:
                return

    async def _load(self, table: Table, rows: list[Row]) -> None:
        if table is schema.raw_observations:
            await self._target.make_room({row[0] for row in rows})
        try:
            async with self._writing.begin() as connection:
                await self._target.load(connection, table, rows)
        except Exception as error:
            if is_outage(error):
                raise
            span = f"{_key_of(table, rows[0])} to {_key_of(table, rows[-1])}"
            raise CopyRefused(
                f"database {self._target.name}: does not take one of the rows {span} of {table.name}: {error}"
            ) from error
        seen = self._seen.setdefault(table.name, [])
        seen += self._chance.sample(rows, min(2, len(rows)))
        if len(seen) > _SPOT_ROWS:
            seen[:] = self._chance.sample(seen, _SPOT_ROWS // 2)

    async def outcomes(self) -> None:
        """Both have this program's; a class that only the source knows is added."""
        rows = await self._read(select(schema.outcomes))
        if rows:
            async with self._writing.begin() as connection:
                adding = insert_new(connection.dialect.name, schema.outcomes)
                await connection.execute(adding, [row._asdict() for row in rows])

    async def differences(self) -> list[Difference]:
        found: list[Difference] = []
        async with self._writing.connect() as connection:
            for table in COPIED:
                sums = _sums(table)
                ours = (await self._read(sums))[0]._asdict()
                theirs = (await connection.execute(sums)).one()._asdict()
                found += [
                    Difference(table.name, what, int(ours[what] or 0), int(theirs[what] or 0))
                    for what in ours
                    if int(ours[what] or 0) != int(theirs[what] or 0)
                ]
                found += await self._spots(connection, table)
        return found

    async def finish(self) -> None:
        """The facts, in one transaction with the mark's end: from here on the copy is a database like any other."""
        facts = await self._read(select(schema.meta))
        async with self._writing.begin() as connection:
            for name, value in facts:
                await write_fact(connection, name, value)
            await write_fact(connection, COPY_OF, None)
            await self._target.loaded(connection, COPIED)

    async def _spots(self, connection: AsyncConnection, table: Table) -> list[Difference]:
        for row in self._seen.get(table.name, ()):
            key = _key_of(table, row)
            same = [column == value for column, value in zip(table.primary_key, key, strict=True)]
            there = (await connection.execute(select(table).where(*same))).first()
            if there is None or tuple(there) != row:
                return [Difference(table.name, f"the row with the key {key}", row, there and tuple(there))]
        return []

    async def _read(self, query: Select[Any]) -> Sequence[Any]:
        try:
            found: Sequence[Any] = (await self._reading.execute(query)).all()
        except Exception as error:
            raise self._source.explained(error) from error
        return found


def _key_of(table: Table, row: Row) -> Row:
    names = {column.name for column in table.primary_key}
    return tuple(value for column, value in zip(table.columns, row, strict=True) if column.name in names)


def _beyond(key: Sequence[Column[Any]], after: Sequence[Any]) -> ColumnElement[bool]:
    """Rows whose key comes after `after`: written so that either planner goes to it by the index."""
    equal: list[ColumnElement[bool]] = []
    branches: list[ColumnElement[bool]] = []
    for column, value in zip(key, after, strict=True):
        branches.append(and_(*equal, column > value))
        equal.append(column == value)
    return and_(key[0] >= after[0], or_(*branches))


def _sums(table: Table) -> Select[Any]:
    """Rows, and for each column what every engine reckons alike: remainders of numbers, lengths of texts and blobs."""
    parts: list[ColumnElement[Any]] = [func.count().label("rows")]
    for column in table.columns:
        is_number = isinstance(column.type, Integer)
        value = column % literal_column(_PRIME) if is_number else func.length(column)
        parts.append(func.sum(value).label(f"the sum of {column.name}"))
        if column.nullable:
            parts.append(func.count(column).label(f"values of {column.name}"))
    return select(*parts).select_from(table)
