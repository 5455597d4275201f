"""One process per file: an advisory lock on `<file>.lock`, with its holder's name written inside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

import msgspec

from monitor.clock import utc_text
from monitor.storage.errors import DatabaseHeld, explained


class Holder(msgspec.Struct, frozen=True):
    """Who holds a database, as written in its lock file."""

    owner: str  # "daemon", or the command
    pid: int
    host: str
    since: str
    listen: str = ""

    def __str__(self) -> str:
        where = f", listening on {self.listen}" if self.listen else ""
        who = f"the {self.owner} with pid {self.pid} on {self.host}, since {self.since}" if self.pid else self.owner
        return who + where


_ANOTHER_DATABASE = "stop it first, or give this one a `database:` of its own"


class FileLock:
    """An exclusive lock that the kernel lifts when its process dies; the file itself stays."""

    def __init__(self, locked: Path, what: str = "database", remedy: str = _ANOTHER_DATABASE) -> None:
        self.path = locked.with_name(locked.name + ".lock")
        self._locked = locked
        self._what = what
        self._remedy = remedy
        self._fd: int | None = None

    def acquire(self, owner: str, now: float, listen: str = "") -> None:
        """DatabaseHeld, naming the holder, if another process (or another Database of this one) has it."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise explained(error, self._locked) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise DatabaseHeld(
                f"{self._what} {self._locked} is in use by {_written(self.path) or 'another process'}; {self._remedy}"
            ) from None
        self._fd = fd
        holder = Holder(owner, os.getpid(), socket.gethostname(), utc_text(now, "seconds"), listen)
        os.ftruncate(fd, 0)
        # A full disk must not stand in the way: the lock holds without its label.
        with contextlib.suppress(OSError):
            os.write(fd, msgspec.json.encode(holder) + b"\n")

    def release(self) -> None:
        # Not unlinked: a process that has opened the old file would then hold a lock on nothing.
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def read_holder(database: Path) -> Holder | None:
    """Who holds the lock of `database`; None if nobody does, whatever a dead process left written there."""
    path = database.with_name(database.name + ".lock")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(path) or Holder("another process", 0, socket.gethostname(), "")
    finally:
        os.close(fd)
    return None


def _written(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
