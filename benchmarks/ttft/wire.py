"""The bytes of a streamed chat completion, built before anything is timed, and the little of HTTP that reads requests.

Ids have a fixed width, so that every chunk's length is known before its stream is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

MODEL = "truth"
TOKENS = 50
_ID_DIGITS = 9
_MARK = b"@" * _ID_DIGITS
_MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "benchmark"}]}


def response_id(number: int) -> str:
    return f"chatcmpl-{number:0{_ID_DIGITS}d}"


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    chunk = {
        "id": f"chatcmpl-{_MARK.decode()}",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _usage_event() -> bytes:
    chunk = {
        "id": f"chatcmpl-{_MARK.decode()}",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [],
        "usage": {"prompt_tokens": 32, "completion_tokens": TOKENS, "total_tokens": 32 + TOKENS},
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_ROLE = _HEAD + _chunked(_event({"role": "assistant", "content": ""}))
_LATER = [_chunked(_event({"content": f" {number}"})).split(_MARK) for number in range(1, TOKENS)]


def _end(with_usage: bool) -> bytes:
    usage = _chunked(_usage_event()) if with_usage else b""
    return _chunked(_event({}, "stop")) + usage + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


_ENDS = {asked: _end(asked) for asked in (False, True)}


def role_bytes(number: int) -> bytes:
    """Status line, headers and a first event without a token."""
    return _ROLE.replace(_MARK, b"%0*d" % (_ID_DIGITS, number))


def token_writes(number: int, first_word: str, with_usage: bool) -> Iterator[bytes]:
    """What is sent one by one: each token, then finish reason, usage and [DONE] together."""
    mark = b"%0*d" % (_ID_DIGITS, number)
    first = _chunked(_event({"content": first_word}).replace(_MARK, mark))
    ends = _ENDS[with_usage].replace(_MARK, mark)
    yield first
    for before, after in _LATER:
        yield before + mark + after
    yield ends


def whole_answer(body: dict[str, object]) -> bytes:
    return _answer(200, body)


def _answer(status: int, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    reason = b"OK" if status == 200 else b"Not Found"
    head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, reason, len(data)) + data


MODELS_ANSWER = _answer(200, _MODELS)
HEALTH_ANSWER = _answer(200, {"status": "ok"})
NOT_FOUND_ANSWER = _answer(404, {"error": {"message": "no such route", "type": "invalid_request_error"}})


def unstreamed_answer(number: int, first_word: str) -> bytes:
    message = {"role": "assistant", "content": first_word}
    return _answer(
        200,
        {
            "id": response_id(number),
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 32, "completion_tokens": 1, "total_tokens": 33},
        },
    )


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    body: bytes
    closes: bool


def cut_request(buffer: bytes) -> tuple[Request, bytes] | None:
    """The first whole request and the bytes after it; None while it is incomplete."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    lines = buffer[:head_end].split(b"\r\n")
    length = 0
    closes = False
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() == b"connection":
            closes = value.strip().lower() == b"close"
    end = head_end + 4 + length
    if len(buffer) < end:
        return None
    method, path, _ = lines[0].decode("latin-1").split(" ")
    return Request(method, path.partition("?")[0], buffer[head_end + 4 : end], closes), buffer[end:]


def prompt_of(body: dict[str, object]) -> str:
    """The text of the last message, whether it stands as a string or as parts."""
    messages = body.get("messages")
    content = messages[-1].get("content") if isinstance(messages, list) and messages else ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)
