"""Opening: the lock, the pragmas, the schema, and every way in which it can fail."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from storage_samples import MIDNIGHT, observation, on_a_file, stage, stored

from monitor.clock import FakeClock
from monitor.outcome import OUTCOMES
from monitor.settings import DatabaseSettings
from monitor.storage import migrate
from monitor.storage.database import Database
from monitor.storage.errors import (
    BackupRefused,
    DatabaseHeld,
    DatabaseMissing,
    DatabaseNotWritable,
    DatabaseUrlError,
    MigrationsMissing,
    NotADatabase,
    SchemaTooNew,
    SchemaTooOld,
    StorageError,
)
from monitor.storage.history import History
from monitor.storage.lock import read_holder
from monitor.storage.sqlite import path_of


@on_a_file
async def test_a_second_opener_is_refused_and_told_who_holds_the_database(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    first = await Database.open(settings, clock, owner="daemon", listen="127.0.0.1:9469")
    with pytest.raises(DatabaseHeld) as refused:
        await Database.open(settings, clock, owner="prune")
    message = str(refused.value)
    for part in (
        f"daemon with pid {os.getpid()}",
        "since 2023-11-15T00:00:00Z",
        "listening on 127.0.0.1:9469",
        str(first.path),
    ):
        assert part in message
    await first.close()
    assert read_holder(first.path) is None
    second = await Database.open(settings, clock)
    await second.close()


@on_a_file
async def test_another_process_is_named_and_its_death_frees_the_database(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    script = (
        "import asyncio, sys\n"
        "from monitor.clock import SystemClock\n"
        "from monitor.settings import DatabaseSettings\n"
        "from monitor.storage.database import Database\n"
        "async def main():\n"
        "    await Database.open(DatabaseSettings(sys.argv[1]), SystemClock())\n"
        "    print('open', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, settings.url], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(DatabaseHeld, match=f"pid {holder.pid} "):
            await Database.open(settings, clock)
        named = read_holder(path_of(settings.url))
        assert named is not None
        assert named.pid == holder.pid
        holder.kill()
        holder.wait()
    assert (path_of(settings.url).with_name("monitor.db.lock")).read_bytes() != b""
    assert read_holder(path_of(settings.url)) is None
    database = await Database.open(settings, clock)
    await database.close()


@on_a_file
async def test_a_symbolic_link_is_the_same_database(
    settings: DatabaseSettings, clock: FakeClock, tmp_path: Path
) -> None:
    first = await Database.open(settings, clock)
    (tmp_path / "link.db").symlink_to(first.path)
    with pytest.raises(DatabaseHeld):
        await Database.open(DatabaseSettings(f"sqlite:///{tmp_path / 'link.db'}"), clock)
    await first.close()


@on_a_file
async def test_the_pragmas_are_those_that_durability_rests_on(settings: DatabaseSettings, clock: FakeClock) -> None:
    database = await Database.open(settings, clock)
    async with database.write() as connection:
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in (
                "journal_mode",
                "synchronous",
                "busy_timeout",
                "foreign_keys",
                "auto_vacuum",
                "journal_size_limit",
                "secure_delete",
            )
        }
    await database.close()
    assert found == {
        "journal_mode": "wal",
        "synchronous": 1,
        "busy_timeout": 5000,
        "foreign_keys": 1,
        "auto_vacuum": 2,
        "journal_size_limit": 64 * 1024 * 1024,
        "secure_delete": 2,  # FAST
    }


async def test_every_outcome_class_has_a_name_in_the_database(settings: DatabaseSettings, clock: FakeClock) -> None:
    for _ in range(2):
        database = await Database.open(settings, clock)
        async with database.read() as connection:
            rows = (await connection.exec_driver_sql("SELECT code, name FROM outcomes ORDER BY code")).all()
        await database.close()
        assert [tuple(row) for row in rows] == list(enumerate(OUTCOMES))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not an address", "'not an address' is not an address; write for example: sqlite:///monitor.db"),
        ("mysql://user@host/db", "mysql cannot be opened; write for example: sqlite:///monitor.db or postgresql://"),
        ("sqlite://", "'sqlite://' names no file; write for example: sqlite:///monitor.db"),
        ("sqlite:///:memory:", "'sqlite:///:memory:' names no file; write for example: sqlite:///monitor.db"),
    ],
)
async def test_an_address_that_names_no_file_is_refused(url: str, message: str, clock: FakeClock) -> None:
    with pytest.raises(DatabaseUrlError, match=re.escape(message)):
        await Database.open(DatabaseSettings(url), clock)


def test_a_relative_path_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert path_of("sqlite:///monitor.db") == tmp_path.resolve() / "monitor.db"


async def test_a_missing_directory_is_named(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(DatabaseMissing, match=r"the directory .*/nowhere does not exist; create it: mkdir -p "):
        await Database.open(DatabaseSettings(f"sqlite:///{tmp_path}/nowhere/monitor.db"), clock)


async def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all, but somebody's notes")
    for opened in (Database.open, Database.open_read_only):
        with pytest.raises(NotADatabase, match="not a SQLite database; name another file"):
            await opened(DatabaseSettings(f"sqlite:///{path}"), clock)
    with pytest.raises(NotADatabase, match="this is a directory"):
        await Database.open(DatabaseSettings(f"sqlite:///{tmp_path}"), clock)
    assert path.read_text().startswith("not a database")


async def test_another_programs_database_is_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE holidays (day TEXT)")
    with pytest.raises(NotADatabase, match="not one of this monitor's: it has a table holidays"):
        await Database.open(DatabaseSettings(f"sqlite:///{path}"), clock)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("holidays",)]


@on_a_file
async def test_a_damaged_database_is_told_as_such(settings: DatabaseSettings, clock: FakeClock) -> None:
    async with stage(settings) as store:
        await store.write([observation(number) for number in range(500)])
        path = store.database.path
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(100)
        file.write(os.urandom(size - 200))
    with pytest.raises(NotADatabase, match="damaged"):
        await Database.open(settings, clock)
    # and the lock is free again
    with pytest.raises(NotADatabase):
        await Database.open(settings, clock)


async def test_a_newer_schema_is_refused_and_not_touched(settings: DatabaseSettings, clock: FakeClock) -> None:
    database = await Database.open(settings, clock)
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await database.close()
    for opened in (Database.open, Database.open_read_only):
        with pytest.raises(SchemaTooNew, match=r"its schema \(9999\) was written by a newer monitor"):
            await opened(settings, clock)


async def test_a_reader_does_not_upgrade_what_is_older(
    settings: DatabaseSettings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(settings, clock)
    await database.close()
    monkeypatch.setattr(migrate, "HEAD", "9999")
    with pytest.raises(SchemaTooOld, match="start the daemon, or run: monitor db upgrade"):
        await Database.open_read_only(settings, clock)


async def test_a_reader_works_beside_a_daemon_and_sees_what_it_commits(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    async with stage(settings) as store:
        await store.write([observation(1)])
        beside = await Database.open_read_only(settings, clock)
        history = History(beside)
        assert len(await history.observations()) == 1
        await store.write([observation(2)])
        assert len(await history.observations()) == 2
        with pytest.raises(DatabaseNotWritable, match="opened for reading only"):
            await beside.run(lambda connection: connection.exec_driver_sql("DELETE FROM raw_observations"))
        with pytest.raises(StorageError):
            async with beside.read() as connection:
                await connection.exec_driver_sql("DELETE FROM raw_observations")
        await beside.close()


async def test_a_reader_needs_a_database_that_is_there(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(DatabaseMissing, match="no such file; `monitor run` creates it"):
        await Database.open_read_only(DatabaseSettings(f"sqlite:///{tmp_path / 'none.db'}"), clock)
    assert list(tmp_path.iterdir()) == []


def test_missing_migrations_are_told_with_the_places_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate.monitor, "__file__", str(tmp_path / "monitor" / "__init__.py"))
    with pytest.raises(MigrationsMissing, match="no migrations directory in"):
        migrate.migrations_directory()
    (tmp_path / "monitor" / "migrations").mkdir(parents=True)
    (tmp_path / "monitor" / "migrations" / "env.py").touch()
    assert migrate.migrations_directory() == tmp_path / "monitor" / "migrations"


@on_a_file
async def test_a_backup_of_a_running_database_is_whole_and_never_overwrites(
    settings: DatabaseSettings, clock: FakeClock, tmp_path: Path
) -> None:
    rows = [observation(number) for number in range(300)]
    target = tmp_path / "copy of it.db"
    async with stage(settings) as store:
        await store.write(rows)
        await store.database.backup(target)
        await store.write([observation(1000)])
        with pytest.raises(BackupRefused, match="the file exists; name another"):
            await store.database.backup(target)
        with pytest.raises(BackupRefused, match="unable to open database"):
            await store.database.backup(tmp_path / "nowhere" / "copy.db")
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []
    async with stage(DatabaseSettings(f"sqlite:///{target}")) as copy:
        assert await copy.rows() == stored(rows)


async def test_opening_and_closing_leaks_no_file_descriptor(settings: DatabaseSettings) -> None:
    open_files = []
    for number in range(12):
        async with stage(settings) as store:
            await store.write([observation(number)])
            await store.rows()
        open_files.append(len(list(Path("/proc/self/fd").iterdir())))
    # Others in this process may hold some and let go of them, but none is left for each opening.
    assert open_files[-1] < open_files[1] + 5


@pytest.mark.parametrize("name", ["with space?.db", "100%.db", "q#x.db", "émü.db"])
async def test_odd_file_names_are_file_names(name: str, tmp_path: Path, clock: FakeClock) -> None:
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(tmp_path / name)).render_as_string(hide_password=False)
    async with stage(DatabaseSettings(url), clock) as store:
        await store.write([observation(1)])
        assert len(await store.rows()) == 1
    assert (tmp_path / name).is_file()


def test_the_clock_of_these_tests_starts_at_a_midnight() -> None:
    assert MIDNIGHT % 86400 == 0


async def test_a_directory_that_we_may_not_write_to_can_be_read_from(clock: FakeClock) -> None:
    """In a process of its own, since root may write anywhere and has to become somebody else first."""
    script = (
        "import asyncio, os, sys\n"
        "import aiosqlite, sqlalchemy.dialects.sqlite.aiosqlite, sqlalchemy.ext.asyncio\n"
        "from monitor.clock import SystemClock\n"
        "from monitor.settings import DatabaseSettings\n"
        "from monitor.storage.database import Database\n"
        "from monitor.storage.errors import DatabaseNotWritable\n"
        "from monitor.storage.history import History\n"
        "settings = DatabaseSettings(sys.argv[1])\n"
        "async def main():\n"
        "    await (await Database.open(DatabaseSettings(sys.argv[2]), SystemClock())).close()\n"
        "    if os.geteuid() == 0:\n"
        "        os.setuid(65534)\n"
        "    database = await Database.open_read_only(settings, SystemClock())\n"
        "    print(len(await History(database).observations()))\n"
        "    await database.close()\n"
        "    try:\n"
        "        await Database.open(settings, SystemClock())\n"
        "    except DatabaseNotWritable as error:\n"
        "        print(error)\n"
        "asyncio.run(main())\n"
    )
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as other:
        settings = DatabaseSettings(f"sqlite:///{directory}/monitor.db")
        async with stage(settings, clock) as store:
            await store.write([observation(1), observation(2)])
        store.database.path.with_name("monitor.db.lock").unlink()
        Path(directory).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", script, settings.url, f"sqlite:///{other}/warm.db"], capture_output=True, text=True
        )
        Path(directory).chmod(0o755)
    assert done.stdout.splitlines()[:1] == ["2"], done.stderr
    assert "not writable" in done.stdout


@on_a_file
async def test_a_row_of_a_success_takes_at_most_150_bytes_of_disk(settings: DatabaseSettings) -> None:
    chance = random.Random(9)
    rows = []
    for minute in range(6):
        for number in range(1000):
            due_at = MIDNIGHT + minute * 60 + number * 60 / 1000
            ttft = chance.lognormvariate(-1, 0.5)
            rows.append(
                observation(
                    endpoint=f"author/model-{number}@provider",
                    slot=int(due_at // 60),
                    due_at=due_at,
                    started_at=due_at + chance.random() / 100,
                    connect_seconds=chance.random() / 5,
                    headers_seconds=ttft - 0.002,
                    first_event_seconds=ttft - 0.001,
                    ttft_seconds=ttft,
                    first_answer_seconds=ttft,
                    latency_seconds=ttft + chance.lognormvariate(0, 0.5),
                    max_gap_seconds=chance.random() / 10,
                    output_tokens_per_second=chance.lognormvariate(4, 0.5),
                    throughput_tokens_per_second=chance.lognormvariate(3.5, 0.5),
                    cost_usd=chance.random() / 10_000,
                    response_id=f"chatcmpl-{chance.getrandbits(116):029x}",
                )
            )
    async with stage(settings) as store:
        await store.write([observation(-1, endpoint=row.endpoint) for row in rows[:1000]])
        await store.database.settle()
        before = (await store.database.free_pages())[1] - await store.slots()
        for start in range(0, len(rows), 25):
            await store.write(rows[start : start + 25])
        await store.database.settle()
        # The journal's slots are written over from here on.
        after = (await store.database.free_pages())[1] - await store.slots()
    assert len(rows[0].response_id or "") == 38
    assert (after - before) * 4096 / len(rows) <= 150
