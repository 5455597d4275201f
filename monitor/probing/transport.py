"""Sockets, TLS and HTTP for probes, over aiohttp. The only place that reads a stamp of bytes.

LinkError           the exchange failed below HTTP, or before a status line; carries its outcome class
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

from monitor.clock import Clock
from monitor.observation import ClockKind
from monitor.outcome import Outcome
from monitor.probing.classifier import Ending
from monitor.probing.dialects.dialect import ProbeRequest
from monitor.settings import ConnectionMode

MAX_HEADER_BYTES = 64 << 10
# aiohttp counts headers and not their bytes; the real cap is checked on what it let through.
_MAX_HEADERS = 256
# aiohttp stops reading from a socket at twice this: what one hostile body can hold of our memory.
_READ_BUFFER = 64 << 10
# A pooled connection has to outlive the pause between two probes of an endpoint; servers close theirs sooner.
_KEEPALIVE_SECONDS = 300.0


# How often the loop's own pulse is taken, and from which pause on it counts as late: two beats and some noise.
_BEAT_SECONDS = 0.005
_LATE_SECONDS = 3 * _BEAT_SECONDS


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


class Pulse:
    """Whether our own loop is late, told by a timer that runs while somebody waits for a first token.

    Bytes that are read together came together if the loop was waiting for them, and one by one if it was busy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = self._before_last = 0.0

    def begin(self) -> None:
        self._waiting += 1
        if self._timer is None:
            self._last = self._clock.monotonic()
            self._beat()

    def end(self) -> None:
        self._waiting -= 1
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def looked_at(self, at: float) -> float:
        """When the loop had last looked at its sockets before the read at `at`; `at` itself if it was on time."""
        # The last beat may belong to the very turn of the loop that read, so the one before it counts.
        return self._before_last if at - self._before_last > _LATE_SECONDS else at

    def _beat(self) -> None:
        self._before_last, self._last = self._last, self._clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._beat)


class Wire:
    """A response that is being read; `ending` tells how it ended, once it has.

    Stamps are taken when the loop hands over the bytes. A better clock replaces `_stamp` and Exchange's t0, no more."""

    clock: ClockKind = "userspace"

    def __init__(self, response: _Response, clock: Clock, pulse: Pulse) -> None:
        self._response = response
        self._clock = clock
        self._pulse: Pulse | None = pulse
        pulse.begin()
        self.headers_at = self._stamp()
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.ending: Ending | None = None
        self._closed = response.link.closed
        if self._closed is None:
            self._wake_reader()
        else:
            self._closed.add_done_callback(self._wake_reader)

    async def read(self) -> tuple[bytes, float, float] | None:
        """(bytes, arrival, earliest possible arrival of the first of them); None at the end. LinkError if what comes is
        no HTTP."""
        content = self._response.content
        failure: Exception | None = None
        try:
            data = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            # aiohttp throws away what it had received before the connection was lost.
            data = content._read_nowait(-1) if self.ending is None else b""
            failure = error
        if data:
            at = self._stamp()
            return data, at, at if self._pulse is None else self._pulse.looked_at(at)
        self.ending = self._how_it_ended(failure)
        return None

    def header_bytes(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._response.raw_headers)

    def first_token_came(self) -> None:
        """From now on nobody asks how late a read was."""
        if self._pulse is not None:
            self._pulse.end()
            self._pulse = None

    def drop(self) -> None:
        """Close at once, without TLS's goodbye. After a body's end there is nothing left to close."""
        self.first_token_came()
        if self._closed is not None:
            self._closed.remove_done_callback(self._wake_reader)
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()

    def _wake_reader(self, closed: asyncio.Future[None] | None = None) -> None:
        """aiohttp tells a reader of the end and of a lost connection, and nothing of a body that it cannot parse."""
        if closed is not None and not closed.cancelled():
            closed.exception()  # seen
        content = self._response.content
        if content.exception() is None and not content.is_eof():
            content.set_exception(_BrokenFraming())

    def _stamp(self) -> float:
        return self._clock.monotonic()

    def _how_it_ended(self, failure: Exception | None) -> Ending:
        """A close-delimited body ends the same way for aiohttp whether it was closed or reset: the protocol knows."""
        if isinstance(failure, _BrokenFraming):
            raise LinkError(Outcome.MALFORMED, "the body is not framed as HTTP demands")
        lost = self._response.link.exception()
        if isinstance(lost, ssl.SSLError) or isinstance(_cause(lost), ssl.SSLError):
            raise LinkError(Outcome.TLS, _os_text(lost))
        if isinstance(lost, OSError):
            return Ending.RESET
        if failure is None:
            return Ending.CLEAN
        if isinstance(lost, aiohttp.ServerDisconnectedError):
            return Ending.CUT
        raise LinkError(Outcome.MALFORMED, "the body is not framed as HTTP demands")


