"""Sockets, TLS and HTTP for probes, over aiohttp. When bytes came is `arrivals`' affair.

LinkError           the exchange failed below HTTP, or before a status line; carries its outcome class
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from itertools import chain

import aiohttp
from aiohttp import http
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from monitor import threads
from monitor.clock import Clock
from monitor.lookout import Lookout
from monitor.observation import ClockKind
from monitor.outcome import Outcome
from monitor.probing.arrivals import Arrival, Handler
from monitor.probing.classifier import Ending
from monitor.probing.collector import Collector
from monitor.probing.connecting import Connector
from monitor.probing.dialects.dialect import ProbeRequest
from monitor.probing.pulse import Pulse
from monitor.probing.request_head import Target
from monitor.probing.resolver import Resolver
from monitor.probing.stamps import READ_BYTES, StampKeeper
from monitor.probing.unsealing import Engine, allot
from monitor.settings import ConnectionMode

MAX_HEADER_BYTES = 64 << 10
# aiohttp counts headers and not their bytes; the real cap is checked on what it let through.
_MAX_HEADERS = 256
_STATUS_LINE_BYTES = 32
# aiohttp stops reading from a socket at twice this: what one hostile body can hold of our memory.
_READ_BUFFER = 64 << 10
# A pooled connection has to outlive the pause between two probes of an endpoint; servers close theirs sooner.
_KEEPALIVE_SECONDS = 300.0
_ANYTHING = (b"",)
# What only this machine can run out of: descriptors (which libc's resolver may call EBUSY), memory, ports, threads.
_EXHAUSTION = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EBUSY)
)
# Loading certificates takes tens of milliseconds, unless their file system hangs.
_CONTEXT_SECONDS = 10.0
_UNLIMITED = aiohttp.ClientTimeout(total=None, sock_connect=None)  # the deadlines are the attempt's
# Each provider has one address, or few.
_MAX_TARGETS = 4096


class LinkError(Exception):
    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class Exchange:
    """One request's way to the provider, filled in as it goes. Stamps are monotonic seconds."""

    def __init__(self, on_connected: Callable[[float], None]) -> None:
        self.connect_started_at: float | None = None
        self.resolved_at: float | None = None
        self.t0: float | None = None  # the connection is ready, the request about to be written
        self.is_reused = False
        self.on_connected = on_connected

    @property
    def connect_seconds(self) -> float | None:
        """None where no connection was made for this exchange."""
        if self.is_reused or self.t0 is None or self.connect_started_at is None:
            return None
        return self.t0 - self.connect_started_at


class _Stamps(Trace):
    """What aiohttp's connector tells of a connection's making, kept in an Exchange. A TraceConfig tells the same by
    ten signals a request."""

    def __init__(self, clock: Clock, exchange: Exchange) -> None:
        self._clock = clock
        self._exchange = exchange

    async def send_dns_resolvehost_start(self, host: str) -> None:
        pass

    async def send_dns_resolvehost_end(self, host: str) -> None:
        self._exchange.resolved_at = self._clock.monotonic()

    async def send_connection_create_start(self) -> None:
        pass

    async def send_connection_create_end(self) -> None:
        self._connected()

    async def send_connection_reuseconn(self) -> None:
        self._exchange.is_reused = True
        self._connected()

    def _connected(self) -> None:
        exchange = self._exchange
        exchange.t0 = self._clock.monotonic()
        exchange.on_connected(exchange.t0)


