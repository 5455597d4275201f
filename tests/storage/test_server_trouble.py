"""A PostgreSQL server, or the network before it, that fails while rows are written: none is lost and none doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
from monitor.storage.errors import DatabaseNotWritable, DatabaseUnavailable, SchemaTooNew, SchemaTooOld
from monitor.storage.facts import read_rolled_until
from monitor.storage.postgres import PostgreSQL
from monitor.storage.rollups import HourBook

pytestmark = pytest.mark.timed

HOUR = 3600


@dataclass
class Behind:
    """A database behind a proxy."""

    server: Server
    name: str
    proxy: Proxy
    settings: DatabaseSettings

    async def sql(self, *statements: str, database: str | None = None) -> list[object]:
        return await self.server.execute(*statements, database=database or self.name)

    async def end_sessions(self) -> None:
        """As an administrator or a shutdown does, in the middle of whatever they are doing."""
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self.name}' AND application_name = 'llm-provider-monitor'"
        )


@pytest.fixture
def database(postgresql: Server) -> Iterator[str]:
    with postgresql.made("trouble") as name:
        yield name


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
    await until(lambda: not store.writer.trouble and not store.writer.spilled and not store.writer.queued, clock)


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
    async for buckets in store.history.rollups("hour"):
        samples += sum(bucket.tally.outcomes.total() for bucket in buckets)
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
        async with asyncio.timeout(20):
            await store.write(rows[10:20])
        assert store.writer.spilled == 10
        assert "no answer in time" in str(store.writer.trouble)
        behind.proxy.flow.set()
        await healed(store, clock)
        await store.write(rows[20:])
        await is_whole(store, rows)


async def test_a_commit_that_arrives_long_after_it_was_given_up_counts_once(
    impatient: None, behind: Behind, clock: FakeClock
) -> None:
    """The packet was held up in the network, while the writer looked, found nothing, and wrote the rows again."""
    rows = [observation(number) for number in range(30)]
    async with stage(behind.settings, clock) as store:
        await store.write(rows[:10])
        late = behind.proxy.late_commit = asyncio.Event()
        await store.write(rows[10:20])
        assert store.writer.spilled == 10
        attempts = store.writer.trouble.attempts
        await until(lambda: store.writer.trouble.attempts > attempts, clock)  # the old transaction is in the way
        assert len(await store.rows()) == 10
        late.set()
        await healed(store, clock)
        await store.write(rows[20:])
        await is_whole(store, rows)


async def test_hours_that_end_while_the_server_is_away_are_closed_whole_when_it_is_back(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(130)]
    await store.write(rows[:40])
    await behind.proxy.close()
    await store.write(rows[40:])
    with pytest.raises(DatabaseUnavailable):
        await store.writer.close_hours(int(MIDNIGHT) + 2 * HOUR)
    await behind.proxy.open()
    await healed(store, clock)
    assert await store.writer.close_hours(int(MIDNIGHT) + 2 * HOUR) == 2
    counted = [
        (bucket.tally.outcomes.total(), bucket.start)
        async for buckets in store.history.rollups("hour")
        for bucket in buckets
    ]
    assert counted == [(60, MIDNIGHT), (60, MIDNIGHT + HOUR)]
    assert sum(tally.outcomes.total() for _, _, tally in store.writer.hours.rows()) == 10
    await is_whole(store, rows)


async def test_who_only_reads_says_which_schema_is_not_its_own(behind: Behind, clock: FakeClock) -> None:
    for revision, error in (("9999", SchemaTooNew), ("0004", SchemaTooOld)):
        await behind.sql(f"UPDATE alembic_version SET version_num = '{revision}'")
        with pytest.raises(error, match=revision):
            await Database.open_read_only(behind.settings, clock)


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
    await behind.sql(f'ALTER DATABASE "{behind.name}" RESET default_transaction_read_only', database="postgres")
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
        await store.write([])  # the spill is found
        await healed(store, clock)
        assert await store.rows() == stored(rows)
        assert in_order(store.committed) == stored(rows[10:])


@contextlib.contextmanager
def little_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, for the server to fill. Skips where mounting is not allowed."""
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(directory)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        owner = directory.parent.stat()  # the server's own user
        os.chown(directory, owner.st_uid, owner.st_gid)
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


