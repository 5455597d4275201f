"""When bytes came, by the kernel's own stamps. aiohttp's private names are used here and in `connecting` alone.

socket (bytes, the kernel's stamp) -> basket while the reader sleeps -> aiohttp's parser -> ReadLog (body bytes, stamps)
                                   -> a transport: ours, or asyncio's -> Handler.data_received -> the same

Where there is no stamp (not Linux, a transport that hides its socket, a wall clock that was just set), the moment of
reading stands in, and the log says that its clock is no longer the kernel's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from aiohttp import http
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from monitor.clock import Clock
from monitor.probing.chunks import LAST_CHUNK, bodies_of, chunks_and_end, whole_chunks
from monitor.probing.collector import Basket, Collector
from monitor.probing.framings.frame import MAX_BODY_BYTES
from monitor.probing.pulse import Pulse
from monitor.probing.stamps import Arrivals, Look, StampedSocket
from monitor.probing.unsealing import Unsealer, underlying

# (bytes, arrival of the last of them, earliest possible arrival of the first of them): monotonic seconds
Arrival = tuple[bytes, float, float]
# the same off the wire, and whether the stamp is the kernel's
_Read = tuple[bytes, float, float, bool]

_END_OF_HEAD = b"\r\n\r\n"


class ReadLog:
    """The reads of one response's body: first as they came off the wire, then as body bytes, until they are taken."""

    __slots__ = (
        "_base", "_body", "_held", "_reads", "_total", "_whole", "_wired", "ended_at", "headers_at", "is_kernel",
        "is_lost", "skips",
    )  # fmt: skip

    def __init__(self, body: StreamReader, headers_at: float, is_kernel: bool, skips: bool) -> None:
        self.headers_at = headers_at
        self.is_kernel = is_kernel  # every stamp so far is the kernel's
        self.is_lost = False  # the connection is gone
        self.ended_at: float | None = None  # the stamp of the read that ended the body; a connection's end has none
        self.skips = skips  # aiohttp's parser stands between two chunks, and would not miss whole ones
        self._body = body
        self._whole: list[Arrival] = []
        self._reads: list[tuple[int, float, float]] = []  # body bytes so far, and the two stamps
        self._base = 0  # body bytes taken
        self._total = 0
        self._wired = 0  # bytes off the wire that went through aiohttp's parser
        self._held = b""

    def is_of(self, body: StreamReader) -> bool:
        return self._body is body

    def skip(self, bodies: Sequence[bytes], arrivals: Arrivals) -> None:
        """Reads that were nothing but whole chunks, and went past aiohttp's parser."""
        self._whole += zip(bodies, arrivals.at, arrivals.since, strict=True)
        self.is_kernel = self.is_kernel and arrivals.is_kernel

    @property
    def may_skip(self) -> bool:
        return self.skips and not self._reads

    def note(self, read: _Read) -> None:
        """After the read, headers and framing included, has gone through aiohttp's parser."""
        total = self._body.total_bytes
        self._wired += len(read[0])
        if total > self._total:
            self._total = total
            self._reads.append((total, read[1], read[2]))
            self.is_kernel = self.is_kernel and read[3]
        if self.ended_at is None and self._body.is_eof():
            self.ended_at = read[1]

    def take(self) -> list[Arrival]:
        """What has come since the last time, in order. Also what came before the connection broke."""
        arrivals, self._whole = self._whole, []
        if not self._reads:
            return arrivals
        # Before the buffer is emptied: then aiohttp may go on, and more is noted.
        reads, self._reads = self._reads, []
        base, self._base = self._base, self._total
        data, self._held = self._held + _drained(self._body), b""
        start = 0
        for total, at, since in reads:
            end = total - base
            arrivals.append((data[start:end], at, since))
            start = end
        return arrivals

    @property
    def is_mere_framing(self) -> bool:
        """Chunks have extensions of any length, and a body that is nothing else would never end."""
        return self._wired - self._total > MAX_BODY_BYTES

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

    While its reader sleeps, reads are set aside unparsed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, pulse: Pulse, collector: Collector) -> None:
        super().__init__(loop)
        self.log: ReadLog | None = None
        self._clock = clock
        self._pulse = pulse
        self._collector = collector
        self._socket: StampedSocket | None = None
        self._descriptor = -1  # of a socket that the collector can read
        self._unsealer: Unsealer | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._basket = Basket()
        self._latest: _Read = (b"", 0.0, 0.0, False)
        self._wired: asyncio.BaseTransport | None = None  # with the socket
        # With aiohttp's there are 29 attributes: CPython 3.11 shares the keys of no more, and one costs 1.3 KB.

    @property
    def sent_at(self) -> float | None:
        """When the first byte of the request under way was written; None if that cannot be told."""
        return None if self._socket is None else self._socket.sent_at

    async def sleep(self, closers: tuple[bytes, ...]) -> None:
        """Return when a read holds one of `closers` or what else may end a body, when much was read, when the
        connection is lost, or on `wake`. A hint may come in two reads and be missed: so have a deadline."""
        self._basket.lull(closers, self.wake)
        self._sleeper = asyncio.get_running_loop().create_future()
        if self._socket is not None and self.log is not None:
            self._collector.watch(self._descriptor, self._socket, self._basket, self._unsealer)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            self._basket.rouse()
            self._collector.unwatch(self._descriptor)
            if self._basket.is_hung_up:
                self._basket.is_hung_up = False
                self._lose(None)

    def wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def parse(self) -> None:
        """Let aiohttp have what was set aside, but for the whole chunks that it would not miss."""
        reads = self._basket.empty()
        log = self.log
        if reads and log is not None and log.may_skip:
            bodies, end = bodies_of([data for data, _, _ in reads])
            arrivals = Arrivals.of(reads[: len(bodies)])
            log.skip(bodies, arrivals)
            del reads[: len(bodies)]
            if end:
                self._feed((end, arrivals.at[-1], arrivals.since[-1], arrivals.is_kernel))
        for data, stamp, look in reads:
            self._parse((data, *look.arrival(stamp)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wired = underlying(transport)
        self._wired = wired if hasattr(wired, "_read_ready_cb") else None
        told = transport.get_extra_info("socket")
        inner = getattr(told, "_sock", told)
        if not isinstance(inner, StampedSocket):
            super().connection_made(transport)
        else:
            # All that aiohttp does, but for TCP_NODELAY, which our sockets have: it asks for their family first.
            self.transport = cast(asyncio.Transport, transport)
            self._socket = inner
            is_plain = transport.get_extra_info("sslcontext") is None
            self._unsealer = None if is_plain else Unsealer.of(transport)
            if is_plain or self._unsealer is not None:
                self._descriptor = inner.fileno()

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
        look = Look(self._pulse, self._clock.monotonic())
        stamp = None if self._socket is None else self._socket.stamp
        if self._sleeper is None or self.log is None:
            self.parse()
            self._parse((data, *look.arrival(stamp)))
        else:
            self._basket.put(data, stamp, look)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._collector.unwatch(self._descriptor)
        self._descriptor = -1
        self._unsealer = None
        # Who hangs up behind the end of a body is heard with that: see docs/decisions.md on company.
        if exc is None and self._sleeper is not None and self._collector.will_wake(self._basket):
            self._basket.is_hung_up = True
        else:
            self._lose(exc)

    def _lose(self, exc: BaseException | None) -> None:
        self.parse()
        while self.log is not None and self._reading_paused:
            self.log.hold()
        if self.log is None and self.transport is None and self._waiter is None and self._closed is None:
            # We closed it, and nobody is left to be told: only the parser, which holds us, is to be let go of.
            self._parser = None
        else:
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
        data, at, since, is_kernel = read
        start = 0
        while self._awaits_head and self.exception() is None:
            end = data.find(_END_OF_HEAD, start) + len(_END_OF_HEAD)
            if end < len(_END_OF_HEAD) or end == len(data):
                break
            # Apart from what is behind it: aiohttp would drop it with that, if that is no HTTP.
            self._feed((data[start:end], at, since, is_kernel))
            start = end
        rest = data[start:]
        # What comes with the head or with the end comes once: of the rest aiohttp has to know how much it is.
        if self.log is not None and self.log.may_skip and (start or rest.endswith(LAST_CHUNK)):
            body, end_of_body = chunks_and_end(rest)
            if body:
                self.log.skip((body,), Arrivals([at], [since], is_kernel))
                rest = end_of_body
        if rest or not data:
            self._feed((rest, at, since, is_kernel))

    @property
    def _awaits_head(self) -> bool:
        """Nothing has come, or interim responses alone."""
        return self.log is None or self.log.is_of(EMPTY_PAYLOAD)

    def _feed(self, read: _Read) -> None:
        super().data_received(read[0])
        body = self._payload
        if body is not None and self._awaits_head:
            skips = not body.is_eof() and self._is_between_chunks(read[0])
            self.log = ReadLog(body, read[1], read[3], skips)
        elif self.log is not None and self.log.skips:
            self.log.skips = not self._reading_paused and bool(whole_chunks(read[0]))
        if self.log is not None:
            self.log.note(read)
            if self.log.is_mere_framing and self.transport is not None:
                self.set_exception(http.HttpProcessingError(message="too much framing"))
                self.transport.close()

    def _is_between_chunks(self, data: bytes) -> bool:
        """Whether `data`, the read that brought the headers, leaves a chunked body where a chunk may begin."""
        message = self._buffer[-1][0][0] if self._buffer else None
        if message is None or not message.chunked or not data.startswith(b"HTTP/") or self._reading_paused:
            return False
        _, end, rest = data.partition(b"\r\n\r\n")
        return bool(end) and (not rest or bool(whole_chunks(rest)))
