"""How a connection is made: by aiohttp's connector, with our sockets and protocols. Its private names are used here and
in `arrivals` alone.

pool? -> address(es) -> several: aiohttp's race -> TLS? -> ready
                     -> one: reached at once    -> TLS? -> ready
      -> written as an address, without TLS             -> ready
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from monitor.clock import Clock
from monitor.probing.arrivals import Handler
from monitor.probing.collector import Collector
from monitor.probing.line import Line
from monitor.probing.pulse import Pulse
from monitor.probing.request_head import AddressInfo, Way
from monitor.probing.stamps import StampedSocket, has_kernel_stamps


class Connector(aiohttp.TCPConnector):
    """Without a limit, since caps are the dispatcher's, and without a cache, since the resolver has its own. Needs the
    running loop.

    aiohttp's way to the only address of a host leads through three time-outs that never ring, a place under the limit,
    a race with one runner and five turns of the loop: a twentieth of what a probe costs. A connection without TLS is
    ready in the turn in which its socket is."""

    def __init__(self, clock: Clock, pulse: Pulse, collector: Collector, **options: Any) -> None:
        has_stamps = has_kernel_stamps()

        def make_socket(address: Any) -> socket.socket:
            family, kind, protocol = address[:3]
            if has_stamps:
                stamped = StampedSocket(clock, family, kind | socket.SOCK_NONBLOCK, protocol)
                stamped.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return stamped
            plain = socket.socket(family, kind, protocol)
            plain.setblocking(False)
            return plain

        super().__init__(socket_factory=make_socket, use_dns_cache=False, limit=0, **options)
        if not isinstance(getattr(self, "_factory", None), functools.partial):
            raise RuntimeError(f"aiohttp {aiohttp.__version__} connects in another way: install aiohttp>=3.14,<3.15")
        handlers = functools.partial(Handler, self._loop, clock, pulse, collector)
        self._factory = cast("functools.partial[ResponseHandler]", handlers)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        if not self.force_close:
            return await super().connect(req, traces, timeout)
        handler: ResponseHandler
        if isinstance(req, Way) and req.address is not None:
            key = req.key
            _, handler = await self._plain(req.address, key, aiohttp.ClientConnectorError)
        else:
            key = req.connection_key
            handler = await self._create_connection(req, traces, timeout)
        if self.closed:
            handler.close()
            raise aiohttp.ClientConnectionError("the connector is closed")
        self._acquired.add(handler)
        connection = Connection(self, key, handler, self._loop)
        try:
            for trace in traces:
                await trace.send_connection_create_end()
        except BaseException:
            connection.close()
            raise
        return connection

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[Any],
        req: aiohttp.ClientRequest,
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        if len(addr_infos) > 1:
            return await super()._wrap_create_connection(
                *args, addr_infos=addr_infos, req=req, timeout=timeout, client_error=client_error, **kwargs
            )
        if kwargs.get("ssl") is None:
            return await self._plain(addr_infos[0], req.connection_key, client_error)
        reached = await self._reached(addr_infos[0], req.connection_key, client_error)
        return await self._wrap_existing_connection(
            *args, sock=reached, req=req, timeout=timeout, client_error=client_error, **kwargs
        )

    async def _plain(
        self, address_info: AddressInfo, key: ConnectionKey, client_error: type[Exception]
    ) -> tuple[Line, ResponseHandler]:
        reached = await self._reached(address_info, key, client_error)
        handler = self._factory()
        return Line(self._loop, reached, handler), handler

    async def _reached(
        self, address_info: AddressInfo, key: ConnectionKey, client_error: type[Exception]
    ) -> socket.socket:
        assert self._socket_factory is not None
        try:
            reached = self._socket_factory(address_info)
            try:
                await _reach(self._loop, reached, address_info[4])
            except BaseException:
                reached.close()
                raise
        except OSError as error:
            raise client_error(key, error) from error
        return reached


async def _reach(loop: asyncio.AbstractEventLoop, to_connect: socket.socket, address: tuple[Any, ...]) -> None:
    """asyncio's `sock_connect` to an address that needs no lookup, in half the steps. Raises OSError."""
    try:
        to_connect.connect(address)
        return
    except (BlockingIOError, InterruptedError):
        descriptor, ready = to_connect.fileno(), loop.create_future()
        loop.add_writer(descriptor, _tell, loop, descriptor, ready)
    try:
        await ready
    except BaseException:
        loop.remove_writer(descriptor)
        raise
    number = to_connect.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, f"Connect call failed {address}")


def _tell(loop: asyncio.AbstractEventLoop, descriptor: int, ready: asyncio.Future[None]) -> None:
    loop.remove_writer(descriptor)
    if not ready.done():
        ready.set_result(None)
