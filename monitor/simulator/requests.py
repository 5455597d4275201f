"""Bytes of an HTTP/1.1 connection to requests. Pure, and only what clients of a chat API send.

BadRequest   the bytes are no request that the simulator reads; carries the status to answer with
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from monitor.simulator.wire import Ask

_HEAD_BYTES = 64 * 1024
_BODY_BYTES = 4 * 1024 * 1024
_DEFAULT_MAX_TOKENS = 1024


class BadRequest(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def as_json(self) -> dict[str, object]:
        error = {"message": self.message, "type": "invalid_request_error", "param": None, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole. Header names are lower-case; the last of a repeated header holds."""

    method: str
    path: str  # without its query
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """The bearer key; empty if none was sent."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else ""


class RequestReader:
    """Collects bytes until a request is whole. Not for several tasks."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """The next whole request; None if more bytes are needed. BadRequest if there will never be one."""
        end = self._buffer.find(b"\r\n\r\n")
        if (len(self._buffer) if end < 0 else end) > _HEAD_BYTES:
            raise BadRequest(431, "The request's headers are longer than 64 KiB.")
        if end < 0:
            return None
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest(400, "This is not an HTTP/1.1 request.")
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest(400, "A header line has no colon.")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isascii() or not length.isdigit():
            raise BadRequest(411, "Send the body with a content-length.")
        if int(length) > _BODY_BYTES:
            raise BadRequest(413, "The body is larger than 4 MiB.")
        whole = end + 4 + int(length)
        if len(self._buffer) < whole:
            return None
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        return Request(words[0], words[1].partition("?")[0], headers, body)


def object_of(body: bytes) -> dict[str, object]:
    """The JSON object that `body` is; BadRequest if it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
        )
    return value


def ask_of(body: bytes, key: str = "") -> Ask:
    """What a chat completion's body asks for; BadRequest in OpenAI's words where it cannot be read."""
    value = object_of(body)
    for name in ("model", "messages"):
        if not value.get(name):
            raise BadRequest(400, f"Missing required parameter: '{name}'.", "missing_required_parameter")
    model, messages = value["model"], value["messages"]
    if not isinstance(model, str) or not isinstance(messages, list):
        raise BadRequest(400, "Invalid type for 'model' or 'messages'.", "invalid_type")
    cap = value.get("max_completion_tokens", value.get("max_tokens"))
    if cap is None:
        cap = _DEFAULT_MAX_TOKENS
    if not isinstance(cap, int) or isinstance(cap, bool) or cap < 1:
        raise BadRequest(400, "Invalid 'max_tokens': expected an integer of at least 1.", "invalid_value")
    options = value.get("stream_options")
    return Ask(
        upstream=model,
        prompt=_last_text(messages),
        stream=value.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=cap,
        key=key,
    )


def _last_text(messages: list[object]) -> str:
    last = messages[-1]
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str):
        raise BadRequest(400, "Invalid type for 'messages[-1].content'.", "invalid_type")
    return content
