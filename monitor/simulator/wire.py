"""A script as bytes with their times: HTTP/1.1, and every way of getting it wrong. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import NATURES, Fault, Reach
from monitor.simulator.members import SimEndpoint
from monitor.simulator.reply import Frame, Reply, reply
from monitor.simulator.speech.speech import ErrorAnswer, Speech

_BYTE_SECONDS = 0.001
_DRIBBLED_EVENT_SECONDS = 0.25  # some APIs tell the whole answer once more at its end: no timeout is meant here
# A reset throws away what its receiver has not read yet: without a pause, the last tokens with it.
_BEFORE_RESET_SECONDS = 0.05
_FLOOD_HEADERS = 96  # of 1 KiB each, above the cap of 64 KiB
_REASONS = {498: "No Capacity", 529: "Overloaded"}
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"


class Ending(Enum):
    KEEP = "keep"  # the answer is whole, the connection is ready for the next
    CLOSE = "close"  # FIN
    RESET = "reset"  # RST
    HOLD = "hold"  # nothing more, and the connection stays


@dataclass(frozen=True, slots=True)
class Wire:
    frames: Iterator[Frame]
    ending: Ending


_ENDINGS = {
    Fault.REFUSED: Ending.RESET,  # too late to refuse: it was accepted before the door closed, or it shares its door
    Fault.SILENT: Ending.HOLD,
    Fault.CLOSE_BEFORE_STATUS: Ending.CLOSE,
    Fault.RESET_BEFORE_STATUS: Ending.RESET,
    Fault.STALL: Ending.HOLD,
    Fault.RESET: Ending.RESET,
    Fault.TRUNCATED: Ending.CLOSE,
    Fault.TRUNCATED_MID_CHUNK: Ending.CLOSE,
    Fault.HELD_OPEN: Ending.HOLD,
    Fault.HEADER_FLOOD: Ending.CLOSE,
}


def wire(speech: Speech, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Wire:
    """How `script` answers `ask`, which came at `at` (UTC seconds), in words of `speech`."""
    fault = script.fault
    if fault is not None and NATURES[fault].reach in (Reach.NOTHING, Reach.CONNECTED):
        frames = iter([Frame(script.headers_seconds, _flood() if fault is Fault.HEADER_FLOOD else b"")])
    else:
        told = reply(speech, script, endpoint, ask, at)
        frames = _streamed(told, fault) if told.length is None else _fixed(told)
    if fault is Fault.INTERIM_ANSWERS:
        frames = _after(Frame(0.0, _INTERIM), frames)
    elif fault is Fault.DRIBBLE:
        frames = _dribbled(frames)
    elif fault is Fault.SPLIT_UTF8:
        frames = _split(frames)
    return Wire(frames, Ending.KEEP if fault is None else _ENDINGS.get(fault, Ending.KEEP))


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers, ready for a body."""
    reason = _REASONS.get(status) or HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A whole response of known length."""
    return head(status, {"content-type": content_type, "content-length": str(len(body)), **headers}) + body


def json_answer(status: int, value: object, **headers: str) -> bytes:
    return answer(status, json.dumps(value).encode(), **headers)


def error_answer(told: ErrorAnswer) -> bytes:
    return json_answer(told.status, told.body, **told.headers)


def _flood() -> bytes:
    flood = {f"x-flood-{n}": "x" * 1000 for n in range(_FLOOD_HEADERS)}
    return head(200, {"content-type": "text/event-stream"} | flood)


def _fixed(told: Reply) -> Iterator[Frame]:
    """All in one write."""
    headers = dict(told.headers)
    begun = head(
        told.status, {"content-type": headers.pop("content-type"), "content-length": str(told.length)} | headers
    )
    pieces = list(told.body)
    yield Frame(
        told.head_seconds, begun + b"".join(piece.data for piece in pieces), any(piece.generated for piece in pieces)
    )


def _streamed(told: Reply, fault: Fault | None) -> Iterator[Frame]:
    headers = dict(told.headers)
    # A body that ends with its connection: to HTTP the truncated one is whole, and only the stream knows better.
    chunked = fault is not Fault.TRUNCATED
    headers |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
    frame: Callable[[bytes], bytes] = _http_chunk if chunked else bytes
    last = b"0\r\n\r\n"
    if fault is Fault.CHUNK_EXTENSIONS:
        frame, last = _extended_chunk, b"0;the=last\r\nx-checksum: none\r\n\r\n"
    encode: Callable[[bytes], bytes] = bytes
    packer = None
    if fault in (Fault.GZIP, Fault.GZIP_BOMB):
        headers["content-encoding"] = "gzip"
        packer = zlib.compressobj(wbits=31)
        encode = _packed_by(packer)
    yield Frame(told.head_seconds, head(told.status, headers))

    data = b""
    for gap, event, generated in told.body:
        data = frame(encode(event))
        yield Frame(gap, data, generated)
    if fault is Fault.RESET:
        yield Frame(_BEFORE_RESET_SECONDS, b"")
    elif fault is Fault.TRUNCATED_MID_CHUNK:
        yield Frame(0.0, data[: len(data) // 2])
    elif chunked and fault not in (Fault.STALL, Fault.HELD_OPEN):
        yield Frame(0.0, (frame(packer.flush()) if packer else b"") + last)


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _extended_chunk(data: bytes) -> bytes:
    return b'%x;sim;note="an extension"\r\n%b\r\n' % (len(data), data)


def _packed_by(packer: zlib._Compress) -> Callable[[bytes], bytes]:
    return lambda event: packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)


def _after(first: Frame, frames: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from frames


def _dribbled(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        between = min(_BYTE_SECONDS, _DRIBBLED_EVENT_SECONDS / max(len(frame.data), 1))
        gap = max(frame.gap_seconds, between)
        for byte in frame.data:
            yield Frame(gap, bytes((byte,)), frame.generated)
            gap = between


def _split(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Each write cut after the first byte of its first character that has several."""
    for frame in frames:
        place = next((place for place, byte in enumerate(frame.data) if byte >= 0x80), -1) + 1
        if place:
            yield Frame(frame.gap_seconds, frame.data[:place])
            yield Frame(_BYTE_SECONDS, frame.data[place:], frame.generated)
        else:
            yield frame
