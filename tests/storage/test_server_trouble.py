"""A PostgreSQL server, or the network before it, that fails while the writer writes: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from postgres_proxy import Proxy, proxy_to
from postgres_server import Server
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import MIDNIGHT, Stage, in_order, observation, same_tally, stage, stored, until
from test_spill import no_file_grows_beyond

from monitor.clock import FakeClock
from monitor.observation import Observation
from monitor.settings import DatabaseSettings
from monitor.storage import schema
from monitor.storage.database import Database
from monitor.storage.errors import DatabaseNotWritable, DatabaseUnavailable
from monitor.storage.facts import read_rolled_until
from monitor.storage.postgres import PostgreSQL
from monitor.storage.rollups import HourBook

pytestmark = pytest.mark.timeout(60)

HOUR = 3600


@dataclass
class Behind:
    """A database behind a proxy."""

    server: Server
    name: str
    proxy: Proxy
    settings: DatabaseSettings

    async def sql(self, *statements: str) -> list[object]:
        return await self.server.execute(*statements, database=self.name)

    async def end_sessions(self) -> None:
        """As an administrator or a shutdown does, in the middle of whatever they are doing."""
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self.name}' AND application_name = 'llm-provider-monitor'"
        )


@pytest.fixture
def database(postgresql: Server) -> Iterator[str]:
    name = f"trouble_{uuid.uuid4().hex}"
    postgresql.create(name)
    yield name
    postgresql.drop(name)


@pytest.fixture
async def behind(postgresql: Server, database: str, tmp_path: Path) -> AsyncIterator[Behind]:
    async with proxy_to(postgresql.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?connect_timeout=1"
        yield Behind(postgresql, database, proxy, DatabaseSettings(url, spill=str(tmp_path / "monitor.spill")))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that is not answered is given up soon."""
    monkeypatch.setitem(PostgreSQL._engine.__kwdefaults__, "command_seconds", 0.3)


@pytest.fixture
async def store(behind: Behind, clock: FakeClock) -> AsyncIterator[Stage]:
    async with stage(behind.settings, clock) as opened:
        yield opened


async def healed(store: Stage, clock: FakeClock) -> None:
    await until(lambda: not store.writer.trouble and not store.writer.spilled and not store.writer.queued, clock, 20)


async def is_whole(store: Stage, rows: Sequence[Observation]) -> None:
    """Every row is in the table once, was reported once, and is in the book of hours once."""
    assert await store.rows() == stored(rows)
    assert in_order([*store.committed, *store.shown_again]) == stored(rows)
    assert in_order(store.shown_again) == in_order(store.spilled)
    book = HourBook(store.writer.hours.rolled_until)
    book.add(stored(rows))
    found = {(hour, place): tally for hour, place, tally in store.writer.hours.rows()}
    wanted = {(hour, place): tally for hour, place, tally in book.rows()}
    assert found.keys() == wanted.keys()
    assert all(same_tally(found[key], wanted[key]) for key in wanted)
    assert store.writer.lost == store.writer.rejected == 0


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_counts_its_rows_once(
    behind: Behind, store: Stage, clock: FakeClock, where: str
) -> None:
    rows = [observation(number) for number in range(40)]
    await store.write(rows[:10])
    behind.proxy.cut_at_commit = where
    await store.write(rows[10:20])
    assert behind.proxy.cuts == 1 and store.writer.trouble
    assert len(store.spilled) == 10
    await store.write(rows[20:30])
    await healed(store, clock)
    await store.write(rows[30:])
    await is_whole(store, rows)


async def test_a_lost_answer_counts_once_too_when_the_disk_takes_nothing(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(30)]
    await store.write(rows[:10])
    with no_file_grows_beyond(0):
        behind.proxy.cut_at_commit = "after"
        await store.write(rows[10:20])
        assert store.writer.queued == 10 and not store.spilled
        await healed(store, clock)
    await store.write(rows[20:])
    await is_whole(store, rows)


async def test_a_lost_answer_in_the_replay_counts_once(behind: Behind, store: Stage, clock: FakeClock) -> None:
    rows = [observation(number) for number in range(40)]
    await store.write(rows[:10])
    await behind.proxy.close()
    await store.write(rows[10:30])
    assert store.writer.spilled == 20
    await behind.proxy.open()
    behind.proxy.cut_at_commit = "after"
    await healed(store, clock)
    assert behind.proxy.cuts == 1
    await store.write(rows[30:])
    await is_whole(store, rows)


async def test_rows_that_another_monitor_wrote_meanwhile_are_not_taken_for_ours(
    behind: Behind, store: Stage, clock: FakeClock, tmp_path: Path
) -> None:
    ours, theirs = observation(1), observation(1, started_at=MIDNIGHT + 60.25)
    assert ours.key == theirs.key and ours.started_at != theirs.started_at
    await store.write([observation(0)])
    behind.proxy.cut_at_commit = "before"
    await store.write([ours])
    direct = DatabaseSettings(behind.server.url(behind.name), spill=str(tmp_path / "other.spill"))
    async with stage(direct, clock) as other:
        await other.write([theirs])
    await healed(store, clock)
    assert await store.rows() == stored([observation(0), theirs])
    assert sum(tally.outcomes.total() for _, _, tally in store.writer.hours.rows()) == 1


