"""A script as bytes with their times: openai-chat over HTTP/1.1, and every way of getting it wrong. Pure.

Frames come from a generator, one at a time as they fall due: a stream without end costs nothing ahead.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple

from monitor.probing.prompt import estimate_tokens
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import NATURES, Fault, Reach
from monitor.simulator.members import SimEndpoint, key_of

_CHAT_OVERHEAD_TOKENS = 8  # what a chat template adds to a single message
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
_THOUGHTS = ("Let", " me", " think", ":", " the", " word", " comes", " first", ",", " then", " the", " count", ".", " ")
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
class Ask:
    """What a client wants."""

    upstream: str
    prompt: str
    stream: bool
    include_usage: bool
    max_tokens: int
    key: str = ""

    @property
    def nonce(self) -> str:
        """The first word of the prompt, which a right answer repeats."""
        return self.prompt.split(maxsplit=1)[0].strip(".,:;!?\"'") if self.prompt.strip() else "nothing"


@dataclass(frozen=True, slots=True)
class Wire:
    frames: Iterator[Frame]
    ending: Ending


class _Event(NamedTuple):
    gap_seconds: float
    text: str
    generated: bool = False


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


def wire(script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Wire:
    """How `script` answers `ask`, which came at `at` (UTC seconds)."""
    fault = script.fault
    ending = Ending.KEEP if fault is None else _ENDINGS.get(fault, Ending.KEEP)
    nature = NATURES[fault] if fault is not None else None
    if nature is not None and nature.reach in (Reach.NOTHING, Reach.CONNECTED):
        frames = iter([Frame(script.headers_seconds, _flood() if fault is Fault.HEADER_FLOOD else b"")])
    elif nature is not None and nature.reach is Reach.ANSWERED and fault is not Fault.KEEP_ALIVE_FOREVER:
        frames = iter([Frame(script.headers_seconds, _plain_answer(script, ask))])
    elif not ask.stream or fault is Fault.WHOLE_ANSWER:
        return _whole(script, endpoint, ask, at, ending)
    elif fault is Fault.DRIBBLE:
        frames = _dribbled(_streamed(script, endpoint, ask, at))
    else:
        frames = _streamed(script, endpoint, ask, at)
    return Wire(frames, ending)


def prompt_tokens(prompt: str) -> int:
    return _CHAT_OVERHEAD_TOKENS + estimate_tokens(len(prompt.encode()))


def response_id(endpoint: str, number: int) -> str:
    return f"{response_prefix(endpoint)}{number & 0xFFFFFFFFFF:010x}"


def response_prefix(endpoint: str) -> str:
    return f"chatcmpl-{key_of(0, 'response', endpoint) >> 32:08x}"


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


def _flood() -> bytes:
    return head(
        200, {"content-type": "text/event-stream"} | {f"x-flood-{n}": "x" * 1000 for n in range(_FLOOD_HEADERS)}
    )


def _plain_answer(script: Script, ask: Ask) -> bytes:
    fault = script.fault
    if fault is Fault.HTML_PAGE:
        return answer(200, _PAGE, "text/html; charset=utf-8")
    if fault is Fault.REDIRECT:
        return answer(302, b"", "text/html", location="/login")
    if fault is Fault.EMPTY_BODY:
        return answer(200, b"", "text/event-stream")
    assert fault is not None
    nature = NATURES[fault]
    assert nature.error is not None and nature.status is not None
    body = json.dumps(nature.error.as_json())
    # The key comes back whole, as careless hosts do it: a monitor has to redact what it keeps.
    body = body.replace("{key}", json.dumps(ask.key)[1:-1]).replace("{model}", json.dumps(ask.upstream)[1:-1])
    retry = {"retry_after": str(script.retry_after_seconds)} if fault is Fault.RATE_LIMITED_429 else {}
    return answer(nature.status, body.encode(), **retry)


def texts_of(script: Script, ask: Ask) -> tuple[list[str], list[str]]:
    """The text of each reasoning chunk and of each answer chunk."""
    thoughts = (_THOUGHTS[place % len(_THOUGHTS)] for place in range(script.reasoning_tokens))
    words = [f"{ask.nonce} 1" if script.answer_ok else "Sure 1"]
    words += [f" {count}" for count in range(2, script.answer_tokens + 1)]
    written = iter(words)
    reasoning = ["".join(next(thoughts) for _ in range(size)) for size in script.reasoning_chunks]
    return reasoning, ["".join(next(written) for _ in range(size)) for size in script.answer_chunks]


def usage_of(script: Script, ask: Ask, told: int | None = None) -> dict[str, object]:
    prompt = prompt_tokens(ask.prompt)
    completion = script.output_tokens if told is None else told
    usage: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    if script.counts_reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": min(script.reasoning_tokens, completion)}
    return usage


def _whole(script: Script, endpoint: SimEndpoint, ask: Ask, at: float, ending: Ending) -> Wire:
    """Not streamed. Faults of a stream become what a whole answer can show of them."""
    fault, nature = script.fault, NATURES[script.fault] if script.fault is not None else None
    reasoning, written = texts_of(script, ask)
    message: dict[str, object] = {"role": "assistant", "content": "".join(written), "refusal": None}
    if reasoning:
        message[endpoint.profile.reasoning_field] = "".join(reasoning)
    finish, told = script.finish_reason, None
    if fault is Fault.REFUSAL:
        message |= {"content": None, "refusal": "I cannot help with that."}
    elif fault is Fault.EMPTY_ANSWER:
        message["content"], told = "", 0
    body: dict[str, object] = {
        "id": response_id(endpoint.id, script.number),
        "object": "chat.completion",
        "created": int(at),
        "model": endpoint.response_model or endpoint.upstream,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_of(fault, finish)}],
    }
    if fault is not Fault.MISSING_USAGE:
        body["usage"] = usage_of(script, ask, told)
    if nature is not None and nature.error is not None:
        body = nature.error.as_json()
    raw = json.dumps(body).encode()
    if fault is Fault.MALFORMED_JSON:
        raw = raw[: len(raw) // 2]
    data = answer(200, raw)
    if fault in (Fault.RESET, Fault.TRUNCATED, Fault.TRUNCATED_MID_CHUNK, Fault.STALL):
        data = data[: len(data) - len(raw) // 2]
    return Wire(iter([Frame(script.ttft_seconds + sum(script.gaps_seconds), data, True)]), ending)


def finish_of(fault: Fault | None, usual: str) -> str:
    if fault is Fault.ERROR_FINISH:
        return "error"
    return "content_filter" if fault is Fault.CONTENT_FILTER else usual


def _streamed(script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Iterator[Frame]:
    fault = script.fault
    headers = {
        "content-type": "text/plain" if fault is Fault.WRONG_CONTENT_TYPE else "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-request-id": response_id(endpoint.id, script.number)[9:],
    }
    # A body that ends with its connection: to HTTP the truncated one is whole, and only the stream knows better.
    chunked = fault is not Fault.TRUNCATED
    headers |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
    frame = _http_chunk if chunked else bytes
    encode: Callable[[str], bytes] = str.encode
    packer = None
    if fault is Fault.GZIP:
        headers["content-encoding"] = "gzip"
        packer = zlib.compressobj(wbits=31)
        encode = _packed_by(packer)
    elif fault is Fault.CRLF:
        encode = _crlf
    yield Frame(script.headers_seconds, head(200, headers))

    data = b""
    for gap, text, generated in _events(script, endpoint, ask, at):
        data = frame(encode(text))
        yield Frame(gap, data, generated)
    if fault is Fault.RESET:
        yield Frame(_BEFORE_RESET_SECONDS, b"")
    elif fault is Fault.TRUNCATED_MID_CHUNK:
        yield Frame(0.0, data[: len(data) // 2])
    elif chunked and fault not in (Fault.STALL, Fault.HELD_OPEN):
        yield Frame(0.0, (frame(packer.flush()) if packer else b"") + b"0\r\n\r\n")


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _packed_by(packer: zlib._Compress) -> Callable[[str], bytes]:
    return lambda text: packer.compress(text.encode()) + packer.flush(zlib.Z_SYNC_FLUSH)


def _crlf(text: str) -> bytes:
    """The same events with CRLF line ends, the JSON over two data lines at a place where white space may stand."""
    return text.replace(',"object"', ',\ndata: "object"', 1).replace("\n", "\r\n").encode()


def _dribbled(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        gap = max(frame.gap_seconds, _BYTE_SECONDS)
        for byte in frame.data:
            yield Frame(gap, bytes((byte,)), frame.generated)
            gap = _BYTE_SECONDS


class _Chunks:
    """Chunks of one response: everything but the choice is encoded once."""

    def __init__(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> None:
        opening = {
            "id": response_id(endpoint.id, script.number),
            "object": "chat.completion.chunk",
            "created": int(at),
            "model": endpoint.response_model or endpoint.upstream,
        }
        self._opening = "data: " + json.dumps(opening, separators=(",", ":"))[:-1]
        self._closing = ',"usage":null}\n\n' if ask.include_usage else "}\n\n"

    def delta(self, name: str, text: str) -> str:
        return (
            f'{self._opening},"choices":[{{"index":0,"delta":{{"{name}":{json.dumps(text)}}},'
            f'"logprobs":null,"finish_reason":null}}]{self._closing}'
        )

    def role(self) -> str:
        return (
            f'{self._opening},"choices":[{{"index":0,"delta":{{"role":"assistant","content":"","refusal":null}},'
            f'"logprobs":null,"finish_reason":null}}]{self._closing}'
        )

    def finish(self, reason: str) -> str:
        return (
            f'{self._opening},"choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]'
            f"{self._closing}"
        )

    def usage(self, usage: Mapping[str, object]) -> str:
        return f'{self._opening},"choices":[],"usage":{json.dumps(usage, separators=(",", ":"))}}}\n\n'

    def broken(self) -> str:
        return f'{self._opening},"choices":[{{"index":0,"delta":{{"con\n\n'


def _events(script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> Iterator[_Event]:
    """The stream's events as text, with the gap before each."""
    fault = script.fault
    if fault is Fault.KEEP_ALIVE_FOREVER:
        while True:
            yield _Event(_COMMENT_SECONDS, ": keep-alive\n\n")
    chunks = _Chunks(script, endpoint, ask, at)
    yield _Event(0.0, chunks.role())
    wait = script.ttft_seconds - script.headers_seconds
    if fault is Fault.ROLE_ONLY_START:
        for _ in range(4):
            yield _Event(0.1, chunks.delta("content", ""))
        wait = max(wait - 0.4, 0.0)
    if fault is not None and NATURES[fault].reach is Reach.EVENTS and fault is not Fault.SLOW_FIRST_TOKEN:
        yield from _tokenless(fault, chunks, wait)
        if fault is not Fault.EMPTY_ANSWER:
            return
    else:
        yield from _generated(script, endpoint, ask, chunks, wait)
        if fault in (Fault.STALL, Fault.RESET, Fault.TRUNCATED, Fault.TRUNCATED_MID_CHUNK):
            return
        if fault is Fault.ERROR_IN_STREAM:
            yield _error(fault, script.end_seconds)
            return
        if fault is Fault.MALFORMED_JSON:
            yield _Event(script.end_seconds, chunks.broken())
    yield _Event(script.end_seconds, chunks.finish(finish_of(fault, script.finish_reason)))
    if ask.include_usage and fault is not Fault.MISSING_USAGE:
        told = 0 if fault is Fault.EMPTY_ANSWER else told_tokens(script)
        yield _Event(0.0, chunks.usage(usage_of(script, ask, told)))
    yield _Event(0.0, "data: [DONE]\n\n")
    if fault is Fault.TRAILING_GARBAGE:
        yield _Event(0.0, '\x00<eof>data: {"choices": [{"delta\n\n')


