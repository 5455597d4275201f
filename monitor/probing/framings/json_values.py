"""JSON values one after another: on a line each (NDJSON), or as the elements of one array. Cut anywhere. Pure.

A value is told with its last byte and needs no newline, so that an array that is never closed is read as it comes.

{"a": 1}\\n{"a": 2}\\n         Ollama
[{\\n  "a": 1\\n}\\n,\\n{..}]    Google without `alt=sse`; an object over many lines is likewise one value
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from monitor.probing.framings.frame import (
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_LINE_BYTES,
    MAX_PIECES,
    BodyTooLong,
    Frame,
    LineTooLong,
    TooDeep,
    TooManyPieces,
    Undecodable,
    any_too_deep,
    text_of,
)

_TOKENS = re.compile(rb'["{}\[\]\r\n]|[^\s"{}\[\]]++')
# A string's end, a newline that no string may hold, or the end of what has come, perhaps within an escape.
_STRING = re.compile(rb'(?:[^"\\\r\n]++|\\[^\r\n])*+(?:(")|(\\?[\r\n])|(\\?)\Z)')
_BLANK = re.compile(rb"\s*+")
_BLANK_OR_COMMA = re.compile(rb"[\s,]*+")
_BEFORE_VALUE = re.compile(rb"[^\r\n{\[]*+")
_REST_OF_LINE = re.compile(rb"[^\r\n]*+")
_WHOLE_LINE = re.compile(rb"{[^\r\n]{1,65536}+\n")
# What may stand in front of a value on its line: a byte order mark, and `data:` where a proxy makes events of lines.
_BOM = b"\xef\xbb\xbf"
_PREFIXES = (b"", b"data:")
_MAX_PREFIX_BYTES = 16
_OBJECT, _QUOTE = b'{"'
_MAY_PRECEDE_OBJECT = b"[,:"

_raw_decoder = msgspec.json.Decoder(msgspec.Raw)


class JsonStream:
    """The framing of one response. Feed it every read in order, then `close()` at a clean end.

    Both yield frames and may raise Unreadable; exhaust one iterator before the next call, or stop for good. Only
    objects and arrays are values: a line that is anything else is unknown. A frame that is cut is one of a value that
    the end of the body left incomplete."""

    def __init__(self) -> None:
        self.unknown_lines = 0  # lines that are no JSON
        self.is_markup = False  # the first thing in the body was a `<`: HTML or XML
        self._size = 0
        self._pieces = 0  # values, and lines that are none
        self._in_array = False  # the elements of the outermost array are values
        self._value = bytearray()  # as far as it has come
        self._depth = 0  # of the brackets that are open in it; 0 between two values
        self._in_string = False
        self._is_escaped = False  # what comes next was announced by a backslash
        self._by_lines = False  # a value was seen that stood on one line, so that one which does not has broken off
        self._may_spread = True  # the value, over many lines
        self._last = 0  # the last byte of it that is neither white space nor within a string
        self._line_size = 0  # of a line that is no JSON so far
        self._line_start = bytearray()
        self._may_precede = True  # it, in front of a value

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        whole = self.run((chunk,))
        self._size += len(chunk)
        if self._size > MAX_BODY_BYTES:
            raise BodyTooLong
        if whole:
            self._count()
            self._by_lines = True
            yield Frame(whole[0])
            return
        place, end = 0, len(chunk)
        while place < end:
            if not self._depth:
                place = self._seek(chunk, place)
                if place == end:
                    break
                self._may_spread = self._in_array or not self._by_lines
            begun, place = place, self._walk(chunk, place)
            self._value += chunk[begun:place]
            if len(self._value) > MAX_LINE_BYTES:
                raise LineTooLong
            if not self._depth:
                yield self._frame()

    def run(self, reads: Sequence[bytes]) -> Sequence[bytes]:
        """The data of each of `reads`, if each is one object on a line of its own. Else nothing. Neither is anything
        read yet: feed them one by one, or tell which of them were `passed`."""
        is_between = not (self._depth or self._in_array or self._line_size)
        if not is_between or self._size + sum(map(len, reads)) > MAX_BODY_BYTES:
            return ()
        if not all(map(_WHOLE_LINE.fullmatch, reads)) or any_too_deep(reads):
            return ()
        lines = [read[:-1] for read in reads]
        try:
            values = [bytes(_raw_decoder.decode(line)) for line in lines]
            text_of(b"".join(lines))
        except (Undecodable, msgspec.DecodeError):
            return ()
        # Blanks behind a value are no part of it.
        return lines if values == lines else ()

    def passed(self, reads: Sequence[bytes]) -> None:
        """These first reads of a run were taken in another way."""
        self._size += sum(map(len, reads))
        self._pieces += len(reads)
        self._by_lines = True

    def close(self) -> Iterator[Frame]:
        """What a body that ended cleanly still holds. A value that was cut within a character is dropped."""
        if self._line_size:
            self._end_line()
        if self._depth:
            self._depth = 0
            try:
                yield self._frame(cut=True)
            except Undecodable:
                self.unknown_lines += 1

    def _count(self) -> None:
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise TooManyPieces

    def _frame(self, cut: bool = False) -> Frame:
        self._count()
        data = bytes(self._value)
        self._by_lines = self._by_lines or not (self._in_array or b"\n" in data or b"\r" in data)
        self._value.clear()
        self._in_string = self._is_escaped = False
        text_of(data)
        return Frame(data, cut=cut)

    def _walk(self, chunk: bytes, place: int) -> int:
        """Go on through a value; to where it ends, or what has come. No depth is left where it ended."""
        begun = place
        if self._in_string:
            place = self._walk_string(chunk, place)
            if not self._depth:
                return place
        while not self._in_string and (match := _TOKENS.search(chunk, place)):
            token = chunk[match.start()]
            if token == _OBJECT and self._depth and self._last not in _MAY_PRECEDE_OBJECT:
                # No JSON has an object here: the value before it broke off, as a line does that was cut.
                self._depth = 0
                return match.start()
            if token in b"\r\n":
                if not self._may_spread:
                    # Whoever prints a value over many lines begins with a bracket on a line of its own.
                    self._may_spread = not (self._value + chunk[begun : match.start()]).strip(b"{[ \t")
                    if not self._may_spread:
                        self._depth = 0
                        return match.start()
                place = match.end()
                continue
            place = match.end()
            self._last = chunk[place - 1]
            if token in b"{[":
                self._depth += 1
                if self._depth > MAX_JSON_DEPTH:
                    raise TooDeep
            elif token in b"}]":
                self._depth -= 1
            elif token == _QUOTE:
                self._in_string = True
                place = self._walk_string(chunk, place)
            if not self._depth:
                return place
        return len(chunk)

    def _walk_string(self, chunk: bytes, place: int) -> int:
        """To behind the string's end. A newline within breaks the value off."""
        if self._is_escaped and place < len(chunk) and chunk[place] not in b"\r\n":
            self._is_escaped = False
            place += 1
        match = _STRING.match(chunk, place)
        assert match is not None
        end, broken, escaped = match.groups()
        if end:
            self._in_string = False
        elif broken:
            self._in_string = False
            self._depth = 0
            return match.end() - 1
        else:
            self._is_escaped = bool(escaped)
        return match.end()

    def _seek(self, chunk: bytes, place: int) -> int:
        """To where the next value begins, or what has come ends."""
        while place < len(chunk):
            if self._line_size:
                place = self._pass_line(chunk, place)
                continue
            blank = (_BLANK_OR_COMMA if self._in_array else _BLANK).match(chunk, place)
            place = blank.end() if blank else place
            first = chunk[place : place + 1]
            if first == b"{" or (first == b"[" and self._in_array):
                return place
            if first == b"[" or (first == b"]" and self._in_array):
                self._in_array = first == b"["
                place += 1
            elif first:
                self._line_start = bytearray(first)
                self._line_size = 1
                self._may_precede = True
                place += 1
        return place

    def _pass_line(self, chunk: bytes, place: int) -> int:
        """Go on through a line that is no JSON, unless what has come of it is what may stand in front of a value."""
        match = (_BEFORE_VALUE if self._may_precede else _REST_OF_LINE).match(chunk, place)
        end = place if match is None else match.end()
        self._line_size += end - place
        if self._line_size > MAX_LINE_BYTES:
            raise LineTooLong
        self._line_start += chunk[place : min(end, place + _MAX_PREFIX_BYTES)]
        del self._line_start[_MAX_PREFIX_BYTES:]
        if end == len(chunk):
            return end
        if chunk[end] in b"\r\n":
            self._end_line()
        elif self._line_size <= _MAX_PREFIX_BYTES and self._line_text() in _PREFIXES:
            self._line_size = 0
        else:
            self._may_precede = False
        return end

    def _end_line(self) -> None:
        self._count()
        text = self._line_text()
        self._line_size = 0
        if text:
            self.is_markup = self.is_markup or (text.startswith(b"<") and not self.unknown_lines)
            self.unknown_lines += 1

    def _line_text(self) -> bytes:
        return bytes(self._line_start).removeprefix(_BOM).strip()
