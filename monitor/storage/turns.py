"""Who may write what at once on a shared database: advisory locks, held to the end of a transaction.

Rows are inserted under the shared lock and hours are closed under the exclusive one: a transaction that inserts knows
which hours are closed, and one that closes has every row. Two that merge late rows into rollups take turns.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage.database import Job, T
from monitor.storage.facts import HISTORY_GENERATION, read_fact, read_rolled_until, write_fact

# Advisory locks are numbers: "LLM" and what is done under it.
_ROWS = 0x4C4C4D11
_LATE = 0x4C4C4D12
_CATALOG = 0x4C4C4D13


async def enter_rows(connection: AsyncConnection) -> int:
    """Before rows are inserted; up to where hours are closed (UTC seconds), until the end of this transaction."""
    await _lock(connection, "pg_advisory_xact_lock_shared", _ROWS)
    return await read_rolled_until(connection)


async def keep_rows_out(connection: AsyncConnection) -> int:
    """Before hours are closed or history is rewritten: nobody inserts rows, or does the like. The same."""
    await _lock(connection, "pg_advisory_xact_lock", _ROWS)
    return await read_rolled_until(connection)


async def enter_rollups(connection: AsyncConnection) -> None:
    """Before rollups of closed hours are read, changed and written."""
    await _lock(connection, "pg_advisory_xact_lock", _LATE)


async def enter_catalog(connection: AsyncConnection) -> None:
    """Before eras are compared with a catalog and written."""
    await _lock(connection, "pg_advisory_xact_lock", _CATALOG)


def rewriting(job: Job[T]) -> Job[T]:
    """`job`, which rewrites history, so that nobody else writes meanwhile and all monitors hear of it."""

    async def alone(connection: AsyncConnection) -> T:
        await keep_rows_out(connection)
        generation = int(await read_fact(connection, HISTORY_GENERATION) or 0)
        await write_fact(connection, HISTORY_GENERATION, str(generation + 1))
        return await job(connection)

    return alone


async def _lock(connection: AsyncConnection, function: str, key: int) -> None:
    await connection.execute(text(f"SELECT {function}(:key)"), {"key": key})
