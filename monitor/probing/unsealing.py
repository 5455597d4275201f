"""What a TLS connection says, opened for sleeping readers. asyncio's private names of its TLS protocol are used here
and nowhere else.

Its own way from a socket to the reader costs 30 us a read, of which the decryption is one."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any


class Engine(ssl.SSLObject):
    """asyncio has the certificate read out after each handshake, names and all: 0.15 ms, for nobody. It is verified all
    the same."""

    def getpeercert(self, binary_form: bool = False) -> None:
        return None


class Unsealer:
    """One connection's, on its very engine and buffers: asyncio may read the next bytes, and never knows."""

    __slots__ = ("_engine", "_incoming", "_outgoing", "_protocol")

    def __init__(self, engine: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, protocol: Any) -> None:
        self._engine = engine
        self._incoming = incoming
        self._outgoing = outgoing
        self._protocol = protocol

    @classmethod
    def of(cls, transport: asyncio.BaseTransport) -> Unsealer | None:
        """None where asyncio keeps these things elsewhere: then it reads for itself."""
        engine = transport.get_extra_info("ssl_object")
        protocol = getattr(transport, "_ssl_protocol", None)
        incoming, outgoing = getattr(protocol, "_incoming", None), getattr(protocol, "_outgoing", None)
        if not (
            isinstance(engine, ssl.SSLObject)
            and isinstance(incoming, ssl.MemoryBIO)
            and isinstance(outgoing, ssl.MemoryBIO)
            and hasattr(protocol, "buffer_updated")
        ):
            return None
        return cls(engine, incoming, outgoing, protocol)

    def opened(self, data: bytes) -> bytes:
        """What can be told by now, which may be nothing. An end, an error and what is to be answered to the other side
        are left to asyncio, at the loop's next turn."""
        self._incoming.write(data)
        found = b""
        is_unusual = False
        try:
            while True:
                # No more room than it needs: a result that was cut to size in the middle of a large block keeps the
                # block from ever being used again, by 256 KB a read where asyncio does it.
                piece = self._engine.read(len(data))
                if not piece:
                    is_unusual = True  # close_notify
                    break
                found = found + piece if found else piece
                if not self._incoming.pending and not self._engine.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            is_unusual = True  # and told again when asyncio asks
        if is_unusual or self._outgoing.pending:
            asyncio.get_running_loop().call_soon(self._protocol.buffer_updated, 0)
        return found


def underlying(transport: asyncio.BaseTransport) -> asyncio.BaseTransport:
    """The transport that has the socket: this one, or the one that TLS goes over."""
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return below if isinstance(below, asyncio.BaseTransport) else transport


def allot(read_bytes: int) -> None:
    """Give each TLS connection of this process a buffer for one read. asyncio's is 256 KB: 90 MB of 350 in flight, and
    each is filled with zeros first."""
    if hasattr(SSLProtocol, "max_size"):
        SSLProtocol.max_size = read_bytes
