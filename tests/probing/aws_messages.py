"""AWS's event stream, written with nothing but `struct` and `zlib`."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any


def message(payload: bytes, headers: Mapping[str, str | int | bool | bytes]) -> bytes:
    packed = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    head = prelude + struct.pack("!I", zlib.crc32(prelude))
    return _sealed(head + packed + payload)


def event(name: str, value: Any) -> bytes:
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return message(_payload(value), headers)


def exception(name: str, value: Any) -> bytes:
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return message(_payload(value), headers)


def error(code: str, text: str) -> bytes:
    return message(b"", {":message-type": "error", ":error-code": code, ":error-message": text})


def text(piece: str) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})


def usage(prompt: int = 20, output: int = 10, **more: int) -> bytes:
    counts = {"inputTokens": prompt, "outputTokens": output, "totalTokens": prompt + output, **more}
    return event("metadata", {"metrics": {"latencyMs": 412}, "usage": counts})


def stop(reason: str = "end_turn") -> bytes:
    return event("messageStop", {"stopReason": reason})


def declared(total: int, headers: int) -> bytes:
    """A prelude that promises this, with its right checksum."""
    prelude = struct.pack("!II", total, headers)
    return prelude + struct.pack("!I", zlib.crc32(prelude))


def _payload(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    # Bedrock pads its events against those who count bytes.
    padded = {**value, "p": "abcdefghijkl"} if isinstance(value, dict) and "delta" in value else value
    return json.dumps(padded, separators=(",", ":"), ensure_ascii=False).encode()


def _sealed(body: bytes) -> bytes:
    return body + struct.pack("!I", zlib.crc32(body))


def _header(name: str, value: str | int | bool | bytes) -> bytes:
    head = bytes([len(name)]) + name.encode()
    if isinstance(value, bool):
        return head + bytes([0 if value else 1])
    if isinstance(value, int):
        return head + struct.pack("!Bi", 4, value)
    data = value.encode() if isinstance(value, str) else value
    return head + struct.pack("!BH", 7 if isinstance(value, str) else 6, len(data)) + data


START = event("messageStart", {"role": "assistant"})
BLOCK_STOP = event("contentBlockStop", {"contentBlockIndex": 0})
