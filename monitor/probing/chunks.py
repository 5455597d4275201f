"""HTTP's chunked framing, as far as a read need not be shown to aiohttp's parser. Pure; RFC 9112, section 7.1."""

from __future__ import annotations

import functools
from collections.abc import Iterable

_HEX_DIGITS = b"0123456789ABCDEFabcdef"
_MOST_HEAD_BYTES = 8
_END = b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def bodies_of(reads: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """The body bytes of the first of these reads, up to one that is anything but whole chunks; and the last chunk,
    where the last of these ends in it."""
    bodies: list[bytes] = []
    end = b""
    size = -1
    for data in reads:
        if len(data) != size:
            size = len(data)
            head = _head_of(size)
            start = len(head)
        body = data[start:-2]
        # One chunk, as nearly all such reads are.
        if head + body + _END != data:
            body, end = chunks_and_end(data)
        if not body:
            return bodies, b""
        bodies.append(body)
        if end:
            break
    return bodies, end


def chunks_and_end(data: bytes) -> tuple[bytes, bytes]:
    """The body bytes of a read of whole chunks, nothing of any other; and the last chunk, if it ends in that."""
    end = LAST_CHUNK if data.endswith(LAST_CHUNK) else b""
    return whole_chunks(data.removesuffix(end)), end


@functools.lru_cache(maxsize=4096)
def _head_of(size: int) -> bytes:
    """How a read of that size begins if it is one chunk, as most servers write its length."""
    for digits in range(1, _MOST_HEAD_BYTES - 1):
        head = b"%x\r\n" % max(size - digits - 4, 0)
        if len(head) == digits + 2:
            return head
    return bytes(size + 1)  # there is no chunk of that size, and no read begins with what is longer


def whole_chunks(data: bytes) -> bytes:
    """The body bytes of a read that is nothing but whole chunks, as those of a stream are; else nothing."""
    body = b""
    place = 0
    while place < len(data):
        behind = data.find(_END, place, place + _MOST_HEAD_BYTES)
        if behind < 0:
            return b""
        start = behind + len(_END)
        end = start + _size(data[place:behind])
        if start == end or data[end : end + len(_END)] != _END:
            return b""
        body = body + data[start:end] if body else data[start:end]
        place = end + len(_END)
    return body


@functools.lru_cache(maxsize=4096)
def _size(digits: bytes) -> int:
    """What a chunk's head says, which few hundred heads say again and again; 0 for what is none, or the last one's."""
    return int(digits, 16) if digits and not digits.strip(_HEX_DIGITS) else 0
