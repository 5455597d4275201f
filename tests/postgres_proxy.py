"""A proxy before a PostgreSQL server, which can do to its clients whatever a network or a failing server does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ports import free_port

_COMMIT = b"COMMIT;\x00"
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Proxy:
    """Forwards, unless told otherwise. `passed` counts the bytes of both directions since it was set to 0."""

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self.flow = asyncio.Event()  # while it is not set, nothing is forwarded and nobody is told
        self.flow.set()
        self.refusal: tuple[str, str] | None = None  # a SQLSTATE and its message for everybody who comes
        self.cut_at_commit = ""  # "before" or "after" it reaches the server; once
        self.late_commit: asyncio.Event | None = None  # the next one reaches the server when this is set, client or not
        self.cut_after: int | None = None  # bytes; once
        self.passed = 0
        self.cuts = 0
        self.clients = 0  # that came
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._late: set[asyncio.Task[None]] = set()
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Refuse who comes, and cut off who is there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection, at both ends."""
        for writers in self._links.values():
            for writer in writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.clients += 1
        writers = self._links[task] = [writer]
        try:
            if self.refusal is not None:
                if await reader.read(8192) == _SSL_REQUEST:
                    writer.write(b"N")
                    await reader.read(8192)
                writer.write(_error(*self.refusal))
                await writer.drain()
                return
            await self.flow.wait()
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            up = asyncio.create_task(self._pump(reader, server_writer, is_client=True))
            down = asyncio.create_task(self._pump(server_reader, writer, is_client=False))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                if up in self._late:
                    await up
            finally:
                up.cancel()
                down.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.close()
            del self._links[task]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.flow.wait()
                if is_client and self.late_commit is not None and _COMMIT in data:
                    task, when = asyncio.current_task(), self.late_commit
                    assert task is not None
                    self._late.add(task)
                    self.late_commit = None
                    await when.wait()
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(0.05)
                    return
                if is_client and self.cut_at_commit and _COMMIT in data:
                    where, self.cut_at_commit = self.cut_at_commit, ""
                    self.cuts += 1
                    if where == "after":
                        await self._let_it_commit(writer, data)
                    self.cut()
                    return
                if self.cut_after is not None and self.passed + len(data) >= self.cut_after:
                    writer.write(data[: self.cut_after - self.passed])
                    with contextlib.suppress(OSError):
                        await writer.drain()
                    self.cut_after = None
                    self.cuts += 1
                    await asyncio.sleep(0.01)  # what was let through arrives
                    self.cut()
                    return
                self.passed += len(data)
                writer.write(data)
                await writer.drain()

    async def _let_it_commit(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """The server has it and does it, and nobody sees its answer."""
        for writers in self._links.values():
            if writer in writers:
                writers[0].transport.abort()  # the client's end, before the answer is there
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.05)


def _error(state: str, message: str) -> bytes:
    """An ErrorResponse (https://www.postgresql.org/docs/current/protocol-error-fields.html)."""
    fields = b"".join(
        code + text.encode() + b"\x00"
        for code, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", state), (b"M", message))
    )
    body = fields + b"\x00"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


@asynccontextmanager
async def proxy_to(port: int, host: str = "127.0.0.1") -> AsyncIterator[Proxy]:
    proxy = Proxy(host, port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
