"""What every framing makes of bytes: frames. And what none of them lets through. Pure.

Unreadable          the body is not what a stream of this kind may be
├── LineTooLong     a line, or a message, above 1 MiB
├── BodyTooLong     a body above 8 MiB
├── TooManyPieces   more than 131072 lines of events, JSON values or messages
├── TooDeep         JSON nested deeper than 64
└── Undecodable     not UTF-8, not JSON where JSON is due, or a message whose checksum is wrong
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import repeat

import msgspec

MAX_LINE_BYTES = 1 << 20
MAX_BODY_BYTES = 8 << 20
# Of 8 MiB, 64 bytes a line: no provider's stream is so fine, and 4 million of `{}` cost 10 s.
MAX_PIECES = 1 << 17
MAX_JSON_DEPTH = 64

# The closing quote is optional, so that an unterminated string costs one pass and not one per escaped quote.
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[]{}", b"()()")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Unreadable(Exception):
    """The stream cannot be read on. The text says why, in our words, without the provider's bytes."""


class LineTooLong(Unreadable):
    def __init__(self) -> None:
        super().__init__(f"a line is longer than {MAX_LINE_BYTES} bytes")


class BodyTooLong(Unreadable):
    def __init__(self) -> None:
        super().__init__(f"the body is longer than {MAX_BODY_BYTES} bytes")


class TooManyPieces(Unreadable):
    def __init__(self) -> None:
        super().__init__(f"the body is cut into more than {MAX_PIECES} pieces")


class TooDeep(Unreadable):
    def __init__(self) -> None:
        super().__init__(f"JSON is nested deeper than {MAX_JSON_DEPTH}")


class Undecodable(Unreadable):
    pass


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event of the stream. `data` is never empty, valid UTF-8 and, if it is JSON, not too deep."""

    data: bytes
    event: str = ""  # the `event:` field, "" without one
    bare: bool = False  # JSON that stood in the body without `data:`
    failed: bool = False  # the framing itself says that this is an error, of the kind that `event` names
    cut: bool = False  # the body ended before the blank line that ends an event


def is_too_deep(data: bytes) -> bool:
    """Whether JSON text nests deeper than the cap; linear, and cheap for the few brackets of a usual chunk."""
    if data.count(b"{") + data.count(b"[") <= MAX_JSON_DEPTH:
        return False
    layers = _JSON_STRING.sub(b"", data).translate(_BRACKETS, _NOT_BRACKETS)
    # Each round peels the innermost layer; what cannot be peeled was never closed.
    for _ in range(MAX_JSON_DEPTH):
        peeled = layers.replace(b"()", b"")
        if len(peeled) == len(layers):
            return layers.count(b"(") > MAX_JSON_DEPTH
        layers = peeled
    return b"(" in layers


def any_too_deep(events: Sequence[bytes]) -> bool:
    """Whether one of them is. Brackets are counted in a loop of C's: no event of a usual stream is looked at twice."""
    if len(events) > 1 and sum(max(map(bytes.count, events, repeat(one))) for one in (b"{", b"[")) <= MAX_JSON_DEPTH:
        return False
    return any(map(is_too_deep, events))


def checked(data: bytes) -> bytes:
    """`data` as it is; Undecodable or TooDeep if it is not what a frame may hold."""
    if not data.isascii():
        text_of(data)
    if is_too_deep(data):
        raise TooDeep
    return data


def text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Undecodable("the stream is not UTF-8") from None
