"""The journal of a busy fleet's rows: each is there once, whatever happens, and whoever reads sees it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from storage_samples import DAY, HOUR, MIDNIGHT, Stage, in_order, observation, stage, stored, until, varied
from test_migrations import alembic
from test_retention import At

from monitor.clock import FakeClock
from monitor.observation import Observation
from monitor.settings import DatabaseSettings, RetentionSettings
from monitor.storage import journal
from monitor.storage.batch import commit_batch
from monitor.storage.codec import READ_COLUMNS, WRITTEN_COLUMNS, as_stored
from monitor.storage.copying import copy_database
from monitor.storage.database import Database, engine_of
from monitor.storage.facts import Skew, read_skew
from monitor.storage.history import History
from monitor.storage.journal import Journal
from monitor.storage.journal_slots import LAYOUT, SLOT_BYTES, DamagedSlotsError, pack, unpack
from monitor.storage.retention import prune
from monitor.storage.rollups import HourBook
from monitor.storage.sqlite import path_of

SAMPLES = [as_stored(one) for one in varied(seed=5, count=60, span=240.0, endpoints=8)]


@pytest.fixture
async def busy(
    file_settings: DatabaseSettings, clock: FakeClock, every_row_through_the_journal: None
) -> AsyncIterator[Stage]:
    async with stage(file_settings, clock, busy_timeout_ms=10) as opened:
        yield opened


async def rows_of(database: Database) -> list[Observation]:
    return [one async for some in History(database).stream() for one in some]


def count(settings: DatabaseSettings, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path_of(settings.url))) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found


class Life:
    """A database that is written to, moved about in, and killed."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self.clock = FakeClock(now=MIDNIGHT)
        self.kept: dict[object, Observation] = {}

    async def begin(self) -> None:
        self.database = await Database.open(self.settings, self.clock)

    async def put(self, numbers: Sequence[int]) -> None:
        rows = [SAMPLES[number] for number in numbers]
        new, _ = await commit_batch(self.database, rows, HourBook(), Skew(), MIDNIGHT)
        assert [one.key for one in new] == list(dict.fromkeys(one.key for one in rows if one.key not in self.kept))
        self.kept |= {one.key: one for one in new}

    async def fail(self, numbers: Sequence[int]) -> None:
        def breaks(_new: Sequence[Observation]) -> None:
            raise LookupError

        with contextlib.suppress(LookupError):
            await commit_batch(
                self.database, [SAMPLES[number] for number in numbers], HourBook(), Skew(), MIDNIGHT, breaks
            )

    async def die(self) -> None:
        await self.database.close()  # what is committed is in the file; nothing else is done as at a proper end
        await self.begin()

    async def check(self) -> None:
        kept = in_order(list(self.kept.values()))
        beside = await Database.open_read_only(self.settings, self.clock)
        assert await rows_of(beside) == kept
        assert await rows_of(self.database) == kept
        assert await rows_of(beside) == kept
        await beside.close()
        await self.database.close()


STEPS = st.one_of(
    st.tuples(st.just("put"), st.lists(st.integers(0, len(SAMPLES) - 1), min_size=1, max_size=12)),
    st.tuples(st.just("fail"), st.lists(st.integers(0, len(SAMPLES) - 1), min_size=1, max_size=6)),
    st.sampled_from([("move", None), ("settle", None), ("die", None), ("use", None), ("straight", None)]),
)


