"""Interning: endpoints, locations, kinds and providers' texts are stored once and named by a small number."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage import schema
from monitor.storage.upsert import insert_new

# endpoint, location, kind
Place = tuple[str, str, str]

_DAY_MS = 86_400_000
# Texts known at once: beyond, a provider invents them, and the cache starts again.
_TEXTS_KEPT = 20_000
_CHUNK = 500  # names in one IN (...)
_NAMES_A_TURN = 2000  # between two turns of the event loop: some 2 ms


class _Ids:
    """One table's names and ids; `fresh` are those of the open transaction."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.known: dict[str, int] = {}
        self.fresh: dict[str, int] = {}


class Names:
    """Ids by name, for whoever writes. Belongs to one write transaction at a time; `committed` or `rolled_back` ends
    it, and an id that was given in a transaction that failed is forgotten."""

    def __init__(self) -> None:
        self._endpoints: Final = _Ids(schema.endpoints)
        self._locations: Final = _Ids(schema.locations)
        self._kinds: Final = _Ids(schema.kinds)
        self._texts: Final = _Ids(schema.texts)
        self._used_ms: dict[str, int] = {}
        self._fresh_used_ms: dict[str, int] = {}

    async def endpoints(self, connection: AsyncConnection, names: Iterable[str]) -> dict[str, int]:
        ids: dict[str, int] = {}
        # Sorted as a whole: two monitors that intern the same catalog must not wait for each other in a circle.
        wanted = sorted(names)
        for start in range(0, len(wanted), _NAMES_A_TURN):
            if start:
                await asyncio.sleep(0)
            ids |= await self._resolve(connection, self._endpoints, wanted[start : start + _NAMES_A_TURN])
        return ids

    async def locations(self, connection: AsyncConnection, names: Iterable[str]) -> dict[str, int]:
        return await self._resolve(connection, self._locations, names)

    async def kinds(self, connection: AsyncConnection, names: Iterable[str]) -> dict[str, int]:
        return await self._resolve(connection, self._kinds, names)

    async def texts(self, connection: AsyncConnection, names: Iterable[str], now: float) -> dict[str, int]:
        """As the others; also notes that these texts are in use, at most once a day each."""
        now_ms = round(now * 1000)
        wanted = set(names)
        for name in wanted & self._texts.known.keys():
            if now_ms - self._last_used(name) >= _DAY_MS:
                del self._texts.known[name]  # another monitor's retention may have deleted it: looked up again
        ids = await self._resolve(connection, self._texts, wanted, now_ms)
        stale = [name for name in sorted(ids) if now_ms - self._last_used(name) >= _DAY_MS]
        if stale:
            await connection.execute(
                update(schema.texts).where(schema.texts.c.id == bindparam("text_id")).values(last_used_ms=now_ms),
                [{"text_id": ids[name]} for name in stale],
            )
            self._fresh_used_ms.update(dict.fromkeys(stale, now_ms))
        return ids

    def forget_texts(self) -> None:
        """To be called in the transaction that deletes texts: from here on they are looked up again."""
        for kept in (self._texts.known, self._texts.fresh, self._used_ms, self._fresh_used_ms):
            kept.clear()

    def forget(self) -> None:
        """Look every name up again."""
        for ids in (self._endpoints, self._locations, self._kinds):
            ids.known.clear()
        self.forget_texts()

    def committed(self) -> None:
        for ids in (self._endpoints, self._locations, self._kinds, self._texts):
            ids.known.update(ids.fresh)
            ids.fresh.clear()
        self._used_ms.update(self._fresh_used_ms)
        self._fresh_used_ms.clear()
        if len(self._texts.known) > _TEXTS_KEPT:
            self.forget_texts()

    def rolled_back(self) -> None:
        for ids in (self._endpoints, self._locations, self._kinds, self._texts):
            ids.fresh.clear()
        self._fresh_used_ms.clear()

    def _last_used(self, name: str) -> int:
        return self._fresh_used_ms.get(name, self._used_ms.get(name, 0))

    async def _resolve(
        self, connection: AsyncConnection, ids: _Ids, names: Iterable[str], now_ms: int | None = None
    ) -> dict[str, int]:
        known = ids.known
        found: dict[str, int] = {}
        unknown: set[str] = set()
        for name in names:
            if name in known:
                found[name] = known[name]
            else:
                unknown.add(name)
        if not unknown:
            return found
        missing = sorted(unknown - ids.fresh.keys())
        table = ids.table
        # What is about to be used is not to be deleted by another monitor before that is committed.
        there = select(table) if now_ms is None else select(table).with_for_update(read=True, key_share=True)
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            for row in await connection.execute(there.where(table.c.name.in_(chunk))):
                ids.fresh[row.name] = row.id
                if now_ms is not None:
                    self._fresh_used_ms[row.name] = row.last_used_ms
            new: list[dict[str, str | int]] = [{"name": name} for name in chunk if name not in ids.fresh]
            if not new:
                continue
            if now_ms is not None:
                new = [{**row, "last_used_ms": now_ms} for row in new]
            # In order of names, and passing over what another monitor is about to commit: it is waited for, then read.
            adding = insert_new(connection.dialect.name, table).returning(table.c.id, table.c.name)
            for id_, name in await connection.execute(adding, new):
                ids.fresh[name] = id_
                if now_ms is not None:
                    self._fresh_used_ms[name] = now_ms
            others = [name for name in chunk if name not in ids.fresh]
            if others:
                for row in await connection.execute(select(table).where(table.c.name.in_(others))):
                    ids.fresh[row.name] = row.id
                    if now_ms is not None:
                        self._fresh_used_ms[row.name] = row.last_used_ms
        return found | {name: ids.fresh[name] for name in unknown if name in ids.fresh}


async def names_by_id(connection: AsyncConnection, table: Table) -> dict[int, str]:
    """All names of a table of names, read in portions that let others run."""
    found: dict[int, str] = {}
    page = select(table.c.id, table.c.name).order_by(table.c.id).limit(_NAMES_A_TURN)
    last_id = 0
    while rows := (await connection.execute(page.where(table.c.id > last_id))).all():
        found.update((row.id, row.name) for row in rows)
        last_id = rows[-1].id
    return found
