"""Moving a database to another kind: everything arrives, whatever breaks it off, and what differs is told."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import LOCKED_PASSWORD, LOCKED_ROLE, Server
from sqlalchemy import select
from storage_samples import DAY, HOUR, MIDNIGHT, catalog_of, observation, on_a_file, stage, stored, varied

from monitor.cli import main
from monitor.clock import FakeClock
from monitor.health.incidents import Incident
from monitor.health.state import State
from monitor.settings import DatabaseSettings
from monitor.storage import copying, schema
from monitor.storage.copying import COPIED, Copied, copy_database
from monitor.storage.database import Database, engine_of
from monitor.storage.eras import record_catalog
from monitor.storage.errors import CopyRefused, CopyUnfinished
from monitor.storage.incidents import record_incident
from monitor.storage.own_outages import record_own_outage
from monitor.storage.sqlite import path_of

ENDPOINTS = tuple(f"author/model@provider-{number}" for number in range(3))


@pytest.fixture
def target(
    settings: DatabaseSettings, postgresql: Server, migrated: Path, tmp_path: Path
) -> Iterator[DatabaseSettings]:
    """A new and empty database of the other kind."""
    if settings.url.startswith("postgresql"):
        shutil.copy(migrated, tmp_path / "copy.db")
        yield DatabaseSettings(f"sqlite:///{tmp_path / 'copy.db'}")
        return
    with postgresql.made("copy_of") as name:
        yield DatabaseSettings(postgresql.url(name), spill=str(tmp_path / "copy.spill"))


@pytest.fixture(scope="session")
def filled(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with something in every table, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "monitor.db"
    shutil.copy(migrated, path)
    asyncio.run(fill(DatabaseSettings(f"sqlite:///{path}")))
    return path


@pytest.fixture
async def source(settings: DatabaseSettings, filled: Path) -> DatabaseSettings:
    """The database to be copied, with something in every table."""
    if settings.url.startswith("sqlite"):
        shutil.copy(filled, path_of(settings.url))
    else:
        await fill(settings)
    return settings


@pytest.fixture
def source_file(file_settings: DatabaseSettings, filled: Path) -> DatabaseSettings:
    shutil.copy(filled, path_of(file_settings.url))
    return file_settings


async def fill(settings: DatabaseSettings, rows: int = 200) -> None:
    async with stage(settings) as store:
        names = store.database.names
        await store.writer.submit(lambda at: record_catalog(at, names, "local", catalog_of(*ENDPOINTS), MIDNIGHT))
        await store.write(varied(seed=1, count=rows, span=3 * DAY))
        await store.write([observation(7, told="a\tb", detail="Überlast \U0001f525", endpoint="late@acme")])
        await store.writer.close_hours(MIDNIGHT + 2 * DAY + HOUR)
        down = Incident(ENDPOINTS[0], "local", State.DOWN, "reset", MIDNIGHT + 60, None, "why")
        await store.writer.submit(lambda at: record_incident(at, names, down))
        await store.writer.submit(lambda at: record_own_outage(at, names, "local", "route", "no", MIDNIGHT, None))


async def copied(
    source: DatabaseSettings, target: DatabaseSettings, tell: Callable[[str, int, int], None] = lambda *_: None
) -> Copied:
    engines = engine_of(source), engine_of(target)
    try:
        return await copy_database(*engines, MIDNIGHT, tell)
    finally:
        for engine in engines:
            await engine.close()


async def everything(settings: DatabaseSettings) -> dict[str, list[Any]]:
    database = await Database.open_read_only(settings, FakeClock())
    async with database.read() as connection:
        found = {
            table.name: sorted(map(tuple, (await connection.execute(select(table))).all()))
            for table in schema.metadata.sorted_tables
        }
    await database.close()
    return found


class BrokenOff(Exception):
    pass


def break_off_at(table: str, rows: int) -> Callable[[str, int, int], None]:
    def tell(name: str, done: int, _whole: int) -> None:
        if name == table and done >= rows:
            raise BrokenOff

    return tell


def test_every_table_is_copied_or_is_known_not_to_be() -> None:
    assert {table.name for table in schema.metadata.sorted_tables} == {table.name for table in COPIED} | {
        "meta",  # at the end, with the mark
        "outcomes",  # every database has this program's
        "monitors",  # who works on a server works on that one
        "shards",
        "retry_hints",
        "window_sums",  # made anew from the rollups
    }


async def test_a_copy_holds_the_same_rows_under_the_same_ids_and_goes_on_from_there(
    source: DatabaseSettings, target: DatabaseSettings
) -> None:
    before = await everything(source)
    done = await copied(source, target)
    assert (done.differences, done.resumed) == ([], False)
    assert done.rows == {table.name: len(before[table.name]) for table in COPIED}
    assert all(done.rows.values())
    assert await everything(target) == before
    async with stage(target) as store:
        # ids go on behind those that were copied
        await store.write([observation(9, endpoint="new@acme", finish_reason="another")])
        await store.writer.close_hours(MIDNIGHT + 3 * DAY)
        assert len(await store.rows()) == 202


@pytest.mark.parametrize(("table", "rows"), [("eras", 1), ("raw_observations", 100)])
async def test_a_copy_that_was_broken_off_is_refused_by_a_daemon_and_goes_on_where_it_stopped(
    source: DatabaseSettings, target: DatabaseSettings, table: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_A_BATCH", 20)
    with pytest.raises(BrokenOff):
        await copied(source, target, break_off_at(table, rows))
    with pytest.raises(CopyUnfinished, match="broken off; go on with `monitor db copy`"):
        await Database.open(target, FakeClock())
    first: dict[str, int] = {}
    again = await copied(source, target, lambda name, done, _whole: first.setdefault(name, done) and None)
    assert (again.differences, again.resumed) == ([], True)
    assert first[table] >= rows or table == "eras"  # which are few and may have changed: copied anew
    assert await everything(target) == await everything(source)


@on_a_file
async def test_what_changed_in_either_meanwhile_is_told_and_no_daemon_starts_on_it(
    source: DatabaseSettings, target: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "ROWS_A_BATCH", 20)
    with pytest.raises(BrokenOff):
        await copied(source, target, break_off_at("raw_observations", 100))
    async with stage(source) as store, store.database.write() as connection:
        await connection.exec_driver_sql(
            "UPDATE raw_observations SET latency_us = latency_us + 1 "
            "WHERE due_ms = (SELECT min(due_ms) FROM raw_observations WHERE latency_us IS NOT NULL)"
        )
    again = await copied(source, target)
    (difference,) = again.differences
    assert (difference.table, difference.what) == ("raw_observations", "the sum of latency_us")
    assert f"{difference.source} in the source, {difference.target} in the copy" in str(difference)
    with pytest.raises(CopyUnfinished):
        await Database.open(target, FakeClock())


@on_a_file
async def test_rows_that_are_missing_are_counted(source: DatabaseSettings, target: DatabaseSettings) -> None:
    with pytest.raises(BrokenOff):
        await copied(source, target, break_off_at("raw_observations", 200))
    engine = engine_of(target)
    assert engine.writing is not None
    async with engine.writing.begin() as connection:
        await connection.exec_driver_sql(
            "DELETE FROM raw_observations WHERE due_ms = (SELECT min(due_ms) FROM raw_observations)"
        )
    await engine.close()
    differences = {each.what: each for each in (await copied(source, target)).differences}
    assert (differences["rows"].source, differences["rows"].target) == (201, 200)


@on_a_file
async def test_a_database_with_rows_of_its_own_is_left_alone(
    source: DatabaseSettings, target: DatabaseSettings
) -> None:
    async with stage(target) as store:
        await store.write([observation(1)])
    with pytest.raises(CopyRefused, match="holds rows already, in endpoints; name an empty database"):
        await copied(source, target)
    async with stage(target) as store:
        assert await store.rows() == stored([observation(1)])


@on_a_file
async def test_part_of_another_databases_copy_is_left_alone(
    source: DatabaseSettings, target: DatabaseSettings, tmp_path: Path
) -> None:
    with pytest.raises(BrokenOff):
        await copied(source, target, break_off_at("texts", 0))
    other = DatabaseSettings(f"sqlite:///{tmp_path / 'other.db'}")
    await (await Database.open(other, FakeClock())).close()
    with pytest.raises(CopyRefused, match=r"holds part of a copy of .*; go on with that, or name an empty database"):
        await copied(other, target)


# The command


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["db", "copy", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_says_what_it_copied_and_that_it_agrees(
    source_file: DatabaseSettings,
    postgresql: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"command_{uuid.uuid4().hex}"
    postgresql.create(name, template="template0")
    asyncio.run(postgresql.execute(f"GRANT ALL ON SCHEMA public TO {LOCKED_ROLE}", database=name))
    url = postgresql.url(name, LOCKED_ROLE)
    try:
        code, out, err = run(capsys, source_file.url, url)
        assert code == 1
        assert "password" in err
        monkeypatch.setenv("COPY_PASSWORD", LOCKED_PASSWORD)
        code, out, err = run(capsys, source_file.url, url, "--to-password-env", "COPY_PASSWORD")
        assert (code, "raw_observations              201 rows" in out) == (0, True), (out, err)
        assert "the same rows, sums and lengths in every table" in out
        assert "raw_observations: 201 of 201 rows" in err
        assert LOCKED_PASSWORD not in out + err
        code, out, err = run(capsys, source_file.url, url, "--to-password-env", "COPY_PASSWORD")
        assert code == 1
        assert "holds rows already" in err
    finally:
        postgresql.drop(name)


async def test_a_daemon_at_work_on_the_source_is_named(
    file_settings: DatabaseSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with stage(file_settings):
        code, _, err = await asyncio.to_thread(run, capsys, file_settings.url, f"sqlite:///{tmp_path}/copy.db")
    assert code == 1
    assert "is in use by the daemon with pid" in err
    assert not (tmp_path / "copy.db").exists()


def test_a_copy_into_itself_is_refused(source_file: DatabaseSettings, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, source_file.url, source_file.url)
    assert code == 1
    assert "FROM and TO are the same" in err


def test_a_password_in_an_address_is_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "sqlite:///x.db", "postgresql://u:sesame@h/d")
    assert code == 1
    assert "sesame" not in out + err


@pytest.mark.timed
def test_killed_in_the_middle_the_same_command_makes_it_whole(
    source_file: DatabaseSettings, postgresql: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"killed_{uuid.uuid4().hex}"
    url = postgresql.create(name, template="template0")
    script = (
        "import sys\nfrom monitor.cli import main\nfrom monitor.storage import copying\n"
        "copying.ROWS_A_BATCH = 2\nsys.exit(main(sys.argv[1:]))"
    )
    try:
        with subprocess.Popen(
            [sys.executable, "-c", script, "db", "copy", source_file.url, url], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("daily_rollups"):
                    break
            process.kill()
        there = asyncio.run(postgresql.execute("SELECT count(*) FROM raw_observations", database=name))[0][0]
        assert 0 <= there < 201, "it was over before it could be killed"
        code, out, err = run(capsys, source_file.url, url)
        assert code == 0, (out, err)
        assert asyncio.run(everything(DatabaseSettings(url))) == asyncio.run(everything(source_file))
    finally:
        postgresql.drop(name)
