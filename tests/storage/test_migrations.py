"""Migrations: up, down and up again on data, agreement with the tables in code, and upgrades that fail half-way."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from storage_samples import HOUR, MIDNIGHT, observation, on_a_file, stage, stored

from monitor.clock import FakeClock
from monitor.settings import DatabaseSettings
from monitor.storage import migrate, schema
from monitor.storage.database import Database, engine_of
from monitor.storage.errors import DatabaseHeld, UpgradeFailed
from monitor.storage.own_outages import record_own_outage
from monitor.storage.postgres_schema import in_comparison

ROOT = Path(migrate.__file__).resolve().parents[2]
LATER = f"{int(schema.HEAD) + 1:04}"


def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


async def migrated(*arguments: str) -> str:
    """What the command says; in this process, which has the program loaded, and off its loop."""
    said = io.StringIO()
    configuration = Config(str(ROOT / "alembic.ini"), stdout=said, cmd_opts=Namespace(x=[arguments[0]]))
    work = getattr(command, arguments[1])
    await asyncio.to_thread(work, configuration, *arguments[2:])
    return said.getvalue()


def later_revision(directory: Path, body: str) -> Path:
    """A copy of the migrations with one more."""
    copy = directory / "migrations"
    shutil.copytree(migrate.migrations_directory(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "versions" / f"{LATER}_later.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f'revision = "{LATER}"\ndown_revision = "{schema.HEAD}"\nbranch_labels = None\ndepends_on = None\n\n'
        f"def upgrade():\n{body}\n\ndef downgrade():\n    pass\n"
    )
    return copy


async def upgraded(settings: DatabaseSettings, directory: Path) -> Path | None:
    engine = engine_of(settings)
    try:
        return await engine.upgrade(MIDNIGHT, directory)
    finally:
        await engine.close()


def tables_of(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return sorted(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE sql IS NOT NULL"))


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    directory = ScriptDirectory(str(migrate.migrations_directory()))
    assert directory.get_current_head() == schema.HEAD


async def test_the_migrated_schema_is_the_one_in_code(settings: DatabaseSettings, clock: FakeClock) -> None:
    database = await Database.open(settings, clock)
    async with database.read() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_type": True, "include_object": in_comparison}),
                schema.metadata,
            )
        )
        if not database.is_shared:
            made = "SELECT sql FROM sqlite_master WHERE name = 'raw_observations'"
            assert "WITHOUT ROWID" in str((await connection.exec_driver_sql(made)).scalar())
    await database.close()
    assert differences == []


@on_a_file
async def test_up_down_and_up_again_on_data(settings: DatabaseSettings, clock: FakeClock) -> None:
    async with stage(settings) as store:
        await store.write([observation(number) for number in range(200)])
        await store.writer.close_hours(MIDNIGHT + 2 * HOUR)
        path = store.database.path
    before = tables_of(path)
    there = f"database={settings.url}"
    await migrated(there, "downgrade", "base")
    assert tables_of(path) == ["alembic_version"]
    await migrated(there, "upgrade", "head")
    assert "No new upgrade operations detected" in await migrated(there, "check")
    assert tables_of(path) == before
    async with stage(settings) as store:
        await store.write([observation(7)])
        assert await store.rows() == stored([observation(7)])


@on_a_file
async def test_the_first_schemas_data_is_kept_on_the_way_up_to_our_own_outages_and_down_again(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    rows = [observation(number) for number in range(200)]
    async with stage(settings) as store:
        await store.write(rows)
        path = store.database.path
    there = f"database={settings.url}"
    await migrated(there, "downgrade", "0001")
    assert "own_outages" not in tables_of(path)
    async with stage(settings) as store:  # a daemon of today opens a file of yesterday
        assert await store.rows() == stored(rows)
        names = store.database.names
        await store.writer.submit(
            lambda connection: record_own_outage(connection, names, "local", "route", "no route", MIDNIGHT, None)
        )
        (told,) = await store.history.own_outages()
        assert (told.endpoint, told.state, told.ended_at) == (None, "self_suspect", None)
    assert list(path.parent.glob("monitor.db.0001.*.backup"))
    await migrated(there, "downgrade", "0001")
    await migrated(there, "upgrade", "head")
    async with stage(settings) as store:
        assert await store.rows() == stored(rows)
        assert await store.history.own_outages() == []


@on_a_file
async def test_a_database_that_was_migrated_down_to_nothing_is_migrated_up_at_the_next_start(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    await (await Database.open(settings, clock)).close()
    assert alembic("-x", f"database={settings.url}", "downgrade", "base").returncode == 0
    database = await Database.open(settings, clock)
    await database.close()
    assert "raw_observations" in tables_of(database.path)


@on_a_file
async def test_the_alembic_command_keeps_its_hands_off_a_running_daemons_database(
    settings: DatabaseSettings, clock: FakeClock
) -> None:
    database = await Database.open(settings, clock)
    done = alembic("-x", f"database={settings.url}", "downgrade", "base")
    assert done.returncode != 0
    assert f"is in use by the daemon with pid {os.getpid()}" in done.stderr
    assert DatabaseHeld.__name__ in done.stderr
    assert "raw_observations" in tables_of(database.path)
    await database.close()


@on_a_file
async def test_an_upgrade_at_start_keeps_the_data_and_a_copy_from_before(
    settings: DatabaseSettings, clock: FakeClock, tmp_path: Path
) -> None:
    rows = [observation(number) for number in range(100)]
    async with stage(settings) as store:
        await store.write(rows)
        path = store.database.path
    directory = later_revision(
        tmp_path,
        "    with op.batch_alter_table('endpoints') as batch:\n"
        "        batch.alter_column('name', type_=sa.String(400), existing_type=sa.Text())\n",
    )
    backup = await upgraded(settings, directory)
    assert backup == path.with_name(f"monitor.db.{schema.HEAD}.20231115T000000Z.backup")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (LATER,)
        # the rebuild of a parent table took none of its children with it
        assert connection.execute("SELECT count(*) FROM observations").fetchone() == (100,)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    async with stage(DatabaseSettings(f"sqlite:///{backup}")) as old:
        assert await old.rows() == stored(rows)


@on_a_file
async def test_an_upgrade_that_fails_half_way_leaves_everything_as_it_was(
    settings: DatabaseSettings, clock: FakeClock, tmp_path: Path
) -> None:
    async with stage(settings) as store:
        await store.write([observation(1)])
        path = store.database.path
    before = tables_of(path)
    directory = later_revision(
        tmp_path,
        "    op.create_table('half', sa.Column('id', sa.Integer, primary_key=True))\n"
        "    op.execute('DELETE FROM raw_observations')\n"
        "    raise ValueError('no further')\n",
    )
    with pytest.raises(UpgradeFailed, match="failed and was undone: no further; a copy from before is at"):
        await upgraded(settings, directory)
    assert tables_of(path) == before
    async with stage(settings) as store:
        assert len(await store.rows()) == 1


@on_a_file
async def test_an_upgrade_that_orphans_rows_is_undone(
    settings: DatabaseSettings, clock: FakeClock, tmp_path: Path
) -> None:
    async with stage(settings) as store:
        await store.write([observation(1)])
    directory = later_revision(tmp_path, "    op.execute('DELETE FROM endpoints')")
    with pytest.raises(UpgradeFailed, match="1 rows refer to rows that are gone"):
        await upgraded(settings, directory)
    async with stage(settings) as store:
        assert len(await store.rows()) == 1
