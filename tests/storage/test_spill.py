"""When the database does not take rows: the spill, its replay, and what is told to the windows meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from storage_samples import (
    HOUR,
    MIDNIGHT,
    Stage,
    in_order,
    observation,
    on_a_file,
    refusing_writes,
    same_tally,
    settings_of,
    stage,
    stored,
    until,
)

from monitor.clock import FakeClock
from monitor.health.tally import tally_of
from monitor.outcome import Outcome
from monitor.settings import DatabaseSettings
from monitor.storage.errors import DatabaseUnavailable, StorageError
from monitor.storage.spill import Spill
from monitor.storage.writer import FLUSH_SECONDS


@contextlib.contextmanager
def no_file_grows_beyond(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["sqlite", "postgresql", "journal"])
def settings(request: pytest.FixtureRequest) -> DatabaseSettings:
    return settings_of(request)


@pytest.fixture
async def store(settings: DatabaseSettings, clock: FakeClock) -> AsyncIterator[Stage]:
    async with stage(settings, clock, busy_timeout_ms=10) as opened:
        yield opened


def spilled(store: Stage) -> float | None:
    return store.metrics.registry.get_sample_value("monitor_observations_spilled")


async def test_a_locked_database_makes_rows_durable_in_the_spill_and_then_takes_them(
    store: Stage, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(60)]
    await store.write(rows[:10])
    async with refusing_writes(store.settings):
        await store.write(rows[10:20])
        assert store.writer.is_failing
        assert store.spilled == stored(rows[10:20])
        assert store.database.spill_path.exists()
        assert spilled(store) == 10
        # before the next attempt is due, rows go to the disk at once
        await store.write(rows[20:30])
        assert spilled(store) == 20
    assert in_order(store.committed) == stored(rows[:10])
    await until(lambda: not store.writer.is_failing, clock)
    await store.write(rows[30:])
    assert store.shown_again == stored(rows[10:30])
    assert store.committed == stored([*rows[:10], *rows[30:]])
    assert await store.rows() == stored(rows)
    assert not store.database.spill_path.exists()
    assert spilled(store) == 0
    assert store.writer.lost == store.writer.rejected == 0


async def test_rows_that_waited_on_disk_are_in_the_rollups_too(store: Stage, clock: FakeClock) -> None:
    rows = [observation(number, outcome=Outcome.SUCCESS if number % 3 else Outcome.RESET) for number in range(90)]
    await store.write(rows[:60:2])
    async with refusing_writes(store.settings):
        await store.write(rows[1:60:2])
    await until(lambda: store.writer.spilled == 0, clock)
    await store.writer.close_hours(MIDNIGHT + HOUR)
    async with refusing_writes(store.settings):
        await store.write([observation(59, recheck=1), observation(58, endpoint="late@acme"), *rows[60:]])
    await until(lambda: store.writer.spilled == 0, clock)
    (first,) = [found async for found in store.history.rollups("hour")]
    tallies = {rollup.endpoint: rollup.tally for rollup in first}
    assert same_tally(tallies[rows[0].endpoint], tally_of(stored(rows[:60])))
    assert same_tally(tallies["late@acme"], tally_of(stored([observation(58, endpoint="late@acme")])))
    assert same_tally(next(store.writer.hours.rows())[2], tally_of(stored(rows[60:])))


async def test_attempts_are_spaced_out_up_to_half_a_minute(
    store: Stage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with refusing_writes(store.settings):
        attempts = []
        await store.write([observation(0)])
        for _ in range(9):
            wait = store.writer.trouble.retry_at - clock.monotonic()
            attempts.append(wait)
            failures = store.writer.trouble.attempts
            await clock.advance(wait + FLUSH_SECONDS + 0.05)
            await until(lambda before=failures: store.writer.trouble.attempts > before)
    assert attempts == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30], abs=FLUSH_SECONDS + 0.06)
    told = {record.args[0]: str(record.args[2]) for record in caplog.records if "database fails" in record.message}
    assert {1, 2, 4, 8} <= told.keys()
    assert len(told) < 4 + len(set(told.values()))  # and what says something new


async def test_a_spill_left_by_a_dead_process_is_replayed_as_not_shown_yet(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(30)]
    async with stage(settings, clock, busy_timeout_ms=10) as store:
        await store.write(rows[:10])
        async with refusing_writes(store.settings):
            await store.write(rows[10:])
            # closing tries once more, then leaves the rows where they are
            await store.writer.close()
            await store.running
        assert store.database.spill_path.exists()
    async with stage(settings, clock) as store:
        await store.write([])
        await until(lambda: store.writer.spilled == 0, clock)
        assert store.committed == stored(rows[10:])
        assert store.shown_again == []
        assert await store.rows() == stored(rows)


async def test_replaying_a_spill_twice_doubles_nothing(settings: DatabaseSettings, clock: FakeClock) -> None:
    rows = [observation(number) for number in range(20)]
    async with stage(settings, clock) as store:
        await store.write(rows[:15])
        path = store.database.spill_path
    spill = Spill(path)
    await spill.append(rows[10:])
    async with stage(settings, clock) as store:
        await store.write([])
        await until(lambda: store.writer.spilled == 0, clock)
        assert store.committed == stored(rows[15:])
        assert await store.rows() == stored(rows)
        assert same_tally(next(store.writer.hours.rows())[2], tally_of(stored(rows)))


async def test_a_torn_last_line_is_dropped_and_a_spoilt_one_is_put_aside(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(settings, clock) as store:
        path = store.database.spill_path
    await Spill(path).append([observation(1), observation(2)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        lines[0] + b'{"endpoint": "from a newer version"}\r\n' + b"\xff\x00nonsense\n" + lines[1] + lines[0][:40]
    )
    async with stage(settings, clock) as store:
        await store.write([observation(3)])
        await until(lambda: store.writer.spilled == 0, clock)
        assert await store.rows() == stored([observation(1), observation(2), observation(3)])
        assert store.writer.rejected == 2
        assert len(store.writer._spill.rejected_path.read_bytes().splitlines()) == 2
        assert not path.exists()


async def test_what_is_appended_after_a_torn_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "db.spill"
    path.write_bytes(b'{"torn')
    spill = Spill(path)
    await spill.open()
    await spill.append([observation(1)])
    again = Spill(path)
    await again.open()
    chunk = await again.next_chunk()
    assert chunk is not None
    assert (chunk.observations, chunk.unreadable, chunk.already_shown) == ([observation(1)], [], False)


async def test_lines_of_before_and_of_now_come_in_separate_chunks(tmp_path: Path) -> None:
    path = tmp_path / "db.spill"
    await Spill(path).append([observation(number) for number in range(1000)])
    spill = Spill(path)
    await spill.append([observation(number) for number in range(1000, 1500)])
    found = {False: [], True: []}
    while chunk := await spill.next_chunk():
        assert await spill.next_chunk() == chunk
        found[chunk.already_shown] += [each.slot - observation().slot for each in chunk.observations]
        await spill.done(chunk)
        if found[True] == []:
            await spill.append([observation(2000)])
    assert found[False] == list(range(1000))
    assert found[True][:500] == list(range(1000, 1500))
    assert not path.exists()
    assert spill.pending == 0


@pytest.mark.parametrize("how", ["removed", "cut"])
async def test_a_file_that_is_taken_away_under_a_running_daemon_loses_what_it_held_and_no_more(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "db.spill"
    spill = Spill(path)
    await spill.append([observation(number) for number in range(5)])
    chunk = await spill.next_chunk()
    assert chunk is not None
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:700])
    await spill.append([observation(number) for number in range(5, 7)])
    assert spill.pending == 2
    assert "rows_lost=5" in caplog.text
    await spill.done(chunk)  # it was read before, and is written; the new file is another one
    again = await spill.next_chunk()
    assert again is not None
    assert (again.observations, again.unreadable) == ([observation(5), observation(6)], [])
    await spill.done(again)
    assert (spill.pending, path.exists()) == (0, False)


async def test_a_replay_goes_on_when_its_file_was_removed(store: Stage, clock: FakeClock) -> None:
    async with refusing_writes(store.settings):
        await store.write([observation(1)])
        store.database.spill_path.unlink()
    await until(lambda: store.writer.spilled == 0, clock)
    await store.write([observation(2)])
    assert await store.rows() == stored([observation(2)])


async def test_jobs_are_refused_while_the_database_fails_and_taken_when_it_is_back(
    store: Stage, clock: FakeClock
) -> None:
    async def job(connection: AsyncConnection) -> int:
        await connection.execute(text("DELETE FROM meta WHERE name = 'nothing'"))
        return 42

    async with refusing_writes(store.settings):
        with pytest.raises(StorageError, match=r"locked|read-only|connection|failing"):
            await store.writer.submit(job)
        with pytest.raises(DatabaseUnavailable, match="failing, tried again later"):
            await store.writer.submit(job)
    await clock.advance(1)
    assert await store.writer.submit(job) == 42
    assert not store.writer.is_failing


async def test_a_full_queue_spills_while_a_commit_hangs(settings: DatabaseSettings, clock: FakeClock) -> None:
    async with stage(settings, clock, queue_limit=100) as store:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def hangs(connection: AsyncConnection) -> None:
            inside.set()
            await go_on.wait()

        job = asyncio.create_task(store.writer.submit(hangs))
        await inside.wait()
        rows = [observation(number) for number in range(500)]
        for each in rows:
            store.writer.put(each)
        await until(lambda: store.writer.queued <= 50 and len(store.spilled) + store.writer.queued == 500)
        go_on.set()
        await job
        await until(lambda: len(store.committed) + len(store.shown_again) == 500, clock)
        assert await store.rows() == stored(rows)
        assert in_order([*store.committed, *store.shown_again]) == stored(rows)
        assert in_order(store.shown_again) == in_order(store.spilled)


async def test_at_the_deadline_of_closing_what_hangs_goes_to_the_spill(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(40)]
    async with stage(settings, clock) as store:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def hangs(connection: AsyncConnection) -> None:
            inside.set()
            await go_on.wait()

        job = asyncio.create_task(store.writer.submit(hangs))
        await inside.wait()
        for each in rows:
            store.writer.put(each)
        closing = asyncio.create_task(store.writer.close(deadline_seconds=5))
        await clock.advance(4)
        assert not closing.done()
        await clock.advance(2)
        await closing
        assert store.spilled == stored(rows)
        go_on.set()
        await job
        await store.running
    async with stage(settings, clock) as store:
        await store.write([])
        await until(lambda: store.writer.spilled == 0, clock)
        assert await store.rows() == stored(rows)


@on_a_file
async def test_a_full_disk_loses_nothing_when_there_is_room_again(store: Stage, clock: FakeClock) -> None:
    rows = [observation(number, response_id=f"{number:0200}") for number in range(4000)]
    await store.write(rows[:500])
    largest = max(path.stat().st_size for path in store.database.path.parent.iterdir())
    with no_file_grows_beyond(largest):
        await store.write(rows[500:])
        assert store.writer.is_failing
        assert store.writer.queued > 0  # the spill was full too
        assert len(store.committed) + len(store.spilled) + store.writer.queued == 4000
    await until(lambda: len(store.committed) + len(store.shown_again) == 4000, clock)
    assert await store.rows() == stored(rows)
    assert in_order([*store.committed, *store.shown_again]) == stored(rows)
    assert store.writer.lost == 0


async def test_without_database_disk_or_memory_a_loss_is_counted_and_logged(
    settings: DatabaseSettings, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(settings, clock, queue_limit=10) as store:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def hangs(connection: AsyncConnection) -> None:
            inside.set()
            await go_on.wait()

        job = asyncio.create_task(store.writer.submit(hangs))
        await inside.wait()
        with no_file_grows_beyond(0):
            for number in range(110):
                store.writer.put(observation(number))
        assert store.writer.lost == 10
        assert "observation lost" in caplog.text
        go_on.set()
        await job
        await until(lambda: len(store.committed) + len(store.shown_again) == 100, clock)
        assert len(await store.rows()) == 100


async def test_a_spill_that_cannot_be_read_is_not_overwritten(settings: DatabaseSettings, clock: FakeClock) -> None:
    async with stage(settings, clock) as store:
        path = store.database.spill_path
    path.mkdir()
    async with stage(settings, clock, busy_timeout_ms=10) as store:
        await store.write([observation(1)])
        assert len(store.committed) == 1
        async with refusing_writes(store.settings):
            await store.write([observation(2)])
            assert store.writer.queued == 1
        path.rmdir()
        await until(lambda: len(store.committed) == 2, clock)


async def test_what_nobody_was_shown_is_told_from_what_was(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill")
    await spill.append([observation(1)])
    spill.leave_unshown()
    await spill.append([observation(2)])
    found = []
    while chunk := await spill.next_chunk():
        found.append(([one.slot for one in chunk.observations], chunk.already_shown))
        await spill.done(chunk)
    assert found == [([observation(1).slot], False), ([observation(2).slot], True)]
