"""A script as bytes with their times: HTTP/1.1, and every way of getting an answer wrong. Pure.

Frames come from a generator, one at a time as they fall due: a stream without end costs nothing ahead.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple

from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import NATURES, ErrorBody, Fault, Reach
from monitor.simulator.members import SimEndpoint
from monitor.simulator.speech.speech import ErrorAnswer, Speech, Vocabulary
from monitor.simulator.written import REFUSAL, Counts, Told, counts_of, finish_of, identity, texts_of, told_tokens

_COMMENT_SECONDS = 0.2
CRAWL_SECONDS = 2.0
_BYTE_SECONDS = 0.001
# A reset throws away what its receiver has not read yet: without a pause, the last tokens with it.
_BEFORE_RESET_SECONDS = 0.05
_HUGE_LINE_BYTES = 3 << 19  # above the cap of 1 MiB a line
_HUGE_BODY_EVENTS, _HUGE_EVENT_BYTES = 144, 65536  # 9 MiB, above the cap of 8 MiB a body
_DEPTH = 2000
_FLOOD_HEADERS = 96  # of 1 KiB each, above the cap of 64 KiB
_REASONS = {498: "No Capacity", 529: "Overloaded"}
_PAGE = b"<!doctype html><html><head><title>Welcome</title></head><body><h1>It works</h1></body></html>"


class Frame(NamedTuple):
    gap_seconds: float  # after the frame before, or after the request
    data: bytes
    generated: bool = False  # holds the model's own output


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
    ending = Ending.KEEP if fault is None else _ENDINGS.get(fault, Ending.KEEP)
    nature = NATURES[fault] if fault is not None else None
    words = speech.vocabulary(script, endpoint, ask, at)
    if nature is not None and nature.reach in (Reach.NOTHING, Reach.CONNECTED):
        frames = iter([Frame(script.headers_seconds, _flood(words) if fault is Fault.HEADER_FLOOD else b"")])
    elif nature is not None and nature.reach is Reach.ANSWERED and fault is not Fault.KEEP_ALIVE_FOREVER:
        frames = iter([Frame(script.headers_seconds, _plain_answer(speech, words, script, ask))])
    elif not ask.stream or fault is Fault.WHOLE_ANSWER:
        frames = iter([_whole(speech, words, script, ask)])
    elif fault is Fault.DRIBBLE:
        frames = _dribbled(_streamed(words, script, endpoint, ask))
    else:
        frames = _streamed(words, script, endpoint, ask)
    return Wire(frames, ending)


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers, ready for a body."""
    reason = _REASONS.get(status) or HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A whole response of known length. Underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(status, {"content-type": content_type, "content-length": str(len(body)), **named}) + body


def json_answer(status: int, value: object, **headers: str) -> bytes:
    return answer(status, json.dumps(value).encode(), **headers)


def error_answer(told: ErrorAnswer) -> bytes:
    return answer(told.status, json.dumps(told.body).encode(), **told.headers)


def error_of(script: Script, ask: Ask) -> ErrorBody | None:
    """The error of the script's fault, with what the client sent in its place."""
    error = NATURES[script.fault].error if script.fault is not None else None
    if error is None:
        return None
    # The key comes back whole, as careless hosts do it: a monitor has to redact what it keeps.
    message = error.message.replace("{key}", ask.key).replace("{model}", ask.upstream)
    retry = script.retry_after_seconds if script.fault is Fault.RATE_LIMITED_429 else None
    return replace(error, message=message, retry_after_seconds=retry)


def _flood(words: Vocabulary) -> bytes:
    flood = {f"x-flood-{n}": "x" * 1000 for n in range(_FLOOD_HEADERS)}
    return head(200, {"content-type": _bare_type(words)} | flood)


def _bare_type(words: Vocabulary) -> str:
    return words.content_type.partition(";")[0]


def _plain_answer(speech: Speech, words: Vocabulary, script: Script, ask: Ask) -> bytes:
    fault = script.fault
    if fault is Fault.HTML_PAGE:
        return answer(200, _PAGE, "text/html; charset=utf-8")
    if fault is Fault.REDIRECT:
        return answer(302, b"", "text/html", location="/login")
    if fault is Fault.EMPTY_BODY:
        return answer(200, b"", _bare_type(words))
    assert fault is not None
    error, status = error_of(script, ask), NATURES[fault].status
    assert error is not None and status is not None
    return error_answer(speech.error(error, status))


def counts_told(script: Script, ask: Ask, told: int | None) -> Counts | None:
    """The counts of the script, with `told` output tokens if not None; None if they stay untold."""
    return None if script.fault is Fault.MISSING_USAGE else counts_of(script, ask, told)


