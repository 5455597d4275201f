"""Content encodings: refused by every request, and read nevertheless where a host sends gzip or deflate. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from monitor.probing.framings.frame import MAX_BODY_BYTES, BodyTooLong, Undecodable

_GZIP = 16 + zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS
# A stream is one gzip member; each costs a decompressor, also one that holds nothing.
_MAX_MEMBERS = 64
# What is decoded at a time: the lines of 8 MiB, each an object, would hold 200.
_PIECE_BYTES = 4 << 10


class Inflater:
    """Decodes one body as it comes, up to the cap of a body, compressed and not. Raises Unreadable."""

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding == "gzip"
        self._inflate = zlib.decompressobj(_GZIP) if self._is_gzip else None
        self._head = b""
        self._size = 0
        self._compressed_size = 0
        self._members = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` decodes to, piece by piece. Exhaust it before the next call, or stop for good."""
        self._compressed_size += len(data)
        if self._compressed_size > MAX_BODY_BYTES:
            raise BodyTooLong
        if self._inflate is None:
            self._head += data
            if len(self._head) < 2:
                return
            self._inflate, data = zlib.decompressobj(_deflate_bits(self._head)), self._head
        while data:
            if self._inflate.eof:  # gzip may be a chain of members
                if not self._is_gzip:
                    return
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    raise Undecodable(f"the body has more than {_MAX_MEMBERS} gzip members")
                self._inflate = zlib.decompressobj(_GZIP)
            yield from self._member(self._inflate, data)
            data = self._inflate.unused_data

    def _member(self, inflate: zlib._Decompress, data: bytes) -> Iterator[bytes]:
        is_full = True
        while (data or is_full) and not inflate.eof:
            try:
                piece = inflate.decompress(data, _PIECE_BYTES)
            except zlib.error:
                raise Undecodable("the content encoding is broken") from None
            self._size += len(piece)
            if self._size > MAX_BODY_BYTES:
                raise BodyTooLong
            if piece:
                yield piece
            data, is_full = inflate.unconsumed_tail, len(piece) == _PIECE_BYTES


def is_plain(encoding: str | None) -> bool:
    return (encoding or "").strip().lower() in ("", "identity")


def inflater_of(encoding: str | None) -> Inflater | None:
    """The decoder for a Content-Encoding header that is not plain; None for one that cannot be read here."""
    name = (encoding or "").strip().lower().removeprefix("x-")
    return Inflater(name) if name in ("gzip", "deflate") else None


def _deflate_bits(head: bytes) -> int:
    # "deflate" means zlib's format, though some servers send the bare one: only the former has this checksum.
    return zlib.MAX_WBITS if head[0] & 0x0F == 8 and (head[0] * 256 + head[1]) % 31 == 0 else _RAW
