"""What all reads share: short transactions, and names for the ids that rows carry."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage import schema
from monitor.storage.codec import micros
from monitor.storage.database import Database
from monitor.storage.names import Place, names_by_id

_raw = schema.raw_observations.c
# By the index, in one step each; as aggregates they would be a look at every row.
oldest_due = select(_raw.due_ms).order_by(_raw.due_ms).limit(1)
newest_due = select(_raw.due_ms).order_by(_raw.due_ms.desc()).limit(1)
started_us = _raw.due_ms * 1000 + _raw.delay_us


class Reader:
    """Reads of one database. Spans are [since, until) in UTC seconds; None is without end."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._endpoints: dict[int, str] = {}
        self._locations: dict[int, str] = {}
        self._kinds: dict[int, str] = {}

    def one_view(self) -> AbstractAsyncContextManager[None]:
        """See Database.one_view."""
        return self._database.one_view()

    async def endpoint_names(self) -> list[str]:
        """Every endpoint that anything was ever recorded of."""
        async with self._database.read() as connection:
            return list((await connection.execute(select(schema.endpoints.c.name))).scalars())

    @property
    def database(self) -> Database:
        return self._database

    async def endpoint_ids(self) -> list[int]:
        """The ids of all of them, in ascending order."""
        async with self._database.read() as connection:
            await self._know_all(connection)
        return sorted(self._endpoints)

    async def ids_by_name(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Of endpoints, locations and kinds."""
        async with self._database.read() as connection:
            await self._know_all(connection)
        endpoints, locations, kinds = (
            {name: id_ for id_, name in known.items()} for known in (self._endpoints, self._locations, self._kinds)
        )
        return endpoints, locations, kinds

    async def _place_ids(
        self, connection: AsyncConnection, endpoint: str | None, location: str | None, kind: str | None = None
    ) -> dict[str, int] | None:
        places: dict[str, int] = {}
        for table, name in ((schema.endpoints, endpoint), (schema.locations, location), (schema.kinds, kind)):
            if name is not None:
                id_ = (await connection.execute(select(table.c.id).where(table.c.name == name))).scalar()
                if id_ is None:
                    return None
                places[table.name.removesuffix("s")] = id_
        return places

    def _place(self, row: Any) -> Place:
        return self._endpoints[row.endpoint_id], self._locations[row.location_id], self._kinds[row.kind_id]

    async def _know(self, connection: AsyncConnection, rows: Iterable[Any]) -> None:
        """Have the names of all ids in `rows`."""
        known = self._endpoints, self._locations, self._kinds
        if any(
            row.endpoint_id not in known[0] or row.location_id not in known[1] or row.kind_id not in known[2]
            for row in rows
        ):
            await self._know_all(connection)

    async def _know_all(self, connection: AsyncConnection) -> None:
        for table, known in (
            (schema.endpoints, self._endpoints),
            (schema.locations, self._locations),
            (schema.kinds, self._kinds),
        ):
            known.update(await names_by_id(connection, table))

    async def _conditions(
        self,
        connection: AsyncConnection,
        since: float | None,
        until: float | None,
        endpoint: str | None,
        location: str | None,
        kind: str | None = None,
    ) -> list[Any] | None:
        """What a raw row must meet; None if none can."""
        places = await self._place_ids(connection, endpoint, location, kind)
        if places is None:
            return None
        conditions: list[Any] = [_raw[f"{name}_id"] == id_ for name, id_ in places.items()]
        if since is not None:
            conditions.append(started_us >= micros(since))
        if until is not None:
            conditions.append(started_us < micros(until))
        return conditions