class Wire:
    """A response that is being read. `ending` tells how it ended, once all of it has been taken."""

    def __init__(
        self,
        link: Handler,
        connection: Connection,
        message: http.RawResponseMessage,
        content: aiohttp.StreamReader,
        pulse: Pulse,
    ) -> None:
        assert link.log is not None, "a response came through no handler of ours"
        self._link = link
        self._log = link.log
        self._connection = connection
        self._content = content
        self._raw_headers = message.raw_headers
        self._closers: tuple[bytes, ...] = ()
        self._has_length = "content-length" in message.headers
        self._pulse: Pulse | None = pulse
        self.sent_at = link.sent_at  # None if that cannot be told
        self.headers_at = self._log.headers_at
        self.status = message.code
        self.headers: Mapping[str, str] = message.headers
        self.ending: Ending | None = None

    @property
    def clock(self) -> ClockKind:
        return "kernel" if self.sent_at is not None and self._log.is_kernel else "userspace"

    def take(self) -> list[Arrival]:
        """What has come since the last call, which may be nothing. LinkError if what comes is no HTTP."""
        self._link.parse()
        is_over = self._log.is_over
        arrivals = self._log.take()
        if is_over and not arrivals and self.ending is None:
            self.ending = self._how_it_ended()
        return arrivals

    def has_ended_after(self, at: float) -> bool:
        """Whether the body's end came after that; False where only the connection's told of it, which has no stamp."""
        return self._log.ended_at is not None and self._log.ended_at > at

    async def woken(self) -> None:
        """Sleep while bytes come in; see `wake_at` and `Handler.sleep`. At once if some lie there untaken."""
        if self._log.has_untaken:
            await asyncio.sleep(0)
        elif not self._log.is_over:
            await self._link.sleep(_ANYTHING if self._has_length else self._closers)

    def wake_at(self, closers: tuple[bytes, ...] | None) -> None:
        """End `woken` once a read holds one of these: a hint, since reads may cut them in two. None: at any read."""
        self._closers = _ANYTHING if closers is None else closers

    def wake(self) -> None:
        self._link.wake()

    def header_bytes(self) -> int:
        return _header_bytes(self._raw_headers)

    def drop(self) -> None:
        """Close at once, without TLS's goodbye. After a body's end there is nothing left to close."""
        if self._pulse is not None:
            self._pulse.end()
            self._pulse = None
        transport = self._connection.transport
        if transport is not None:
            transport.abort()
        self._connection.close()
        if self._link.log is self._log:
            self._link.log = None  # handler, log, body, handler: a cycle that only a full collection would find

    def _how_it_ended(self) -> Ending:
        """A close-delimited body ends the same way for aiohttp whether it was closed or reset: the protocol knows."""
        content, lost = self._content, self._link.exception()
        if content.exception() is None and not content.is_eof():
            # aiohttp tells a reader of the end and of a lost connection, and nothing of a body that it cannot parse.
            raise LinkError(Outcome.MALFORMED, "the body is not framed as HTTP demands")
        if isinstance(lost, ssl.SSLError) or isinstance(_cause(lost), ssl.SSLError):
            raise LinkError(Outcome.TLS, _os_text(lost))
        if isinstance(lost, OSError):
            return Ending.RESET
        if content.exception() is None:
            return Ending.CLEAN
        if isinstance(lost, aiohttp.ServerDisconnectedError):
            return Ending.CUT
        raise LinkError(Outcome.MALFORMED, "the body is not framed as HTTP demands")


class Transport:
    """Connectors and TLS contexts, made when first asked for. Use from one event loop."""

    def __init__(self, clock: Clock, resolver: Resolver) -> None:
        self._clock = clock
        self._resolver = resolver
        self.pulse = Pulse(clock)
        self.lookout = Lookout(clock)  # for deadlines
        self.turn = asyncio.Lock()  # of those who have much to hear
        self._collector = Collector(clock, self.pulse)
        self._stamp_keeper = StampKeeper()
        self._connectors: dict[ConnectionMode, aiohttp.TCPConnector] = {}
        self._targets: dict[tuple[str, ssl.SSLContext | None], Target] = {}
        self._contexts: dict[str, asyncio.Future[ssl.SSLContext]] = {}

    async def start(self) -> None:
        allot(READ_BYTES)
        self._collector.open()
        await self._stamp_keeper.open(self._clock)

    async def close(self) -> None:
        for connector in self._connectors.values():
            await connector.close()
        self._connectors.clear()
        self.lookout.close()
        self._collector.close()
        self._stamp_keeper.close()
        await self._resolver.close()

    async def prepare(self, request: ProbeRequest, provider: str) -> None:
        """What `open` needs of this machine alone, so that its making is no part of connecting. Raises LinkError."""
        if request.url.startswith("https:"):
            await self.tls_context(provider)

    async def tls_context(self, provider: str) -> ssl.SSLContext:
        """The provider's own context, made in a thread. One that cannot be made is ours, and tried again."""
        making = self._contexts.get(provider)
        if making is not None and making.done() and making.exception() is None:
            return making.result()
        try:
            if making is None or (making.done() and making.exception() is not None):
                making = self._contexts[provider] = threads.start(_make_context, f"certificates for {provider}")
            return await threads.within(_CONTEXT_SECONDS, making)
        except TimeoutError:
            raise LinkError(Outcome.OVERLOAD, "the certificates could not be read in time") from None
        except OSError as error:  # ssl.SSLError is one
            raise LinkError(Outcome.OVERLOAD, f"the certificates could not be read: {_os_text(error)}") from error

    def is_lookup_queued(self, request: ProbeRequest) -> bool:
        """Whether the name of the request's host is not even being looked up yet."""
        return self._resolver.is_queued(URL(request.url, encoded=True).raw_host or "")

    async def open(self, request: ProbeRequest, provider: str, mode: ConnectionMode, exchange: Exchange) -> Wire:
        """Send `request` and return when the response's headers are there. Raises LinkError."""
        context = await self.tls_context(provider) if request.url.startswith("https:") else None
        exchange.connect_started_at = self._clock.monotonic()
        self.pulse.begin()
        wire: Wire | None = None
        connection: Connection | None = None
        try:
            target = self._target(request.url, context)
            connector = self._connector(mode)
            connection = await connector.connect(target.way, [_Stamps(self._clock, exchange)], _UNLIMITED)
            wire = await self._answer(connection, target.message(request, closes=connector.force_close))
        except (aiohttp.ClientError, http.HttpProcessingError, OSError) as error:
            raise _link_error(error) from error
        finally:
            if wire is None:
                self.pulse.end()
                if connection is not None:
                    connection.close()
        if wire.sent_at is not None:
            exchange.t0 = wire.sent_at
        if wire.header_bytes() > MAX_HEADER_BYTES:
            wire.drop()
            raise LinkError(Outcome.MALFORMED, f"the headers are longer than {MAX_HEADER_BYTES} bytes")
        return wire

    async def _answer(self, connection: Connection, message: bytes) -> Wire:
        """Write the request whole and read up to the response's body, past interim responses."""
        link = connection.protocol
        assert isinstance(link, Handler)
        link.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
        )
        transport = link.transport
        # What lies there already is no answer to what has not been asked yet.
        if transport is None or transport.is_closing() or link.should_close:
            raise aiohttp.ClientConnectionResetError("closed before the request was written")
        transport.write(message)
        interim_bytes = 0
        while True:
            head, content = await link.read()
            if not 100 <= head.code <= 199 or head.code == HTTPStatus.SWITCHING_PROTOCOLS:
                break
            interim_bytes += _header_bytes(head.raw_headers) + _STATUS_LINE_BYTES
            if interim_bytes > MAX_HEADER_BYTES:
                raise http.HttpProcessingError(message="too many interim responses")
        wire = Wire(link, connection, head, content, self.pulse)
        content.on_eof(connection.release)
        return wire

    def _target(self, url: str, context: ssl.SSLContext | None) -> Target:
        target = self._targets.get((url, context))
        if target is None:
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            target = self._targets[url, context] = Target(url, context)
        return target

    def _connector(self, mode: ConnectionMode) -> aiohttp.TCPConnector:
        connector = self._connectors.get(mode)
        if connector is None:
            is_fresh = mode == "fresh"
            connector = self._connectors[mode] = Connector(
                self._clock,
                self.pulse,
                self._collector,
                resolver=self._resolver,
                force_close=is_fresh,
                keepalive_timeout=None if is_fresh else _KEEPALIVE_SECONDS,
            )
        return connector


