"""Bringing a database to this program's schema: alembic, in process, all or nothing, with a copy taken before."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

import monitor
from monitor.storage.engine import Engine
from monitor.storage.errors import (
    DatabaseUnavailable,
    MigrationsMissing,
    NotADatabase,
    SchemaTooNew,
    SchemaTooOld,
    StorageError,
    UpgradeFailed,
    is_outage,
    sqlstate_of,
)
from monitor.storage.schema import HEAD
from monitor.tasks import to_its_end

if TYPE_CHECKING:
    from alembic.config import Config


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


async def revision_of(engine: Engine, through: AsyncEngine) -> str | None:
    """The schema's revision; None for a new database. NotADatabase if the tables are somebody else's."""
    try:
        async with through.connect() as connection:
            return await connection.run_sync(_revision, engine.name)
    except StorageError:
        raise
    except Exception as error:
        raise engine.explained(error) from error


def _revision(connection: Connection, name: str) -> str | None:
    tables = inspect(connection).get_table_names()
    if not set(tables) - {"alembic_version"}:
        return None
    if "alembic_version" not in tables or "raw_observations" not in tables:
        raise NotADatabase(
            f"database {name}: a database, but not one of this monitor's: it has a table {min(tables)}; name another"
        )
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


def check_readable(revision: str | None, name: str) -> None:
    """Raise unless a read-only opener can work with this revision."""
    if revision == HEAD:
        return
    if revision is not None and revision not in _known(migrations_directory()):
        raise _too_new(revision, name)
    raise SchemaTooOld(
        f"database {name}: its schema ({revision or 'none yet'}) is older than this program's ({HEAD}); "
        "start the daemon, or run: monitor db upgrade"
    )


def check_known(revision: str, name: str, directory: Path | None = None) -> None:
    """SchemaTooNew if no migration of `directory` makes this revision."""
    if revision not in _known(directory or migrations_directory()):
        raise _too_new(revision, name)


async def upgrade(engine: Engine, directory: Path | None = None, backup: Path | None = None) -> None:
    """Bring the schema to the newest, in one transaction; where several processes want to, one does it
    and the others find it done. Every failure leaves the database as it was; `backup` is a copy from before."""
    directory = directory or migrations_directory()
    revision = None
    migrating = engine.migrating()
    try:
        async with migrating.begin() as connection:
            await engine.lock_schema(connection)
            revision = await connection.run_sync(_revision, engine.name)
            if revision is not None:
                check_known(revision, engine.name, directory)
            await connection.run_sync(_run, directory)
    except StorageError:
        raise
    except Exception as error:
        told = engine.explained(error)
        if is_outage(error) and not (type(told) is DatabaseUnavailable and _is_sql_at_fault(error)):
            raise told from error
        raise UpgradeFailed(
            f"database {engine.name}: the upgrade from {revision or 'an empty one'} failed and was undone: {error}"
            + (f"; a copy from before is at {backup}" if backup else "")
        ) from error
    finally:
        await to_its_end(migrating.dispose())


def _is_sql_at_fault(error: BaseException) -> bool:
    """Whether trying again would fail again: what remains of SQLite's own errors is mostly the migration's SQL."""
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(("0A", "2B", "42"))
    return isinstance(getattr(error, "orig", error), sqlite3.Error) and "locked" not in str(error)


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


def _too_new(revision: str, name: str) -> SchemaTooNew:
    return SchemaTooNew(
        f"database {name}: its schema ({revision}) was written by a newer monitor than this one ({HEAD}); "
        "install that version again, or name another database"
    )
