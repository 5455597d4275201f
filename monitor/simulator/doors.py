"""Listening ports of the simulated fleet. A door of one provider can be closed: then connections to it are refused."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

_BACKLOG = 1024


@dataclass(slots=True)
class Door:
    """One listening address. `port` is 0 until it is first opened, if any free one will do. Not for several tasks.

    `provider`: the one that it belongs to alone; None if several share it, and then it does not close."""

    host: str
    port: int
    provider: str | None = None
    tls: ssl.SSLContext | None = None
    _holder: socket.socket | None = field(default=None, repr=False)
    _server: asyncio.Server | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"

    async def open(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Listen. OSError if the address is not to be had."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        family, _, _, _, address = (await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))[0]
        if self.provider is not None and self._holder is None:
            # Bound and never listening: the port stays ours while the door is closed.
            self._holder = self._bound(family, address)
            self.port = self._holder.getsockname()[1]
            address = (address[0], self.port, *address[2:])
        listener = self._bound(family, address)
        self.port = listener.getsockname()[1]
        self._server = await loop.create_server(protocol, sock=listener, backlog=_BACKLOG, ssl=self.tls)

    def _bound(self, family: int, address: tuple[object, ...]) -> socket.socket:
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.provider is not None:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
        except OSError as error:
            bound.close()
            raise OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from None
        return bound

    def close(self) -> None:
        """Refuse connections; those that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def leave(self) -> None:
        """Close for good and give the port back."""
        self.close()
        if self._holder is not None:
            self._holder.close()
            self._holder = None
