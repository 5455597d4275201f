"""When bytes came and went, by the kernel's own stamps. The one place that knows aiohttp's and asyncio's private names.

socket.recv (bytes, the kernel's stamp) -> asyncio's transport -> [TLS] -> Handler.data_received
    -> set aside while the reader sleeps -> aiohttp's parser -> ReadLog (body bytes, stamps)

A stamp is that of the last byte of a read, on CLOCK_REALTIME; it is converted to monotonic seconds as it is read. Where
there is none (not Linux, a transport that hides its socket, a wall clock that was just set), the moment of
`data_received` stands in, and the log says that its clock is no longer the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import StreamReader

from monitor.clock import Clock
from monitor.probing.pulse import Pulse

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# asm-generic/socket.h; Python's socket module does not name it. The old form: 64-bit seconds and nanoseconds.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
# asyncio asks for 256 KiB at a time, for which each read would allocate; streams come in far smaller pieces.
_READ_BYTES = 64 << 10
# A sleeping reader is woken when this much waits for it: far below where aiohttp stops reading from the socket, whose
# bytes would then lie in the kernel and be stamped late.
_WAKE_BYTES = 32 << 10
_WAKE_READS = 1024

# Two processors' clocks may differ: a stamp from the near future is one of just now.
_TOLERANCE_SECONDS = 0.001

_LOOPBACK = "127.0.0.1"
_LAST_CHUNK = b"0\r\n\r\n"
_SHORT = 8

# (bytes, arrival of the last of them, earliest possible arrival of the first of them): monotonic seconds
Arrival = tuple[bytes, float, float]
# the same off the wire, and whether the stamp is the kernel's
_Read = tuple[bytes, float, float, bool]


def has_kernel_stamps() -> bool:
    return sys.platform == "linux" and sys.maxsize > 1 << 32


class StampedSocket(socket.socket):
    """Keeps the kernel's stamp of what was read last, and when the first write since `forget_writes` began."""

    __slots__ = ("clock", "sent_at", "stamp")

    def __init__(self, clock: Clock, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self.clock = clock
        self.stamp: bytes | None = None
        self.sent_at: float | None = None
        self.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data, ancillary, _, _ = self.recvmsg(min(size, _READ_BYTES), _ANCILLARY_BYTES, flags)
        self.stamp = ancillary[0][2] if ancillary else None
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        into = memoryview(buffer)[: nbytes or _READ_BYTES]
        size, ancillary, _, _ = self.recvmsg_into([into], _ANCILLARY_BYTES, flags)
        self.stamp = ancillary[0][2] if ancillary else None
        return size

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        if self.sent_at is None:
            self.sent_at = self.clock.monotonic()
        return super().send(data, flags)

    def sendmsg(self, *arguments: Any) -> int:
        if self.sent_at is None:
            self.sent_at = self.clock.monotonic()
        return super().sendmsg(*arguments)


class ReadLog:
    """The reads of one response's body: first as they came off the wire, then as body bytes, until they are taken."""

    __slots__ = ("_base", "_body", "_held", "_reads", "_total", "headers_at", "is_kernel", "is_lost")

    def __init__(self, body: StreamReader, headers_at: float, is_kernel: bool) -> None:
        self.headers_at = headers_at
        self.is_kernel = is_kernel  # every stamp so far is the kernel's
        self.is_lost = False  # the connection is gone
        self._body = body
        self._reads: list[tuple[int, float, float]] = []  # body bytes so far, and the two stamps
        self._base = 0  # body bytes taken
        self._total = 0
        self._held = b""

    def is_of(self, body: StreamReader) -> bool:
        return self._body is body

    def note(self, read: _Read) -> None:
        """After the read, headers and framing included, has gone through aiohttp's parser."""
        total = self._body.total_bytes
        if total > self._total:
            self._total = total
            self._reads.append((total, read[1], read[2]))
            self.is_kernel = self.is_kernel and read[3]

    def take(self) -> list[Arrival]:
        """What has come since the last time, in order. Also what came before the connection broke."""
        reads, self._reads = self._reads, []
        base, self._base = self._base, self._total
        data = self._held + _drained(self._body) if reads else b""
        self._held = b""
        if len(reads) == 1:
            return [(data, reads[0][1], reads[0][2])]
        arrivals = []
        start = 0
        for total, at, since in reads:
            end = total - base
            arrivals.append((data[start:end], at, since))
            start = end
        return arrivals

    def hold(self) -> None:
        """Take what aiohttp has parsed out of its buffer, and keep it for `take`."""
        self._held += _drained(self._body)

    @property
    def has_untaken(self) -> bool:
        """aiohttp stops parsing while much lies in its buffer, and goes on while that is taken."""
        return bool(self._reads)

    @property
    def is_over(self) -> bool:
        """Nothing more will come: the body has ended, well or badly, or the connection is gone."""
        return self.is_lost or self._body.is_eof() or self._body.exception() is not None


def _drained(body: StreamReader) -> bytes:
    """Everything that lies in aiohttp's buffer. Its own reads would raise what a lost connection left there and keep
    the bytes, and run its parser once more for every piece: 1 ms of a probe of 50 tokens."""
    data = b"".join(body._buffer)
    body._buffer.clear()
    body._size = 0
    body._cursor = body.total_bytes
    if body._http_chunk_splits:
        body._http_chunk_splits.clear()
    if body._protocol._reading_paused:
        # aiohttp goes on with what it had put aside, so that `note` is called.
        body._protocol.resume_reading()
    return data


class Handler(ResponseHandler):
    """aiohttp's protocol of one connection, which also keeps a ReadLog of the response under way.

    While its reader sleeps, reads are set aside unparsed: 50 at once go through the parser in the time of ten."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, pulse: Pulse) -> None:
        super().__init__(loop)
        self.log: ReadLog | None = None
        self._stamps = clock
        self._pulse = pulse
        self._socket: StampedSocket | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._closers: tuple[bytes, ...] = ()
        self._aside: list[_Read] = []
        self._aside_bytes = 0
        self._latest: _Read = (b"", 0.0, 0.0, False)
        self._wired: asyncio.BaseTransport | None = None

    @property
    def sent_at(self) -> float | None:
        """When the first byte of the request under way was written; None if that cannot be told."""
        return None if self._socket is None else self._socket.sent_at

    async def sleep(self, closers: tuple[bytes, ...]) -> None:
        """Return when a read holds one of `closers` or what else may end a body, when much was read, when the
        connection is lost, or on `wake`. A hint may come in two reads and be missed: so have a deadline."""
        self._closers = closers
        self._sleeper = asyncio.get_running_loop().create_future()
        try:
            await self._sleeper
        finally:
            self._sleeper = None

    def wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def parse(self) -> None:
        """Let aiohttp have what was set aside."""
        aside, self._aside = self._aside, []
        self._aside_bytes = 0
        for read in aside:
            self._parse(read)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wired = transport
        inner = getattr(transport.get_extra_info("socket"), "_sock", None)
        self._socket = inner if isinstance(inner, StampedSocket) else None

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls this before it writes a request."""
        self.log = None
        if self._socket is not None:
            self._socket.sent_at = None
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp's parser goes on with what it had put aside of the read before
            self._parse((b"", *self._latest[1:]))
            return
        read = (data, *self._arrival())
        if self._sleeper is None or self.log is None:
            self._parse(read)
            return
        self._aside.append(read)
        self._aside_bytes += len(data)
        # A lone end of a chunk, or the end of the last one.
        if (
            len(data) <= _SHORT
            or data.endswith(_LAST_CHUNK)
            or self._aside_bytes > _WAKE_BYTES
            or len(self._aside) > _WAKE_READS
        ):
            self.wake()
        else:
            for closer in self._closers:
                if closer in data:
                    self.wake()
                    break

    def connection_lost(self, exc: BaseException | None) -> None:
        self.parse()
        while self.log is not None and self._reading_paused:
            self.log.hold()
        super().connection_lost(exc)
        if self._wired is not None:
            # A bound method of its own, by which the transport would live until the next full collection.
            vars(self._wired).pop("_read_ready_cb", None)
            self._wired = None
        if self.log is not None:
            self.log.is_lost = True
        self.wake()

    def _parse(self, read: _Read) -> None:
        self._latest = read
        super().data_received(read[0])
        body = self._payload
        if body is not None and (self.log is None or not self.log.is_of(body)):
            self.log = ReadLog(body, read[1], read[3])
        if self.log is not None:
            self.log.note(read)

    def _arrival(self) -> tuple[float, float, bool]:
        now = self._stamps.monotonic()
        before_last = self._pulse.before_last
        is_kernel = False
        at = now
        if self._socket is not None and self._socket.stamp is not None:
            offset = self._pulse.offset(now)
            if offset is not None:
                seconds, nanoseconds = _TIMESPEC.unpack(self._socket.stamp)
                stamp = seconds - offset + nanoseconds * 1e-9
                # Older than the loop's last look, or from the future: then the clock was set after all.
                if before_last - _TOLERANCE_SECONDS <= stamp <= now + _TOLERANCE_SECONDS:
                    at, is_kernel = min(stamp, now), True
        return at, (before_last if self._pulse.is_late(now) else at), is_kernel


def stamping_connector(clock: Clock, pulse: Pulse, **options: Any) -> aiohttp.TCPConnector:
    """A connector whose sockets and protocols are the ones above. Needs the running loop."""
    factory: Callable[[Any], socket.socket] | None = None
    if has_kernel_stamps():

        def make_socket(address: Any) -> socket.socket:
            return StampedSocket(clock, address[0], address[1], address[2])

        factory = make_socket
    connector = aiohttp.TCPConnector(socket_factory=factory, **options)
    if not isinstance(getattr(connector, "_factory", None), functools.partial):
        raise RuntimeError(f"aiohttp {aiohttp.__version__} makes its protocols elsewhere: install aiohttp>=3.14,<3.15")
    handlers = functools.partial(Handler, asyncio.get_running_loop(), clock, pulse)
    connector._factory = cast("functools.partial[ResponseHandler]", handlers)
    return connector


class StampKeeper:
    """While it is open the kernel stamps what arrives; it would begin to only some time after the first connection."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    async def open(self, clock: Clock) -> None:
        """Return once the kernel does, or after a quarter of a second; at once where it never will."""
        if not has_kernel_stamps():
            return
        loop = asyncio.get_running_loop()
        ear = StampedSocket(clock, socket.AF_INET, socket.SOCK_STREAM, 0)
        ear.setblocking(False)
        self._sockets.append(ear)
        with contextlib.suppress(OSError), socket.create_server((_LOOPBACK, 0)) as listener:  # a host without loopback
            listener.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await loop.sock_connect(ear, listener.getsockname())
            mouth, _ = await accepting
            self._sockets.append(mouth)
            for _ in range(250):
                await loop.sock_sendall(mouth, b"x")
                await loop.sock_recv(ear, 1)
                if ear.stamp is not None:
                    return
                await asyncio.sleep(0.001)

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().close()
