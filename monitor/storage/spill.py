"""Where observations wait on disk while the database cannot take them: JSON lines, appended and synced batch by batch.

A line is durable once `append` has returned. A line that was cut off by a crash is dropped: it was never reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitor.observation import Observation

log = logging.getLogger(__name__)

_READ_BYTES = 200_000  # some 300 lines, and a few milliseconds of decoding, a chunk
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Observation)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines in their order. `already_shown` says that this process spilled (and reported) them itself."""

    observations: list[Observation]
    unreadable: list[bytes]
    already_shown: bool
    lines: int
    end: int
    file: int  # which of the files that stood under this name


class Spill:
    """The file `path`, which goes away when all of it is replayed. One task at a time replays; any may append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected_path = path.with_name(path.name + ".rejected")
        self.pending = 0  # lines that wait
        self._opened = False
        self._size = 0  # durable bytes; what lies beyond is the rest of a failed append
        self._done = 0  # bytes replayed
        self._earlier = 0  # bytes that an earlier process left behind, or that nobody was shown
        self._file = 0  # counts the files that were taken away from under us
        # Of threads, not of tasks: a process that goes down appends without awaiting.
        self._lock = threading.Lock()

    async def open(self) -> None:
        """Find what an earlier process left. OSError if the file cannot be read."""
        await asyncio.to_thread(self._open)

    async def append(self, observations: Sequence[Observation]) -> None:
        """Add and sync. OSError if they are not durable: then none of them is in the file."""
        if observations:
            await asyncio.to_thread(self.append_now, observations)

    def append_now(self, observations: Sequence[Observation]) -> None:
        """As `append`, blocking: for a process that is going down."""
        data = b"".join(_encoder.encode(observation) + b"\n" for observation in observations)
        if not data:
            return
        # Never append to what could not be read: its end is not known.
        self._open()
        with self._lock:
            self._notice_loss()
            _write_at(self.path, self._size, data)
            self._size += len(data)
            self.pending += len(observations)

    def leave_unshown(self) -> None:
        """What is in the file by now has been reported to nobody, as what an earlier process left."""
        with self._lock:
            self._earlier = self._size

    async def next_chunk(self) -> Chunk | None:
        """The next lines to replay; None if there are none. The same again until `done` is told. OSError if the file
        cannot be read."""
        return await asyncio.to_thread(self._next_chunk) if self.pending else None

    async def done(self, chunk: Chunk) -> None:
        """`chunk` is in the database, or put aside."""
        await asyncio.to_thread(self._finish, chunk)

    async def reject(self, why: str, what: bytes) -> None:
        """Put aside, for a human to look at, what no database takes. Never raises."""
        line = _encoder.encode({"why": _encodable(why), "row": what.decode("utf-8", "replace")}) + b"\n"
        try:
            await asyncio.to_thread(_write_at, self.rejected_path, None, line)
        except OSError as error:
            log.error("observation rejected, and not kept why=%r error=%s row=%s", why, error, line.decode())

    def _open(self) -> None:
        with self._lock:
            if self._opened:
                return
            lines = whole = size = 0
            with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    lines += block.count(b"\n")
                    if (end := block.rfind(b"\n")) >= 0:
                        whole = size + end + 1
                    size += len(block)
            if whole < size:
                log.warning("spill cut off in its last line path=%s bytes=%d", self.path, size - whole)
            self.pending, self._size, self._earlier = lines, whole, whole
            self._opened = True

    def _next_chunk(self) -> Chunk | None:
        with self._lock:
            self._notice_loss()
            if not self.pending:
                return None
            file = self._file
            own = self._done >= self._earlier
            limit = self._size if own else self._earlier
            start = self._done
        with self.path.open("rb") as opened:
            opened.seek(start)
            data = opened.read(min(_READ_BYTES, limit - start))
            if not data.endswith(b"\n"):
                data += opened.readline()
        observations, unreadable = [], []
        lines = data.split(b"\n")[:-1]
        for line in lines:
            try:
                observations.append(_decoder.decode(line))
            except msgspec.DecodeError:
                unreadable.append(line)
        return Chunk(observations, unreadable, own, len(lines), start + len(data), file)

    def _finish(self, chunk: Chunk) -> None:
        with self._lock:
            if chunk.file != self._file:
                return  # its file is gone, and another one begun
            self._done = chunk.end
            self.pending -= chunk.lines
            if self._done >= self._size:
                self.path.unlink(missing_ok=True)
                self._size = self._done = self._earlier = self.pending = 0

    def _notice_loss(self) -> None:
        """Somebody removed, replaced or cut the file that we write to: what it held is gone, and what comes must not be
        written behind it."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._size:
            log.error("spill was taken away while in use path=%s rows_lost=%d", self.path, self.pending)
            with contextlib.suppress(FileNotFoundError):
                self.path.replace(self.path.with_name(self.path.name + ".cut"))
            self._size = self._done = self._earlier = self.pending = 0
            self._file += 1


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _write_at(path: Path, size: int | None, data: bytes) -> None:
    """Append after the first `size` bytes (all, if None), durably or not at all."""
    is_new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        start = os.fstat(fd).st_size if size is None else size
        os.ftruncate(fd, start)
        try:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(fd, view, start + len(data) - len(view)) :]
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, start)
            raise
    finally:
        os.close(fd)
    if is_new:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
