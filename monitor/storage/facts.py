"""The `meta` table: single facts about the whole database, by name."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage.schema import meta
from monitor.storage.upsert import insert_for, insert_new

ROLLED_UNTIL = "rolled_until"  # UTC seconds: hours before it are in hourly_rollups, from it on only in raw rows
SKEW = "start_skew"
HISTORY_GENERATION = "history_generation"  # grows when rows or rollups are written anew: others renew their windows
COPY_OF = "copy_of"  # of which database this is a copy, as long as it is under way
_CHANGES = "rollup_changes"
MADE_UP = "made_up"  # set by a demo: its past never happened

# Rows are found by due time and asked for by start time. This much apart is always looked for; more is on record.
USUAL_SKEW_MS = 60_000
_HOUR_MS = 3_600_000


class Skew(msgspec.Struct, frozen=True):
    """The largest distance between due and started of any row, and until when such rows are to be expected."""

    ms: int = USUAL_SKEW_MS
    until_due_ms: int = 0


async def read_fact(connection: AsyncConnection, name: str) -> str | None:
    found: str | None = (await connection.execute(select(meta.c.value).where(meta.c.name == name))).scalar()
    return found


async def read_held_fact(connection: AsyncConnection, name: str) -> str | None:
    """As `read_fact`; if it is there, no other monitor changes it until the end of the transaction."""
    found: str | None = (
        await connection.execute(select(meta.c.value).where(meta.c.name == name).with_for_update())
    ).scalar()
    return found


async def write_fact(connection: AsyncConnection, name: str, value: str | None) -> None:
    """None removes it."""
    if value is None:
        await connection.execute(delete(meta).where(meta.c.name == name))
        return
    adding = insert_for(connection.dialect.name, meta).values(name=name, value=value)
    await connection.execute(adding.on_conflict_do_update(index_elements=[meta.c.name], set_={"value": value}))


async def read_rolled_until(connection: AsyncConnection) -> int:
    """0 before the first hour was closed."""
    return int(await read_fact(connection, ROLLED_UNTIL) or 0)


async def read_skew(connection: AsyncConnection) -> Skew:
    text = await read_fact(connection, SKEW)
    return Skew() if text is None else msgspec.json.decode(text, type=Skew)


async def note_skew(connection: AsyncConnection, known: Skew, distances: dict[int, int]) -> Skew:
    """Given due_ms -> |started - due| in ms of new rows, the skew from now on; written down if it grew."""
    unusual = {due_ms: ms for due_ms, ms in distances.items() if ms > USUAL_SKEW_MS}
    if not unusual:
        return known
    # By the hour: a clock that stays wrong must not rewrite this at every batch.
    until = (max(unusual) // _HOUR_MS + 1) * _HOUR_MS
    grown = Skew(max(known.ms, *unusual.values()), max(known.until_due_ms, until))
    if grown != known:
        kept = await _held_skew(connection)
        grown = Skew(max(grown.ms, kept.ms), max(grown.until_due_ms, kept.until_due_ms))
        await write_fact(connection, SKEW, msgspec.json.encode(grown).decode())
    return grown


async def _held_skew(connection: AsyncConnection) -> Skew:
    """The skew on record, which no other monitor changes until the end of the transaction."""
    usual = msgspec.json.encode(Skew()).decode()
    await connection.execute(insert_new(connection.dialect.name, meta).values(name=SKEW, value=usual))
    row = await read_held_fact(connection, SKEW)
    return Skew() if row is None else msgspec.json.decode(row, type=Skew)


async def forget_skew(connection: AsyncConnection, oldest_due_ms: int) -> None:
    """To be called when rows before `oldest_due_ms` are gone: an old clock error need not widen every read for ever."""
    known = await read_fact(connection, SKEW)
    if known is not None and msgspec.json.decode(known, type=Skew).until_due_ms <= oldest_due_ms:
        # Unless another monitor has found a new one meanwhile.
        await connection.execute(delete(meta).where(meta.c.name == SKEW, meta.c.value == known))


async def read_rollup_changes(connection: AsyncConnection) -> int:
    """How often closed hours have been changed since. What is derived from them is good as long as this is the same."""
    return int(await read_fact(connection, _CHANGES) or 0)


async def note_rollup_change(connection: AsyncConnection) -> None:
    await write_fact(connection, _CHANGES, str(await read_rollup_changes(connection) + 1))