def _tokenless(fault: Fault, chunks: _Chunks, wait: float) -> Iterator[_Event]:
    if NATURES[fault].error is not None:
        yield _error(fault, wait)
    elif fault is Fault.HUGE_LINE:
        yield _Event(wait, chunks.delta("content", "x" * _HUGE_LINE_BYTES))
    elif fault is Fault.DEEP_JSON:
        yield _Event(wait, 'data: {"choices":' + "[" * _DEPTH + "]" * _DEPTH + "}\n\n")
    elif fault is Fault.HUGE_BODY:
        event = 'data: {"choices":[],"padding":"' + "x" * _HUGE_EVENT_BYTES + '"}\n\n'
        for _ in range(_HUGE_BODY_EVENTS):
            yield _Event(wait, event)
            wait = 0.001


def _error(fault: Fault, wait: float) -> _Event:
    error = NATURES[fault].error
    assert error is not None
    return _Event(wait, f"data: {json.dumps(error.as_json())}\n\n")


def _generated(script: Script, endpoint: SimEndpoint, ask: Ask, chunks: _Chunks, wait: float) -> Iterator[_Event]:
    reasoning, written = texts_of(script, ask)
    answer_field = "refusal" if script.fault is Fault.REFUSAL else "content"
    pieces = [(endpoint.profile.reasoning_field, text) for text in reasoning]
    pieces += [(answer_field, text) for text in written]
    gaps = (wait, *script.gaps_seconds)
    if script.fault is Fault.CRAWL:
        while True:
            for name, text in pieces:
                yield _Event(wait, chunks.delta(name, text), True)
                wait = CRAWL_SECONDS
    for gap, (name, text) in zip(gaps, pieces[: script.broken_after], strict=False):
        yield _Event(gap, chunks.delta(name, text), True)


def told_tokens(script: Script) -> int | None:
    """What usage counts: what was written, if a fault stopped the writing."""
    if script.broken_after is None:
        return None
    hidden = 0 if script.reasoning_chunks else script.reasoning_tokens
    return hidden + sum((*script.reasoning_chunks, *script.answer_chunks)[: script.broken_after])