async def test_hours_whose_closing_was_not_answered_are_closed_once(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(10)]
    await store.write(rows)
    until_hour = int(MIDNIGHT) + HOUR
    behind.proxy.cut_at_commit = "after"
    with pytest.raises(DatabaseUnavailable):
        await store.writer.close_hours(until_hour)
    late = observation(11)
    await store.write([late])  # to its hour, which is closed, whatever we were told
    await healed(store, clock)
    assert await store.writer.close_hours(until_hour) == 0
    assert store.writer.hours.rolled_until == until_hour
    async with store.database.read() as connection:
        assert await read_rolled_until(connection) == until_hour
    samples = 0
    for hourly in await store.history.rollups("hour"):
        samples += hourly.tally.outcomes.total()
    assert samples == 11
    assert list(store.writer.hours.rows()) == []


async def test_a_session_that_is_ended_in_mid_transaction_undoes_it_and_the_rows_follow(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(20)]
    await store.write(rows[:10])
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def job(connection: AsyncConnection) -> None:
        await connection.execute(text("INSERT INTO meta (name, value) VALUES ('half', 'done')"))
        inside.set()
        await go_on.wait()
        await connection.execute(text("SELECT 1"))

    given = asyncio.create_task(store.writer.submit(job))
    await inside.wait()
    for row in rows[10:]:
        store.writer.put(row)
    await behind.end_sessions()
    go_on.set()
    with pytest.raises(DatabaseUnavailable):
        await given
    await healed(store, clock)
    await is_whole(store, rows)
    async with store.database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(schema.meta).where(
            schema.meta.c.name == "half"
        ))).scalar() == 0  # fmt: skip


async def test_a_network_that_goes_silent_is_given_up_in_time_and_rows_go_to_the_disk(
    impatient: None, behind: Behind, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(30)]
    async with stage(behind.settings, clock) as store:
        await store.write(rows[:10])
        behind.proxy.flow.clear()
        async with asyncio.timeout(10):
            await store.write(rows[10:20])
        assert store.writer.spilled == 10
        assert "no answer in time" in str(store.writer.trouble)
        behind.proxy.flow.set()
        await healed(store, clock)
        await store.write(rows[20:])
        await is_whole(store, rows)


async def test_a_server_that_became_read_only_fails_for_writers_and_still_reads(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(20)]
    await store.write(rows[:10])
    await behind.sql(f'ALTER DATABASE "{behind.name}" SET default_transaction_read_only = on')
    await behind.end_sessions()
    await store.write(rows[10:])
    await until(lambda: "read-only" in str(store.writer.trouble), clock)
    await store.database.ping()
    assert len(await store.rows()) == 10
    with pytest.raises((DatabaseNotWritable, DatabaseUnavailable)):
        await store.writer.submit(lambda connection: connection.execute(text("DELETE FROM meta")))
    await behind.sql(f'ALTER DATABASE "{behind.name}" RESET default_transaction_read_only')
    await behind.end_sessions()
    await healed(store, clock)
    await is_whole(store, rows)


@pytest.mark.parametrize(("state", "times"), [("40P01", 4), ("40001", 4), ("40P01", 9)])
async def test_a_deadlock_is_tried_again_at_once_and_only_many_in_a_row_count_as_a_failure(
    behind: Behind, store: Stage, clock: FakeClock, state: str, times: int
) -> None:
    # What a sequence has given is not taken back by a rollback: so it can count the attempts.
    await behind.sql(
        "CREATE SEQUENCE attempts",
        f"""CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('attempts') <= {times} THEN RAISE EXCEPTION 'lost' USING ERRCODE = '{state}'; END IF;
            RETURN NEW; END $$""",
        "CREATE TRIGGER lose BEFORE INSERT ON raw_observations FOR EACH ROW EXECUTE FUNCTION lose()",
    )
    rows = [observation(number) for number in range(10)]
    await store.write(rows)
    assert bool(store.spilled) == (times > 5)
    await healed(store, clock)
    await is_whole(store, rows)


async def test_what_is_known_of_names_is_looked_up_again_after_a_failure(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    """A server that was restored from a copy may know other numbers, or none."""
    await store.write([observation(0)])
    await behind.sql("TRUNCATE raw_observations, endpoints CASCADE", "ALTER SEQUENCE endpoints_id_seq RESTART WITH 77")
    await behind.end_sessions()
    await store.write([observation(1)])
    await healed(store, clock)
    assert await store.rows() == stored([observation(1)])


async def test_a_daemon_that_ends_while_the_server_is_down_leaves_its_rows_to_the_next(
    behind: Behind, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(20)]
    async with stage(behind.settings, clock) as store:
        await store.write(rows[:10])
        await behind.proxy.close()
        for row in rows[10:]:
            store.writer.put(row)
        closing = asyncio.create_task(store.writer.close())
        await until(closing.done, clock)
        await closing
    await behind.proxy.open()
    async with stage(behind.settings, clock) as store:
        await healed(store, clock)
        assert await store.rows() == stored(rows)
        assert in_order(store.committed) == stored(rows[10:])
