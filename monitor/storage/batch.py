"""One batch of observations in one transaction: names, raw rows, and what is late into its rollups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.observation import Observation
from monitor.storage import turns
from monitor.storage.codec import WRITTEN_COLUMNS, row_of
from monitor.storage.database import Database
from monitor.storage.engine import DoublesError
from monitor.storage.facts import Skew, note_skew
from monitor.storage.rollups import HourBook, merge_late

_DELAY = WRITTEN_COLUMNS.index("delay_us")


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
    await database.make_room({round(each.due_at * 1000) for each in observations})
    try:
        async with database.write() as connection:
            done = await _insert(database, connection, observations, hours, skew, now, can_double=False)
            before_commit(done[0])
    except DoublesError:
        async with database.write() as connection:
            done = await _insert(database, connection, observations, hours, skew, now, can_double=True)
            before_commit(done[0])
    return done


async def _insert(
    database: Database,
    connection: AsyncConnection,
    observations: Sequence[Observation],
    hours: HourBook,
    skew: Skew,
    now: float,
    *,
    can_double: bool,
) -> tuple[list[Observation], Skew]:
    names = database.names
    if database.is_shared:
        hours.closed(await turns.enter_rows(connection))
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
    added = await database.insert_raw(connection, rows, can_double=can_double)
    new = [observations[number] for number in added]
    skew = await note_skew(connection, skew, {rows[number][0]: abs(rows[number][_DELAY]) // 1000 for number in added})
    late = [observation for observation in new if hours.is_late(observation)]
    if late:
        if database.is_shared:
            await turns.enter_rollups(connection)
        await merge_late(connection, names, late, hours.rolled_until)
    return new, skew