@pytest.mark.parametrize("portion", [2, 10_000])
def test_any_sequence_of_batches_moves_and_crashes_gives_each_row_once(
    migrated: Path, every_row_through_the_journal: None, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(journal, "ROWS_A_TRANSACTION", portion)

    async def play(steps: list[tuple[str, list[int] | None]], directory: str) -> None:
        shutil.copy(migrated, f"{directory}/monitor.db")
        life = Life(DatabaseSettings(f"sqlite:///{directory}/monitor.db"))
        await life.begin()
        for step, numbers in steps:
            if step == "put":
                await life.put(numbers or [])
            elif step == "fail":
                await life.fail(numbers or [])
            elif step == "move":
                await life.database.move_waiting()
            elif step == "settle":
                await life.database.settle()
            elif step == "die":
                await life.die()
            else:
                monkeypatch.setattr(journal, "BULK_ROWS", 0 if step == "straight" else 1_000_000)
        await life.check()

    @hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=4, max_size=14))
    def plays(steps: list[tuple[str, list[int] | None]]) -> None:
        monkeypatch.setattr(journal, "BULK_ROWS", 1_000_000)
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(play(steps, directory))

    plays()


def test_rows_go_through_the_journal_only_while_many_come_at_once() -> None:
    one = Journal()
    assert not any(one.takes(journal.MANY_ROWS) for _ in range(journal.SUSTAINED_COMMITS - 1))
    assert not one.takes(journal.MANY_ROWS - 1)  # not sustained
    assert [one.takes(83) for _ in range(journal.SUSTAINED_COMMITS)][-1]
    assert not one.takes(journal.BULK_ROWS)
    assert [one.takes(journal.FEW_ROWS) for _ in range(100)][-1]
    assert not [one.takes(journal.FEW_ROWS - 1) for _ in range(journal.SUSTAINED_COMMITS)][-1]
    assert one.move_due_in(0.0) == 0.0


async def test_what_waits_is_moved_in_time_also_if_nothing_comes_any_more(busy: Stage, clock: FakeClock) -> None:
    rows = [observation(endpoint=f"m@{number}") for number in range(40)]
    await busy.write(rows)
    assert in_order(busy.committed) == stored(rows)
    assert (busy.database.waiting, count(busy.settings, "raw_observations")) == (40, 0)
    await clock.advance(journal.MOVE_SECONDS / 2)
    assert busy.database.waiting == 40
    for _ in range(2):  # the latest stay for the move after
        await clock.advance(journal.MOVE_SECONDS + 1)
        await asyncio.sleep(0.02)
    await until(lambda: count(busy.settings, "raw_observations") == 40, clock)
    assert clock.now() < MIDNIGHT + 3 * journal.MOVE_SECONDS
    assert not busy.database.waiting


async def test_a_file_that_nobody_works_on_has_its_rows_in_the_raw_table(
    file_settings: DatabaseSettings, every_row_through_the_journal: None
) -> None:
    async with stage(file_settings) as store:
        await store.write([observation(number) for number in range(9)])
        assert count(file_settings, "raw_observations") == 0
    assert count(file_settings, "raw_observations") == 9


async def test_slots_are_written_over_and_the_file_does_not_grow(busy: Stage, clock: FakeClock) -> None:
    sizes = []
    for turn in range(6):
        for number in range(10):
            await busy.write([observation(turn, endpoint=f"m@{number}-{each}") for each in range(4)])
        sizes.append(count(busy.settings, "journal"))
        await busy.database.settle()
    assert sizes == [10, 11, 11, 11, 11, 11]  # a slot a batch, and the mark
    assert in_order(await busy.rows()) == in_order(busy.committed)


async def test_a_move_takes_as_many_old_rows_away_as_it_brings_and_a_prune_leaves_them_to_it(
    busy: Stage, clock: FakeClock
) -> None:
    rules = RetentionSettings(observations_seconds=DAY, hourly_seconds=9 * DAY, daily_seconds=90 * DAY)
    old = [observation(number) for number in range(60)]
    await busy.write(old)
    await busy.writer.close_hours(MIDNIGHT + 2 * DAY)
    await busy.database.settle()
    now = At(MIDNIGHT + DAY + HOUR)

    async def pruned() -> int:
        return (await prune(busy.database, busy.writer.submit, now, rules)).observations

    assert await pruned() == 40  # what moves should have come to by now
    assert len(await busy.rows()) == 20
    new = [observation(5000 + number) for number in range(8)]
    await busy.write(new)
    assert await busy.rows() == stored([*old[48:], *new])
    assert await pruned() == 8