async def test_a_full_disk_of_the_server_loses_nothing_and_reads_go_on(
    behind: Behind, clock: FakeClock, tmp_path: Path
) -> None:
    with little_disk(Path(behind.server.directory) / f"little-{behind.name}", 64) as disk:
        place, moved = f"space_{behind.name}", f'ALTER DATABASE "{behind.name}" SET TABLESPACE'
        await behind.sql(f"CREATE TABLESPACE {place} LOCATION '{disk}'", database="postgres")
        await behind.sql(f"{moved} {place}", database="postgres")
        rows = [observation(number, response_id=f"{number:0200}", detail=None) for number in range(3000)]
        async with stage(behind.settings, clock) as store:
            await store.write(rows[:500])
            filler = disk / "filler"
            with filler.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(8192))
                    file.flush()
            await store.write(rows[500:])
            await until(lambda: "No space left on device" in str(store.writer.trouble), clock)
            assert "free some space there" in str(store.writer.trouble)
            await store.database.ping()
            kept = len(await store.rows())
            assert 500 <= kept < 3000
            filler.unlink()
            await healed(store, clock)
            await is_whole(store, rows)
        await behind.sql(f"{moved} pg_default", database="postgres")
        await behind.sql(f"DROP TABLESPACE {place}", database="postgres")


async def swept(behind: Behind, clock: FakeClock, begin: Callable[[], None], step: int) -> int:
    """Cut the connection after so many bytes of a batch, and of whatever follows, for every number of them; the
    largest."""
    rows = [observation(number) for number in range(60_000)]
    at = 0

    def batch() -> list[Observation]:
        nonlocal at
        at += 2
        return rows[at - 2 : at]

    async with stage(behind.settings, clock) as store:
        await store.write(batch())
        after = 1
        while True:
            begin()
            behind.proxy.passed, behind.proxy.cut_after, behind.proxy.cuts = 0, after, 0
            await store.write(batch())
            await healed(store, clock)
            if not behind.proxy.cuts:
                break  # all of it takes fewer bytes
            after += step
        behind.proxy.cut_after = None
        await is_whole(store, rows[:at])
    return after


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_a_connection_that_is_cut_after_any_byte_of_a_batch_loses_and_doubles_nothing(
    behind: Behind, clock: FakeClock
) -> None:
    assert await swept(behind, clock, lambda: None, 1) > 1000


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_a_connection_that_is_cut_anywhere_in_coming_back_loses_and_doubles_nothing(
    behind: Behind, clock: FakeClock
) -> None:
    assert await swept(behind, clock, behind.proxy.cut, 37) > 10_000


async def test_a_monitor_goes_on_under_a_newer_schema_that_only_adds_and_says_so(
    behind: Behind, store: Stage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [observation(number) for number in range(30)]
    await store.write(rows[:10])
    await behind.sql(
        "ALTER TABLE raw_observations ADD COLUMN novelty integer", "UPDATE alembic_version SET version_num = '9999'"
    )
    await store.write(rows[10:20])
    await behind.end_sessions()
    await store.write(rows[20:25])
    await store.write(rows[25:])
    await healed(store, clock)
    await is_whole(store, rows)
    assert [line for line in caplog.messages if line.startswith("schema_moved_on revision=9999")]


async def test_a_schema_that_was_changed_under_a_monitor_keeps_its_rows_on_the_disk(
    behind: Behind, store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(20)]
    await store.write(rows[:10])
    await behind.sql("DROP VIEW observations", "ALTER TABLE raw_observations RENAME COLUMN recheck TO again")
    await store.write(rows[10:])
    assert store.writer.spilled == 10 and store.writer.rejected == 0
    assert 'column "recheck"' in str(store.writer.trouble)
    await behind.sql("ALTER TABLE raw_observations RENAME COLUMN again TO recheck")
    await healed(store, clock)
    await is_whole(store, rows)


@pytest.mark.parametrize("after", [2_000, 12_000, 24_000])
async def test_a_connection_that_is_lost_in_the_middle_of_an_upgrade_is_waited_for_and_the_next_attempt_does_it(
    behind: Behind, clock: FakeClock, after: int
) -> None:
    await behind.sql("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    behind.proxy.passed, behind.proxy.cut_after = 0, after
    with pytest.raises(DatabaseUnavailable):
        await Database.open(behind.settings, clock)
    assert behind.proxy.cuts == 1
    async with stage(behind.settings, clock) as store:
        await store.write([observation(0)])
        await is_whole(store, [observation(0)])
