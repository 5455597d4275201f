"""The monitor's own outages: one row each, among the incidents, gone with the daily rows."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import MIDNIGHT, Stage

from monitor.clock import SystemClock
from monitor.health.incidents import Incident
from monitor.health.state import State
from monitor.settings import RetentionSettings
from monitor.storage import schema
from monitor.storage.incidents import record_incident
from monitor.storage.own_outages import close_own_outages, record_location_suspect, record_own_outage
from monitor.storage.retention import prune


async def told(
    store: Stage, cause: str, began: float, ended: float | None, location: str = "local", author: int | None = None
) -> None:
    names = store.database.names
    await store.writer.submit(
        lambda connection: record_own_outage(connection, names, location, cause, "gone\ud800", began, ended, author)
    )


async def test_an_outage_is_one_row_however_often_it_is_written(store: Stage) -> None:
    await told(store, "route", MIDNIGHT, None)
    await told(store, "resolver", MIDNIGHT, None)
    await told(store, "route", MIDNIGHT, MIDNIGHT + 60)
    ends = {one.cause: one.ended_at for one in await store.history.own_outages()}
    assert ends == {"route": MIDNIGHT + 60, "resolver": None}


async def test_outages_are_among_the_incidents_of_everybody_and_of_no_endpoint(store: Stage) -> None:
    names = store.database.names
    incident = Incident("a/b@c", "local", State.DOWN, "connect", MIDNIGHT + 30)
    await store.writer.submit(lambda connection: record_incident(connection, names, incident))
    await told(store, "network", MIDNIGHT, MIDNIGHT + 60)
    await told(store, "network", MIDNIGHT + 90, None, "elsewhere")
    found = await store.history.incidents()
    assert [(one.endpoint, one.state, one.location) for one in found] == [
        (None, "self_suspect", "elsewhere"),
        ("a/b@c", "down", "local"),
        (None, "self_suspect", "local"),
    ]
    assert len({one.id for one in found}) == 3
    assert [one.id for one in await store.history.incidents(limit=1)] == [found[0].id]
    assert [one.endpoint for one in await store.history.incidents("a/b@c")] == ["a/b@c"]
    assert [one.location for one in await store.history.incidents(location="elsewhere")] == ["elsewhere"]
    late = await store.history.incidents(since=MIDNIGHT + 61, until=MIDNIGHT + 90)
    assert [one.endpoint for one in late] == ["a/b@c"]


async def test_what_a_crash_left_open_is_closed_at_its_own_location_alone(store: Stage) -> None:
    names = store.database.names
    await told(store, "network", MIDNIGHT, None)
    await told(store, "route", MIDNIGHT + 100, None)
    await told(store, "network", MIDNIGHT, None, "elsewhere")
    closed = await store.writer.submit(lambda connection: close_own_outages(connection, names, "local", MIDNIGHT + 50))
    assert closed == 2
    ends = {(one.location, one.cause): one.ended_at for one in await store.history.own_outages()}
    assert ends == {
        ("local", "network"): MIDNIGHT + 50,
        ("local", "route"): MIDNIGHT + 100,
        ("elsewhere", "network"): None,
    }


async def one_lives_one_is_buried(connection: AsyncConnection) -> None:
    usual = {"location_id": 1, "name": "", "started_us": 0, "expires_us": 0}
    lives = [{"id": 1, "buried": False, **usual}, {"id": 2, "buried": True, **usual}]
    await connection.execute(schema.monitors.insert(), lives)


async def test_what_a_living_monitor_has_open_stays_so_when_another_starts(store: Stage) -> None:
    names = store.database.names
    for author, cause in ((1, "network"), (2, "route"), (3, "resolver")):
        await told(store, cause, MIDNIGHT, None, author=author)

    await store.writer.submit(one_lives_one_is_buried)
    await store.writer.submit(lambda connection: close_own_outages(connection, names, "local", MIDNIGHT + 50))
    assert {one.cause for one in await store.history.own_outages() if one.ended_at is None} == {"network"}


async def test_ended_outages_go_with_the_daily_rows_and_lasting_ones_stay(store: Stage) -> None:
    old = MIDNIGHT - 500 * 86_400
    await told(store, "network", old, old + 60)
    await told(store, "route", old, None)
    pruned = await prune(store.database, store.writer.submit, SystemClock(), RetentionSettings())
    assert pruned.incidents == 1
    assert [one.cause for one in await store.history.own_outages()] == ["route"]


async def suspect(
    store: Stage, since: float, until: float | None, location: str = "local", life: int | None = None
) -> None:
    names = store.database.names
    await store.writer.submit(
        lambda connection: record_location_suspect(connection, names, location, "4 of 4", since, until, life)
    )


async def test_what_began_while_its_location_failed_alone_carries_it(store: Stage) -> None:
    names = store.database.names
    began = {"before": MIDNIGHT - 1, "first": MIDNIGHT, "last": MIDNIGHT + 60, "after": MIDNIGHT + 61}
    for name, at in began.items():
        for place in ("local", "elsewhere"):
            incident = Incident(f"a/{name}@c", place, State.DOWN, "connect", at)
            await store.writer.submit(lambda connection, one=incident: record_incident(connection, names, one))
    await told(store, "network", MIDNIGHT - 99, None)

    async def marked() -> set[tuple[str | None, str]]:
        return {(one.endpoint, one.location) for one in await store.history.incidents() if one.location_suspect}

    assert await marked() == set()
    await suspect(store, MIDNIGHT, None)
    assert await marked() == {("a/first@c", "local"), ("a/last@c", "local"), ("a/after@c", "local")}
    await suspect(store, MIDNIGHT, MIDNIGHT + 60)
    assert await marked() == {("a/first@c", "local"), ("a/last@c", "local")}
    spans = [(one.cause, one.detail, one.ended_at) for one in await store.history.own_outages()]
    assert spans == [("location", "4 of 4", MIDNIGHT + 60), ("network", "gone\ufffd", None)]


async def test_monitors_of_one_location_that_find_it_out_at_once_write_one_row(store: Stage) -> None:
    await suspect(store, MIDNIGHT, None)
    await suspect(store, MIDNIGHT + 4, None)
    await suspect(store, MIDNIGHT + 4, MIDNIGHT + 90)
    await suspect(store, MIDNIGHT, MIDNIGHT + 91)  # the other one, a moment later
    (one,) = await store.history.own_outages()
    assert (one.started_at, one.ended_at) == (MIDNIGHT, MIDNIGHT + 90)


async def test_a_location_is_suspect_to_nobody_who_is_buried(store: Stage) -> None:
    await suspect(store, MIDNIGHT, MIDNIGHT + 1)
    await store.writer.submit(one_lives_one_is_buried)
    await suspect(store, MIDNIGHT, None, life=2)  # frozen in mid-write until now
    assert await store.history.own_outages() == []
    await suspect(store, MIDNIGHT, None, life=1)
    assert len(await store.history.own_outages()) == 1