async def test_moves_fill_the_pages_of_the_raw_table(busy: Stage, clock: FakeClock) -> None:
    async def pages(first: int, *, is_settled: bool) -> int:
        for minute in range(first, first + 60):
            await busy.write([observation(minute, endpoint=f"m@{number}") for number in range(40)])
        before = (await busy.database.free_pages())[1]
        if is_settled:
            await busy.database.settle()
        for _ in range(2):
            await clock.advance(journal.MOVE_SECONDS + 1)
        await until(lambda: count(busy.settings, "raw_observations") == 40 * (first + 60), clock)
        return (await busy.database.free_pages())[1] - before

    in_order_of_key = await pages(0, is_settled=True)
    assert await pages(60, is_settled=False) < 0.95 * in_order_of_key


def test_rows_in_filling_order_are_the_same_rows() -> None:
    rows = [(number,) for number in range(100)]
    assert sorted(journal.in_filling_order(rows)) == rows
    assert journal.in_filling_order([]) == []


async def test_a_clock_that_was_ahead_holds_up_no_slot(busy: Stage, clock: FakeClock) -> None:
    await busy.write([observation(10**6)])
    for number in range(5):
        await clock.advance(journal.MOVE_SECONDS + 1)
        await busy.write([observation(number)])
    assert count(busy.settings, "journal") < 5


async def test_who_reads_beside_a_daemon_sees_rows_that_wait_and_none_twice(busy: Stage, clock: FakeClock) -> None:
    first, second, third = ([observation(number, endpoint=f"m@{each}") for number in range(30)] for each in range(3))
    await busy.write(first)
    await busy.database.settle()
    await busy.write(second)
    beside = await Database.open_read_only(busy.settings, clock)
    assert await rows_of(beside) == in_order(busy.committed)
    stream = History(beside).stream(chunk=20)
    seen = list(await anext(stream))
    await busy.database.settle()  # what is being read is moved meanwhile
    seen += [one async for some in stream for one in some]
    assert seen == in_order(busy.committed)
    await busy.write(third)
    assert await rows_of(beside) == in_order(busy.committed)
    assert [one.endpoint for one in await History(beside).observations(limit=3)] == ["m@2", "m@1", "m@0"]
    await beside.close()


