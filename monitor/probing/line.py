"""A connection without TLS, as its protocol sees it: what a probe needs of asyncio's transport, and no more.

asyncio's own asks the system for names that nobody reads and tells of itself in three callbacks: 15 us of a probe."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from monitor.probing.stamps import READ_BYTES


class Line(asyncio.Transport):
    """Over a connected socket that does not block, which it closes at its end. It is read from at once. `close` waits
    for nothing: what has not been sent by then was for nobody. Use from one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connected: socket.socket, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._socket = connected
        self._descriptor = connected.fileno()
        self._protocol: asyncio.Protocol | None = protocol
        self._unsent = b""
        self._is_closing = False
        self._is_reading = True
        loop.add_reader(self._descriptor, self._read)
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else default

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        if self.is_reading():
            self._is_reading = False
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.add_reader(self._descriptor, self._read)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing:
            return
        if self._unsent:
            self._unsent += data
        elif unsent := self._sent(bytes(data)):
            self._unsent = unsent
            self._loop.add_writer(self._descriptor, self._write_on)

    def close(self) -> None:
        self._end(None)

    abort = close

    def _read(self) -> None:
        protocol = self._protocol
        assert protocol is not None
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        try:
            if data:
                protocol.data_received(data)
                return
            protocol.eof_received()
        except Exception as error:
            told = {"message": "a protocol failed", "exception": error, "transport": self, "protocol": protocol}
            self._loop.call_exception_handler(told)
            self._end(error)
        else:
            self._end(None)

    def _write_on(self) -> None:
        self._unsent = self._sent(self._unsent)
        if not self._unsent and not self._is_closing:
            self._loop.remove_writer(self._descriptor)

    def _sent(self, data: bytes) -> bytes:
        """What is left of it. Nothing if the connection is lost."""
        try:
            return data[self._socket.send(data) :]
        except (BlockingIOError, InterruptedError):
            return data
        except OSError as error:
            self._end(error)
            return b""

    def _end(self, error: Exception | None) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if self._is_reading:
            self._loop.remove_reader(self._descriptor)
        if self._unsent:
            self._loop.remove_writer(self._descriptor)
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        try:
            protocol.connection_lost(error)
        finally:
            self._socket.close()
