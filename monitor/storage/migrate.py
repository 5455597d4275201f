"""Bringing a database to this program's schema: alembic, in process, all or nothing, with a copy taken before."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

import monitor
from monitor.clock import utc_text
from monitor.storage import sqlite
from monitor.storage.errors import (
    DatabaseUnavailable,
    MigrationsMissing,
    NotADatabase,
    SchemaTooNew,
    SchemaTooOld,
    StorageError,
    UpgradeFailed,
    explained,
    is_outage,
)
from monitor.storage.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)


def migrations_directory() -> Path:
    """`migrations/`: beside the package in a checkout, inside it when installed."""
    package = Path(monitor.__file__).resolve().parent
    for place in (package.parent / "migrations", package / "migrations"):
        if (place / "env.py").is_file():
            return place
    raise MigrationsMissing(
        f"no migrations directory in {package.parent} or {package}: the schema cannot be made or upgraded; "
        "install the package again, or run from a checkout"
    )


async def revision_of(engine: AsyncEngine, path: Path) -> str | None:
    """The schema's revision; None for a new file. NotADatabase if the tables are somebody else's."""
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_revision, path)
    except StorageError:
        raise
    except Exception as error:
        raise explained(error, path) from error


def _revision(connection: Connection, path: Path) -> str | None:
    tables = inspect(connection).get_table_names()
    if not set(tables) - {"alembic_version"}:
        return None
    if "alembic_version" not in tables or "raw_observations" not in tables:
        raise NotADatabase(
            f"database {path}: a SQLite database, but not one of this monitor's: it has a table {min(tables)}; "
            "name another file"
        )
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


def check_readable(revision: str | None, path: Path) -> None:
    """Raise unless a read-only opener can work with this revision."""
    if revision == HEAD:
        return
    if revision is not None and revision not in _known(migrations_directory()):
        raise _too_new(revision, path)
    raise SchemaTooOld(
        f"database {path}: its schema ({revision or 'none yet'}) is older than this program's ({HEAD}); "
        "start the daemon, or run: monitor db upgrade"
    )


async def upgrade(
    path: Path, revision: str | None, now: float, busy_timeout_ms: int, directory: Path | None = None
) -> Path | None:
    """Bring the schema from `revision` (None for a new file) to the newest, in one transaction. Returns the copy that
    was taken of an older schema. Every failure leaves the database as it was."""
    directory = directory or migrations_directory()
    backup = None
    if revision is not None:
        if revision not in _known(directory):
            raise _too_new(revision, path)
        stamp = utc_text(now, "seconds").translate(str.maketrans("", "", "-:"))
        backup = path.with_name(f"{path.name}.{revision}.{stamp}.backup")
        await asyncio.to_thread(sqlite.copy, path, backup)
        log.info("database upgrade from=%s backup=%s", revision, backup)
    engine = sqlite.write_engine(path, busy_timeout_ms, migrating=True)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run, directory)
    except StorageError:
        raise
    except Exception as error:
        told = explained(error, path)
        # What remains of SQLite's own errors is mostly the migration's SQL.
        if is_outage(error) and (type(told) is not DatabaseUnavailable or "locked" in str(error)):
            raise told from error
        raise UpgradeFailed(
            f"database {path}: the upgrade from {revision or 'an empty file'} failed and was undone: {error}"
            + (f"; a copy from before is at {backup}" if backup else "")
        ) from error
    finally:
        await engine.dispose()
    return backup


def _run(connection: Connection, directory: Path) -> None:
    from alembic import command

    config = _config(directory)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config(directory: Path) -> Config:
    # Imported late: alembic costs 0.2 s, and a database that is up to date needs none of it.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(directory).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _known(directory: Path) -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config(directory)).walk_revisions()}


def _too_new(revision: str, path: Path) -> SchemaTooNew:
    return SchemaTooNew(
        f"database {path}: its schema ({revision}) was written by a newer monitor than this one ({HEAD}); "
        "install that version again, or name another file"
    )