def _header_bytes(headers: Sequence[tuple[bytes, bytes]]) -> int:
    return sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


def _make_context() -> ssl.SSLContext:
    # Named here, since a default that cannot be opened just now would be left out without a word, for ever.
    paths = ssl.get_default_verify_paths()
    context = ssl.create_default_context(cafile=paths.cafile, capath=paths.capath)
    context.set_alpn_protocols(["http/1.1"])
    context.sslobject_class = Engine
    return context


def _link_error(error: Exception) -> LinkError:
    """The class of an exchange that ended before its headers were whole."""
    text = _os_text(error)
    if isinstance(error, OSError) and _is_ours(error):
        return LinkError(Outcome.OVERLOAD, f"{text}: the monitor's own limit")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return LinkError(Outcome.DNS, text)
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        return LinkError(Outcome.TLS, text)
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
            return LinkError(Outcome.RESET, text)
        is_timeout = cause.errno == errno.ETIMEDOUT
        return LinkError(Outcome.TIMEOUT_CONNECT if is_timeout else Outcome.CONNECT, text)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return LinkError(Outcome.RESET, "closed before a status line")
    if isinstance(error, ssl.SSLError) or isinstance(_cause(error), ssl.SSLError):
        return LinkError(Outcome.TLS, text)
    if isinstance(error, OSError):
        return LinkError(Outcome.RESET, text)
    if isinstance(error, aiohttp.InvalidURL):
        return LinkError(Outcome.BAD_REQUEST, "base_url is not a URL; write for example: https://api.acme.example/v1")
    return LinkError(Outcome.MALFORMED, "the answer is not HTTP")


def _is_ours(error: OSError) -> bool:
    """Whether this machine ran out of something, which says nothing about the provider."""
    inner = getattr(error, "os_error", error)
    if isinstance(inner, socket.gaierror):  # its numbers are others
        return inner.errno == socket.EAI_MEMORY
    return inner.errno in _EXHAUSTION


def _cause(error: BaseException | None) -> BaseException | None:
    return error.__cause__ if error is not None else None


def _os_text(error: BaseException | None) -> str:
    """What went wrong in the system's words, without aiohttp's picture of the connection."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"CERTIFICATE_VERIFY_FAILED: {inner.verify_message}"
    if isinstance(inner, ssl.SSLError):
        return inner.reason or "TLS failed"
    if isinstance(inner, socket.gaierror):  # numbers of its own, negative ones
        names = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}
        return f"{names.get(inner.errno, inner.errno)}: {inner.strerror}"
    if isinstance(inner, OSError) and inner.errno is not None:
        return f"{errno.errorcode.get(inner.errno, inner.errno)}: {inner.strerror}"
    return type(inner).__name__
