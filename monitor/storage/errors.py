"""What can go wrong with the database.

StorageError
├── DatabaseUrlError       `database:` is not an address that can be opened
├── DatabaseHeld           another process works on this file; it is named
├── DatabaseMissing        no such file, directory, or database on the server
├── DatabaseRefused        the server does not let us in: password, user
├── DatabaseNotWritable    permissions, a read-only file system, or a standby
├── NotADatabase           the file is something else
├── DiskFull
├── SchemaError
│   ├── SchemaTooNew       written by a newer monitor
│   ├── SchemaTooOld       opened read-only before its upgrade
│   ├── MigrationsMissing  the migrations directory is not where the package expects it
│   └── UpgradeFailed      an upgrade was rolled back; the database is as it was
├── DatabaseUnavailable    locked, gone or failing at this moment: the same call may succeed later
├── BackupRefused          the target exists or cannot be written
├── CopyRefused            the target holds rows of its own
├── CopyUnfinished         the database is a copy that was broken off
└── WriterClosed           a job was handed in after the writer had stopped
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout


class StorageError(Exception):
    """The text says where, what and what to do."""


class DatabaseUrlError(StorageError):
    pass


class DatabaseHeld(StorageError):
    pass


class DatabaseMissing(StorageError):
    pass


class DatabaseRefused(StorageError):
    pass


class DatabaseNotWritable(StorageError):
    pass


class NotADatabase(StorageError):
    pass


class DiskFull(StorageError):
    pass


class SchemaError(StorageError):
    pass


class SchemaTooNew(SchemaError):
    pass


class SchemaTooOld(SchemaError):
    pass


class MigrationsMissing(SchemaError):
    pass


class UpgradeFailed(SchemaError):
    pass


class DatabaseUnavailable(StorageError):
    pass


class BackupRefused(StorageError):
    pass


class CopyRefused(StorageError):
    pass


class CopyUnfinished(StorageError):
    pass


class WriterClosed(StorageError):
    pass


def sqlstate_of(error: BaseException) -> str | None:
    """PostgreSQL's five characters, if `error` came from such a server."""
    found = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return found if isinstance(found, str) else None


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions got in each other's way: the same again at once may well succeed."""
    states = {sqlstate_of(one) for one in (error, error.__cause__) if one is not None}
    return not states.isdisjoint({"40001", "40P01"})


def is_outage(error: BaseException) -> bool:
    """True if the database failed, so that trying the same again later makes sense; False if the data is at fault."""
    if (state := sqlstate_of(error)) is not None:
        # Data and integrity; but 23514 is a partition that somebody has dropped, which is made again.
        return not state.startswith(("22", "23")) or state == "23514"
    if isinstance(error, DBAPIError):
        # sqlite3 raises the bare DatabaseError for a malformed file, OperationalError for locked, full and I/O.
        return (
            error.connection_invalidated
            or isinstance(error.orig, (sqlite3.OperationalError, sqlite3.InterfaceError, OSError))
            or type(error.orig) is sqlite3.DatabaseError
            or _is_lost_connection(error.orig)
        )
    outages = (DatabaseUnavailable, DiskFull, DatabaseNotWritable, DatabaseMissing, DatabaseRefused, NotADatabase)
    return isinstance(error, (OSError, PoolTimeout, sqlite3.OperationalError, *outages)) or _is_lost_connection(error)


def _is_lost_connection(error: BaseException | None) -> bool:
    """asyncpg's own errors, without a SQLSTATE: of the connection, unless a value was none that it can send."""
    if error is None or isinstance(error, ValueError) or isinstance(error.__cause__, ValueError):
        return False
    return any("asyncpg" in kind.__module__ for kind in type(error).__mro__)


def explained(error: BaseException, path: Path) -> StorageError:
    """The error of this tree that `error`, met while working on the SQLite file `path`, amounts to."""
    if isinstance(error, StorageError):
        return error
    text = str(getattr(error, "orig", None) or error)
    code = getattr(error, "errno", None)
    if "disk is full" in text or code in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"database {path}: the disk is full; free some space or set a shorter `retention:`")
    if "not a database" in text or "malformed" in text:
        return NotADatabase(f"database {path}: not a SQLite database, or a damaged one: {text}")
    if "readonly" in text or "read-only" in text or code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DatabaseNotWritable(f"database {path}: not writable: {text}; check who owns the file and its directory")
    if "unable to open" in text or code == errno.ENOENT:
        return DatabaseMissing(f"database {path}: cannot be opened: {text}")
    return DatabaseUnavailable(f"database {path}: {text}")
