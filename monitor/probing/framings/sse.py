"""Server-sent events, read incrementally and cut anywhere. Pure; WHATWG HTML, section 9.2, and hosts' ways with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monitor.probing.framings.frame import (
    MAX_BODY_BYTES,
    MAX_LINE_BYTES,
    MAX_PIECES,
    BodyTooLong,
    Frame,
    LineTooLong,
    TooManyPieces,
    Undecodable,
    any_too_deep,
    checked,
    text_of,
)

_BOM = b"\xef\xbb\xbf"
_END = b"\n\n"


# Between two reads that are looked at as one: no event on one line has it in it, and no character is left open by it.
_CUT = b"\r"


class EventStream:
    """The framing of one response. Feed it every read in order, then `close()` at a clean end.

    Both yield frames and may raise Unreadable; exhaust one iterator before the next call, or stop for good. `run_of` is
    the name of the events that a run is made of, "" where they have none."""

    def __init__(self, run_of: str = "") -> None:
        # How each event of a run begins.
        self._head = f"event: {run_of}\ndata: ".encode() if run_of else b"data: "
        self._run_lines = self._head.count(b"\n") + len(_END)  # of each
        self.last_event_id: str | None = None
        self.unknown_lines = 0  # lines that are neither a field, a comment nor JSON
        self.is_markup = False  # the first thing in the body was a `<`: HTML or XML
        self._size = 0
        self._lines = 0
        self._event_size = 0  # of an event's lines behind its first
        self._tail = bytearray()
        self._skip_lf = False
        self._any_line = False
        self._is_idle = False  # between two events, nothing pending
        self._event = ""
        self._data: list[bytes] = []
        self._bare: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        self._size += len(chunk)
        if self._size > MAX_BODY_BYTES:
            raise BodyTooLong
        self._is_idle = False
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[0] == 0x0A:
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._skip_lf = chunk[-1] == 0x0D
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines:
            self._lines += len(lines)
            if self._lines > MAX_PIECES:
                raise TooManyPieces
            if self._tail:
                self._tail += lines[0]
                lines[0] = bytes(self._tail)
                self._tail.clear()
            for line in lines:
                if len(line) > MAX_LINE_BYTES:
                    raise LineTooLong
                if not line:
                    if self._data:
                        frame = self._dispatch()
                        if frame is not None:
                            yield frame
                    elif self._event:
                        self._event = ""
                elif line.startswith(b"data:") and self._any_line:
                    if self._bare:
                        self._drop_bare()
                    if self._data:
                        self._grow(line)
                    self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                else:
                    frame = self._line(line)
                    if frame is not None:
                        yield frame
        self._tail += rest
        if len(self._tail) > MAX_LINE_BYTES:
            raise LineTooLong
        is_pending = self._tail or self._data or self._bare or self._event or self._skip_lf
        self._is_idle = self._any_line and not is_pending

    def run(self, reads: Sequence[bytes]) -> Sequence[bytes]:
        """The data of each of `reads`, if each is one whole event of that name with its data on one line; without the
        last ones, if those are not. Else nothing. Nothing is read yet: feed them one by one, or tell which `passed`."""
        head, count = self._head, len(reads)
        while count and not (reads[count - 1].startswith(head) and reads[count - 1].endswith(_END)):
            count -= 1
        if not count or not self._is_idle:
            return ()
        # In one go, and nothing for each read: with as many newlines in all as there are at the ends, none has another.
        body = _CUT.join(reads[:count])
        if body.count(b"\n") != count * self._run_lines or body.count(_CUT) != count - 1:
            return ()
        if not body.startswith(head) or self._size + len(body) > MAX_BODY_BYTES or not _is_utf8(body):
            return ()
        events = body[len(head) : -len(_END)].split(_END + _CUT + head)
        is_regular = len(events) == count and all(map(bytes.strip, events)) and not any_too_deep(events)
        return events if is_regular else ()

    def passed(self, reads: Sequence[bytes]) -> None:
        """These first reads of a run were taken in another way."""
        self._size += sum(map(len, reads))
        self._lines += len(reads) * self._run_lines

    def close(self) -> Iterator[Frame]:
        """What a body that ended cleanly still holds: hosts leave out the last blank line, or even the last newline.

        An event that was cut within a character is dropped, not undecodable."""
        tail, self._tail = bytes(self._tail), bytearray()
        try:
            frame = self._line(tail) if tail else None
            if frame is not None:
                yield frame
            if self._data:
                frame = self._dispatch(cut=True)
                if frame is not None:
                    yield frame
            if self._bare:
                yield self._dispatch_bare(cut=True)
        except Undecodable:
            self.unknown_lines += 1

    def _line(self, line: bytes) -> Frame | None:
        if not self._any_line:
            self._any_line = True
            line = line.removeprefix(_BOM)
        name, _, value = line.partition(b":")
        if name in (b"data", b"event", b"id", b"retry", b""):
            self._drop_bare()
            self._field(name, value.removeprefix(b" "))
            return None
        return self._outside(line)

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            if self._data:
                self._grow(value)
            self._data.append(value)
        elif name == b"event":
            self._event = text_of(value)
        elif name == b"id" and b"\0" not in value:
            self.last_event_id = text_of(value)

    def _outside(self, line: bytes) -> Frame | None:
        """A line that is no field: proxies and Google write an error as plain JSON, on one line or on many."""
        stripped = line.strip()
        if self._bare:
            self._grow(line)
            self._bare.append(line)
            is_last = line.startswith((b"]", b"}]") if self._bare[0][:1] == b"[" else b"}")
            return self._dispatch_bare() if is_last else None
        if stripped[:1] in (b"{", b"["):
            self._bare.append(stripped)
            closer = b"}" if stripped[:1] == b"{" else b"]"
            return self._dispatch_bare() if len(stripped) > 1 and stripped.endswith(closer) else None
        if stripped:
            if not self.unknown_lines and stripped.startswith(b"<"):
                self.is_markup = True
            self.unknown_lines += 1
        return None

    def _grow(self, line: bytes) -> None:
        """One more line of an event that has some: all of them may be as long as one."""
        self._event_size += len(line) + 1
        if self._event_size > MAX_LINE_BYTES:
            raise LineTooLong

    def _dispatch(self, cut: bool = False) -> Frame | None:
        self._event_size = 0
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event, self._event = self._event, ""
        self._data.clear()
        return Frame(checked(data), event, cut=cut) if data.strip() else None

    def _dispatch_bare(self, cut: bool = False) -> Frame:
        self._event_size = 0
        data = b"\n".join(self._bare)
        self._bare.clear()
        return Frame(checked(data), bare=True, cut=cut)

    def _drop_bare(self) -> None:
        if self._bare:
            self._event_size = 0
            self._bare.clear()
            self.unknown_lines += 1


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False
