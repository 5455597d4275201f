"""Content encodings: refused by every request, and read nevertheless where a host sends gzip or deflate. Pure."""

from __future__ import annotations

import zlib

from monitor.probing.framings.frame import MAX_BODY_BYTES, BodyTooLong, Undecodable

_GZIP = 16 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
# A stream is one gzip member; each costs a decompressor, also one that holds nothing.
_MAX_MEMBERS = 64


class Inflater:
    """Decodes one body as it comes, up to the cap of a body, compressed and not. Raises Unreadable."""

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding == "gzip"
        self._inflate = zlib.decompressobj(_GZIP) if self._is_gzip else None
        self._head = b""
        self._size = 0
        self._compressed_size = 0
        self._members = 1

    def feed(self, data: bytes) -> bytes:
        self._compressed_size += len(data)
        if self._compressed_size > MAX_BODY_BYTES:
            raise BodyTooLong
        if self._inflate is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            self._inflate, data = zlib.decompressobj(_deflate_bits(self._head)), self._head
        out: list[bytes] = []
        try:
            while data:
                piece = self._inflate.decompress(data, MAX_BODY_BYTES + 1 - self._size)
                self._size += len(piece)
                out.append(piece)
                if self._size > MAX_BODY_BYTES:
                    raise BodyTooLong
                data = self._inflate.unused_data if self._is_gzip else b""
                if data:  # gzip may be a chain of members
                    self._members += 1
                    if self._members > _MAX_MEMBERS:
                        raise Undecodable(f"the body has more than {_MAX_MEMBERS} gzip members")
                    self._inflate = zlib.decompressobj(_GZIP)
        except zlib.error:
            raise Undecodable("the content encoding is broken") from None
        return b"".join(out)


def is_plain(encoding: str | None) -> bool:
    return (encoding or "").strip().lower() in ("", "identity")


def inflater_of(encoding: str | None) -> Inflater | None:
    """The decoder for a Content-Encoding header that is not plain; None for one that cannot be read here."""
    name = (encoding or "").strip().lower().removeprefix("x-")
    return Inflater(name) if name in ("gzip", "deflate") else None


def _deflate_bits(head: bytes) -> int:
    # "deflate" means zlib's format, though some servers send the bare one: only the former has this checksum.
    return zlib.MAX_WBITS if head[0] & 0x0F == 8 and (head[0] * 256 + head[1]) % 31 == 0 else _RAW
