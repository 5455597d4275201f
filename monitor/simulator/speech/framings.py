"""Framings that several speeches share."""

from __future__ import annotations

import re

from monitor.simulator.speech.speech import Vocabulary, compact

_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def sse_event(data: str, event: str = "") -> bytes:
    """One server-sent event with its data on one line."""
    return (f"event: {event}\n" if event else "").encode() + b"data: " + data.encode() + b"\n\n"


def json_event(value: object, event: str = "") -> bytes:
    return sse_event(compact(value), event)


class ServerSentEvents(Vocabulary):
    """What all vocabularies in server-sent events have in common."""

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def garbage(self) -> bytes:
        return b'\x00<eof>data: {"choices": [{"delta\n\n'

    def with_line_ends(self, event: bytes, line_end: bytes) -> bytes:
        """The JSON, too, stands on two data lines, cut where white space may stand."""
        comma = _JSON_STRING.sub(lambda string: b"x" * len(string[0]), event).find(b",")
        if comma >= 0:
            event = event[: comma + 1] + b"\ndata: " + event[comma + 1 :]
        return event.replace(b"\n", line_end)


class JsonLines(Vocabulary):
    """What all vocabularies in newline-delimited JSON have in common."""

    content_type = "application/x-ndjson"

    def keep_alive(self) -> bytes:
        return b"\n"

    def garbage(self) -> bytes:
        return b'\x00<eof>{"message": {"content\n'

    def with_line_ends(self, event: bytes, line_end: bytes) -> bytes:
        return event.replace(b"\n", line_end)
