"""TLS for a server that reads and writes its sockets itself, so that the kernel's stamps are there as well."""

from __future__ import annotations

import ssl
from pathlib import Path

_MOST_BYTES = 1 << 16


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Secrecy:
    """One connection's. The handshake goes on as bytes come in."""

    __slots__ = ("_engine", "_incoming", "_is_shaken", "_outgoing")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_shaken = False

    def opened(self, data: bytes) -> bytes | None:
        """What `data` says; nothing at the end of it all, None where it says nothing yet. OSError if it is no TLS."""
        self._incoming.write(data)
        opened = []
        try:
            if not self._is_shaken:
                self._engine.do_handshake()
                self._is_shaken = True
            while piece := self._engine.read(_MOST_BYTES):
                opened.append(piece)
            return b"".join(opened)
        except ssl.SSLWantReadError:
            return b"".join(opened) or None
        except ssl.SSLZeroReturnError:
            return b"".join(opened)

    def sealed(self, data: bytes) -> bytes:
        self._engine.write(data)
        return self.to_send()

    def to_send(self) -> bytes:
        return self._outgoing.read()
