"""AWS's binary event stream (application/vnd.amazon.eventstream), read incrementally and cut anywhere. Pure.

    total length u32 | headers length u32 | CRC of these | headers | payload | CRC of all before

botocore parses each message, once it is whole: https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from monitor.probing.framings.frame import (
    MAX_BODY_BYTES,
    MAX_LINE_BYTES,
    MAX_PIECES,
    BodyTooLong,
    Frame,
    LineTooLong,
    TooManyPieces,
    Undecodable,
    checked,
)
from monitor.probing.framings.json_values import JsonStream

if TYPE_CHECKING:
    from botocore.eventstream import EventStreamMessage

_PRELUDE = struct.Struct("!III")
_LEAST_BYTES = _PRELUDE.size + 4
# AWS sends some 100; botocore's parser copies what is left of them for each, which 128 KiB of them would make costly.
_MAX_HEADER_BYTES = 4096
# A message of an allowed length begins with a zero byte: what begins with one of these is text in its place.
_TEXT = frozenset(b"\t\n\r\xef") | frozenset(range(0x20, 0x7F))


class AwsEventStream:
    """The framing of one response. Feed it every read in order, then `close()` at a clean end.

    Both yield frames and may raise Unreadable; exhaust one iterator before the next call, or stop for good. A frame's
    `event` is the message's event type, exception type or error code; `failed` where it is one of the last two."""

    def __init__(self) -> None:
        self.unknown_lines = 0  # lines of a text that is no JSON
        self.is_markup = False
        self._size = 0
        self._messages = 0
        self._is_begun = False
        self._text: JsonStream | None = None  # what reads text in place of the stream
        self._tail = bytearray()
        self._due = 0  # length of the message that begins the tail; 0 before its prelude was read

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        if not self._is_begun and chunk:
            self._is_begun = True
            self._text = JsonStream() if chunk[0] in _TEXT else None
        if self._text is not None:
            yield from self._as_text(self._text.feed(chunk))
            return
        self._size += len(chunk)
        if self._size > MAX_BODY_BYTES:
            raise BodyTooLong
        self._tail += chunk
        tail, start = self._tail, 0
        while len(tail) - start >= (self._due or _PRELUDE.size):
            if not self._due:
                self._due = _length_of(tail[start : start + _PRELUDE.size])
                continue
            message = bytes(tail[start : start + self._due])
            start += self._due
            self._due = 0
            self._messages += 1
            if self._messages > MAX_PIECES:
                raise TooManyPieces
            yield _frame_of(_parsed(message))
        del tail[:start]

    def run(self, reads: Sequence[bytes]) -> Sequence[bytes]:
        return ()

    def passed(self, reads: Sequence[bytes]) -> None:
        self._size += sum(map(len, reads))

    def close(self) -> Iterator[Frame]:
        """What a text still holds. A message that was cut off is dropped."""
        if self._text is not None:
            yield from self._as_text(self._text.close())

    def _as_text(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """An error as plain JSON, or a whole answer."""
        assert self._text is not None
        for frame in frames:
            yield Frame(frame.data, bare=True, cut=frame.cut)
        self.unknown_lines, self.is_markup = self._text.unknown_lines, self._text.is_markup


def _length_of(prelude: bytearray) -> int:
    """The length of the message behind this prelude, checked before any of it is waited for."""
    total, headers, checksum = _PRELUDE.unpack(prelude)
    if crc32(prelude[:8]) != checksum:
        raise Undecodable("a message's prelude has a wrong checksum")
    if total > MAX_LINE_BYTES:
        raise LineTooLong
    if headers > _MAX_HEADER_BYTES or total < headers + _LEAST_BYTES:
        raise Undecodable("a message's headers are longer than the message, or than 4096 bytes")
    return int(total)


def _parsed(message: bytes) -> EventStreamMessage:
    # Imported here: no other dialect needs it, and it takes long.
    from botocore.eventstream import EventStreamBuffer, ParserError

    buffer = EventStreamBuffer()
    buffer.add_data(message)
    try:
        return buffer.next()
    except ParserError:
        raise Undecodable("a message has a wrong checksum") from None
    except (struct.error, KeyError, UnicodeDecodeError):
        raise Undecodable("a message's headers cannot be read") from None


def _frame_of(message: EventStreamMessage) -> Frame:
    headers: Mapping[str, Any] = message.headers
    kind = headers.get(":message-type")
    name = headers.get({"exception": ":exception-type", "error": ":error-code"}.get(str(kind), ":event-type"), "")
    data = bytes(message.payload)
    if not data.strip():
        told = headers.get(":error-message")
        data = msgspec.json.encode({"message": told} if isinstance(told, str) else {})
    return Frame(checked(data), name if isinstance(name, str) else "", failed=kind in ("exception", "error"))
