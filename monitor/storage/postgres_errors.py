"""PostgreSQL's errors by their SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

from __future__ import annotations

from monitor.storage.errors import (
    DatabaseMissing,
    DatabaseNotWritable,
    DatabaseRefused,
    DatabaseUnavailable,
    DiskFull,
    NotADatabase,
    StorageError,
    sqlstate_of,
)

# SQLSTATE or its first characters -> what it amounts to, and what to do.
_KNOWN: tuple[tuple[str, type[StorageError], str], ...] = (
    ("28P01", DatabaseRefused, "check `password:` under `database:`, and the role's password on the server"),
    ("28", DatabaseRefused, "check the user in the URL, and the server's pg_hba.conf"),
    ("3D000", DatabaseMissing, "create it on the server: createdb NAME --owner USER"),
    ("3F000", DatabaseMissing, "create the schema, or take `search_path` out of the URL"),
    ("42501", DatabaseNotWritable, "let the user of the URL own the database, or grant it what is missing"),
    ("25006", DatabaseNotWritable, "the server is a standby or read-only: name the primary in the URL"),
    ("53100", DiskFull, "the server's disk is full: free some space there, or set a shorter `retention:`"),
    ("53300", DatabaseUnavailable, "raise the server's max_connections, or the role's CONNECTION LIMIT"),
    ("53", DatabaseUnavailable, "the server is short of it"),
    ("57P0", DatabaseUnavailable, "the server goes down or comes up"),
    ("57014", DatabaseUnavailable, "the server gave up on a statement: it is slow, or statement_timeout is short"),
    ("25P03", DatabaseUnavailable, "this process stood still in the middle of a transaction"),
    ("40", DatabaseUnavailable, "two monitors got in each other's way"),
    ("55P03", DatabaseUnavailable, "another session holds the table"),
    ("08", DatabaseUnavailable, "the connection was lost"),
    ("XX001", NotADatabase, "its files are damaged: look into the server's log"),
    ("XX002", NotADatabase, "its files are damaged: look into the server's log"),
)  # fmt: skip


def explained(error: BaseException, name: str) -> StorageError:
    """The error of the tree that `error`, met while working on the database `name`, amounts to."""
    if isinstance(error, StorageError):
        return error
    said = str(getattr(error, "orig", None) or error) or type(error).__name__
    state = sqlstate_of(error)
    if state is not None:
        for start, kind, remedy in _KNOWN:
            if state.startswith(start):
                return kind(f"database {name}: {said}; {remedy}")
        return DatabaseUnavailable(f"database {name}: {said} (SQLSTATE {state})")
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "orig", None), TimeoutError):
        return DatabaseUnavailable(f"database {name}: no answer in time; is the server reachable and not overloaded?")
    if isinstance(error, OSError):
        return DatabaseUnavailable(
            f"database {name}: the server cannot be reached: {said}; is it running, and are host and port right?"
        )
    return DatabaseUnavailable(f"database {name}: the connection was lost: {said}")