async def test_rows_that_wait_are_merged_into_what_is_read_and_not_sorted(busy: Stage, clock: FakeClock) -> None:
    await busy.write([observation(number) for number in range(30)])
    beside = await Database.open_read_only(busy.settings, clock)
    page = History(beside)._page(MIDNIGHT * 1000, MIDNIGHT * 1000 + 10**6, None, False, 10)
    text = str(page.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    async with beside.read() as connection:
        plan = [row[3] for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    await beside.close()
    assert "MERGE (UNION ALL)" in plan
    assert "SEARCH main.raw_observations USING PRIMARY KEY (due_ms>? AND due_ms<?)" in plan
    assert not [step for step in plan if "B-TREE" in step or step.startswith("SCAN")]
    assert len(READ_COLUMNS) < len(WRITTEN_COLUMNS)


async def test_a_copy_has_the_rows_that_wait(busy: Stage, clock: FakeClock, tmp_path: Path) -> None:
    await busy.write([observation(number) for number in range(7)])
    await busy.database.settle()
    await busy.write([observation(number) for number in range(7, 20)])
    shutil.copytree(path_of(busy.settings.url).parent, tmp_path / "killed")  # as a kill would leave it
    source = engine_of(DatabaseSettings(f"sqlite:///{tmp_path}/killed/monitor.db"))
    target = engine_of(DatabaseSettings(f"sqlite:///{tmp_path}/copy.db"))
    try:
        copied = await copy_database(source, target, MIDNIGHT, lambda table, done, whole: None)
    finally:
        await source.close()
        await target.close()
    assert copied.differences == []
    assert copied.rows["raw_observations"] == 20
    assert count(DatabaseSettings(f"sqlite:///{tmp_path}/copy.db"), "raw_observations") == 20


async def test_the_schema_does_not_go_back_while_rows_wait(
    file_settings: DatabaseSettings, every_row_through_the_journal: None
) -> None:
    database = await Database.open(file_settings, FakeClock())
    await commit_batch(database, SAMPLES[:3], HourBook(), Skew(), MIDNIGHT)
    await database.close()
    done = alembic("-x", f"database={file_settings.url}", "downgrade", "0007")
    assert done.returncode != 0
    assert "rows wait in the journal" in done.stderr
    assert count(file_settings, "journal") == 1


async def test_a_row_that_the_table_refuses_holds_up_no_other(busy: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async with busy.database.write() as connection:
        await connection.exec_driver_sql(
            "CREATE TRIGGER by_hand BEFORE INSERT ON raw_observations WHEN new.recheck = 1 "
            "BEGIN SELECT raise(ABORT, 'no rechecks'); END"
        )
    rows = [observation(number, recheck=int(number == 4)) for number in range(9)]
    await busy.write(rows)
    assert await busy.rows() == stored([one for one in rows if not one.recheck])
    assert "no rechecks" in caplog.text
    assert busy.database.waiting == 0


async def test_a_locked_file_tells_who_reads_so_and_loses_nothing(busy: Stage) -> None:
    rows = [observation(number) for number in range(9)]
    await busy.write(rows)
    with contextlib.closing(sqlite3.connect(path_of(busy.settings.url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Exception, match="locked"):
            await busy.rows()
        other.execute("ROLLBACK")
    assert await busy.rows() == stored(rows)


async def test_raw_rows_are_not_read_inside_a_write_block(busy: Stage) -> None:
    await busy.write([observation()])
    with pytest.raises(RuntimeError, match="before a write block"):
        async with busy.database.write():
            await busy.rows()


VALUES = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=12))


@given(st.lists(st.tuples(*[VALUES] * 4), min_size=1, max_size=40), st.integers(0, 2**32))
def test_what_is_packed_is_unpacked_and_damage_is_noticed(rows: list[tuple[object, ...]], where: int) -> None:
    slots = pack(rows)
    assert {len(slot) for slot in slots} == {SLOT_BYTES}
    assert unpack(slots[::-1]) == rows
    hurt = bytearray(slots[-1])
    hurt[where % 20] ^= 1 + where % 255
    with pytest.raises(DamagedSlotsError):
        unpack([*slots[:-1], bytes(hurt)])
    with pytest.raises(DamagedSlotsError):
        unpack(slots[:-1])


def test_a_batch_that_was_deflated_in_one_block_is_read() -> None:
    rows = [(number, None, "text") for number in range(30)]
    data = zlib.compress(msgspec.msgpack.encode(tuple(zip(*rows, strict=True))), 1)
    slot = struct.pack("<BHHHI", 1, 0, 1, len(data), zlib.crc32(data)) + data
    assert unpack([slot.ljust(SLOT_BYTES, b"\0")]) == rows


def test_the_columns_of_a_layout_never_change() -> None:
    assert {LAYOUT: zlib.crc32(" ".join(WRITTEN_COLUMNS).encode())} == {1: 1059732702}


async def test_what_rows_that_wait_refer_to_outlives_retention(
    file_settings: DatabaseSettings, every_row_through_the_journal: None
) -> None:
    clock = At(MIDNIGHT)
    async with stage(file_settings, clock) as store:
        late = observation(0, started_at=MIDNIGHT + 5 * HOUR, response_model="rare")
        await store.write([late])
        clock._now = MIDNIGHT + 8 * DAY  # the machine slept
        await prune(store.database, store.writer.submit, clock, RetentionSettings())
        assert (count(file_settings, "raw_observations"), store.database.waiting) == (0, 1)
        async with store.database.read() as connection:
            assert (await read_skew(connection)).ms == 5 * HOUR * 1000
        assert [one.response_model for one in await store.rows()] == ["rare"]