def _whole(speech: Speech, words: Vocabulary, script: Script, ask: Ask) -> Frame:
    """Not streamed. Faults of a stream become what a whole answer can show of them."""
    fault = script.fault
    status, body = 200, words.whole(_all_told(script, ask))
    if (error := error_of(script, ask)) is not None:
        body = speech.error(error, status).body
    raw = json.dumps(body).encode()
    if fault is Fault.MALFORMED_JSON:
        raw = raw[: len(raw) // 2]
    data = answer(status, raw)
    if fault in (Fault.RESET, Fault.TRUNCATED, Fault.TRUNCATED_MID_CHUNK, Fault.STALL):
        data = data[: len(data) - len(raw) // 2]
    return Frame(script.ttft_seconds + sum(script.gaps_seconds), data, True)


def _all_told(script: Script, ask: Ask) -> Told:
    fault = script.fault
    reasoning, written = texts_of(script, ask)
    is_empty = fault is Fault.EMPTY_ANSWER
    is_refusal = fault is Fault.REFUSAL
    return Told(
        finish=finish_of(fault, script.finish_reason),
        counts=counts_told(script, ask, 0 if is_empty else None),
        reasoning="".join(reasoning),
        answer="" if is_empty or is_refusal else "".join(written),
        refusal=REFUSAL if is_refusal else "",
    )


def _streamed(words: Vocabulary, script: Script, endpoint: SimEndpoint, ask: Ask) -> Iterator[Frame]:
    fault = script.fault
    headers = {
        "content-type": "text/plain" if fault is Fault.WRONG_CONTENT_TYPE else words.content_type,
        "cache-control": "no-cache",
        "x-request-id": identity(endpoint.id, script.number),
    }
    # A body that ends with its connection: to HTTP the truncated one is whole, and only the stream knows better.
    chunked = fault is not Fault.TRUNCATED
    headers |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
    frame = _http_chunk if chunked else bytes
    encode: Callable[[bytes], bytes] = bytes
    packer = None
    if fault is Fault.GZIP:
        headers["content-encoding"] = "gzip"
        packer = zlib.compressobj(wbits=31)
        encode = _packed_by(packer)
    elif fault is Fault.CRLF:
        encode = _with_line_ends(words, b"\r\n")
    yield Frame(script.headers_seconds, head(200, headers))

    data = b""
    for gap, event, generated in _events(words, script, ask):
        data = frame(encode(event))
        yield Frame(gap, data, generated)
    if fault is Fault.RESET:
        yield Frame(_BEFORE_RESET_SECONDS, b"")
    elif fault is Fault.TRUNCATED_MID_CHUNK:
        yield Frame(0.0, data[: len(data) // 2])
    elif chunked and fault not in (Fault.STALL, Fault.HELD_OPEN):
        yield Frame(0.0, (frame(packer.flush()) if packer else b"") + b"0\r\n\r\n")


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _packed_by(packer: zlib._Compress) -> Callable[[bytes], bytes]:
    return lambda event: packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)


def _with_line_ends(words: Vocabulary, line_end: bytes) -> Callable[[bytes], bytes]:
    return lambda event: words.with_line_ends(event, line_end)


def _dribbled(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        gap = max(frame.gap_seconds, _BYTE_SECONDS)
        for byte in frame.data:
            yield Frame(gap, bytes((byte,)), frame.generated)
            gap = _BYTE_SECONDS


def _events(words: Vocabulary, script: Script, ask: Ask) -> Iterator[Frame]:
    """The stream's events, with the gap before each."""
    fault = script.fault
    if fault is Fault.KEEP_ALIVE_FOREVER:
        while True:
            yield Frame(_COMMENT_SECONDS, words.keep_alive())
    yield from (Frame(0.0, event) for event in words.opening())
    wait = script.ttft_seconds - script.headers_seconds
    if fault is Fault.ROLE_ONLY_START:
        for _ in range(4):
            yield Frame(0.1, words.nothing())
        wait = max(wait - 0.4, 0.0)
    if fault is not None and NATURES[fault].reach is Reach.EVENTS and fault is not Fault.SLOW_FIRST_TOKEN:
        yield from _tokenless(words, script, ask, wait)
        if fault is not Fault.EMPTY_ANSWER:
            return
    else:
        yield from _generated(words, script, ask, wait)
        if fault in (Fault.STALL, Fault.RESET, Fault.TRUNCATED, Fault.TRUNCATED_MID_CHUNK):
            return
        if (error := error_of(script, ask)) is not None:
            yield Frame(script.end_seconds, words.error(error))
            return
        if fault is Fault.MALFORMED_JSON:
            yield Frame(script.end_seconds, words.broken())
    told = 0 if fault is Fault.EMPTY_ANSWER else told_tokens(script)
    counts = counts_told(script, ask, told) if ask.include_usage else None
    gap = script.end_seconds
    for event in words.ending(finish_of(fault, script.finish_reason), counts):
        yield Frame(gap, event)
        gap = 0.0
    if fault is Fault.TRAILING_GARBAGE:
        yield Frame(0.0, words.garbage())


def _tokenless(words: Vocabulary, script: Script, ask: Ask, wait: float) -> Iterator[Frame]:
    fault = script.fault
    if (error := error_of(script, ask)) is not None:
        yield Frame(wait, words.error(error))
    elif fault is Fault.HUGE_LINE:
        yield Frame(wait, words.answer("x" * _HUGE_LINE_BYTES))
    elif fault is Fault.DEEP_JSON:
        yield Frame(wait, words.deep(_DEPTH))
    elif fault is Fault.HUGE_BODY:
        event = words.padding(_HUGE_EVENT_BYTES)
        for _ in range(_HUGE_BODY_EVENTS):
            yield Frame(wait, event)
            wait = 0.001


def _generated(words: Vocabulary, script: Script, ask: Ask, wait: float) -> Iterator[Frame]:
    reasoning, written = texts_of(script, ask)
    say = words.refusal if script.fault is Fault.REFUSAL else words.answer
    pieces = [(words.reasoning, text) for text in reasoning] + [(say, text) for text in written]
    if script.fault is Fault.CRAWL:
        while True:
            for word, text in pieces:
                yield Frame(wait, word(text), True)
                wait = CRAWL_SECONDS
    for gap, (word, text) in zip((wait, *script.gaps_seconds), pieces[: script.broken_after], strict=False):
        yield Frame(gap, word(text), True)
