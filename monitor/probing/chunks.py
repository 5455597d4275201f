"""HTTP's chunked framing, as far as a read need not be shown to aiohttp's parser. Pure; RFC 9112, section 7.1."""

from __future__ import annotations

import re

_HEX_DIGITS = b"0123456789ABCDEFabcdef"
_MOST_HEAD_BYTES = 8
_HEAD = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")


def whole_chunks(data: bytes) -> bytes:
    """The body bytes of a read that is nothing but whole chunks, as those of a stream are; else nothing."""
    if data.endswith(b"\r\n"):
        # One chunk, as nearly all such reads are.
        end = data.find(b"\r\n", 0, _MOST_HEAD_BYTES)
        size = data[:end] if end > 0 else b""
        if size and not size.strip(_HEX_DIGITS) and int(size, 16) == len(data) - end - 4 > 0:
            return data[end + 2 : -2]
    body = b""
    start = 0
    while start < len(data):
        head = _HEAD.match(data, start)
        if head is None:
            return b""
        start = head.end()
        end = start + int(head[1], 16)
        if start == end or data[end : end + 2] != b"\r\n":
            return b""
        body = body + data[start:end] if body else data[start:end]
        start = end + 2
    return body