class _BrokenFraming(aiohttp.ClientPayloadError):
    pass


class _Response(aiohttp.ClientResponse):
    """Keeps the connection's protocol, which aiohttp lets go of when the body ends."""

    link: ResponseHandler

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        assert connection.protocol is not None
        self.link = connection.protocol
        return await super().start(connection)


class Transport:
    """Sessions and TLS contexts, made when first asked for. Use from one event loop."""

    def __init__(self, clock: Clock, resolver: AbstractResolver, files: Executor) -> None:
        self._clock = clock
        self._resolver = resolver
        self._files = files
        self._pulse = Pulse(clock)
        self._sessions: dict[ConnectionMode, aiohttp.ClientSession] = {}
        self._contexts: dict[str, asyncio.Future[ssl.SSLContext]] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        await self._resolver.close()

    async def tls_context(self, provider: str) -> ssl.SSLContext:
        """The provider's own context, made in a thread: loading certificates takes tens of milliseconds."""
        making = self._contexts.get(provider)
        if making is None:
            making = asyncio.get_running_loop().run_in_executor(self._files, _make_context)
            self._contexts[provider] = making
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._contexts.pop(provider, None)
            raise

    async def open(self, request: ProbeRequest, provider: str, mode: ConnectionMode, exchange: Exchange) -> Wire:
        """Send `request` and return when the response's headers are there. Raises LinkError."""
        url = URL(request.url, encoded=True)
        context = await self.tls_context(provider) if url.scheme == "https" else None
        exchange.connect_started_at = self._clock.monotonic()
        try:
            response = await self._session(mode).post(
                url,
                data=request.body,
                headers=request.headers,
                ssl=context if context is not None else True,
                allow_redirects=False,
                trace_request_ctx=exchange,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _link_error(error) from error
        assert isinstance(response, _Response)
        wire = Wire(response, self._clock, self._pulse)
        if wire.header_bytes() > MAX_HEADER_BYTES:
            wire.drop()
            raise LinkError(Outcome.MALFORMED, f"the headers are longer than {MAX_HEADER_BYTES} bytes")
        return wire

    def _session(self, mode: ConnectionMode) -> aiohttp.ClientSession:
        session = self._sessions.get(mode)
        if session is None:
            is_fresh = mode == "fresh"
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,  # the resolver has its own, with a deadline
                limit=0,  # caps are the dispatcher's
                force_close=is_fresh,
                keepalive_timeout=None if is_fresh else _KEEPALIVE_SECONDS,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                response_class=_Response,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_READ_BUFFER,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=_MAX_HEADERS,
                trace_configs=[self._trace()],
            )
            self._sessions[mode] = session
        return session

    def _trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()

        async def resolved(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
            context.trace_request_ctx.resolved_at = self._clock.monotonic()

        async def connected(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
            exchange: Exchange = context.trace_request_ctx
            exchange.t0 = self._clock.monotonic()
            exchange.on_connected(exchange.t0)

        async def reused(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
            context.trace_request_ctx.is_reused = True
            await connected(session, context, params)

        trace.on_dns_resolvehost_end.append(resolved)
        trace.on_connection_create_end.append(connected)
        trace.on_connection_reuseconn.append(reused)
        return trace


def _make_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _link_error(error: Exception) -> LinkError:
    """The class of an exchange that ended before its headers were whole."""
    text = _os_text(error)
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
