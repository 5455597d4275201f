"""Bytes of an HTTP/1.1 connection to requests. Pure, and only what clients of a chat API send.

BadRequest   the bytes are no request that the simulator reads; carries the status to answer with
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from monitor.outcome import Outcome
from monitor.simulator.faults import ErrorBody

_HEAD_BYTES = 64 * 1024
_BODY_BYTES = 4 * 1024 * 1024


class BadRequest(Exception):
    """`status`, `code` and `outcome` as an API would tell it. A speech says it in words of its own."""

    def __init__(
        self, status: int, message: str, code: str | None = None, outcome: Outcome = Outcome.BAD_REQUEST
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.outcome = status, message, code, outcome

    @property
    def error(self) -> ErrorBody:
        return ErrorBody(self.outcome, self.message, "invalid_request_error", self.code)

    def as_json(self) -> dict[str, object]:
        """As the simulator itself says it, where no dialect is spoken yet."""
        error = {"message": self.message, "type": "invalid_request_error", "param": None, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole. Header names are lower-case; the last of a repeated header holds."""

    method: str
    path: str  # as sent: percent-encoded, without its query
    headers: Mapping[str, str]
    body: bytes
    query: str = ""  # as sent, without its question mark


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
        path, _, query = words[1].partition("?")
        return Request(words[0], path, headers, body, query)


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
