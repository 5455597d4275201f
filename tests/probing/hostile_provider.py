"""A provider in a process of its own that means harm. Says its port, then serves until it is killed.

Each path pours one kind of thing for as long as it is read; /mute takes the request and says nothing.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Callable
from itertools import repeat

from provider_process import listen

OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"\r\n"
GZIP = OK + b"content-encoding: gzip\r\n\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
TOKEN = b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "word "}}]}).encode() + b"\n\n"
_PRELUDE = struct.pack("!II", 16, 0)
_HEAD = _PRELUDE + struct.pack("!I", zlib.crc32(_PRELUDE))
EMPTY_MESSAGE = _HEAD + struct.pack("!I", zlib.crc32(_HEAD))

# path: (dialect, what comes first, what comes again and again (or what makes it: some take long), seconds between)
POURERS: dict[str, tuple[str, bytes, bytes | Callable[[], bytes], float]] = {
    "tokens": ("openai-chat", PLAIN, TOKEN * 500, 0.0),
    "line": ("openai-chat", PLAIN, b"x" * 65536, 0.0),
    "event": ("openai-chat", PLAIN, b"data: ab\n" * 7000, 0.0),
    "comments": ("anthropic", PLAIN, b":\n" * 30_000, 0.0),
    "dribble": ("openai-chat", PLAIN, b"d", 0.001),
    "bomb": ("anthropic", GZIP, lambda: gzip.compress(b"\n" * (64 << 20)), 0.0),
    "lines-in-gzip": ("openai-chat", GZIP, lambda: gzip.compress(b"data: ab\n" * 900_000), 0.0),
    "values": ("ollama", PLAIN, b"{}" * 30_000, 0.0),
    "values-in-gzip": ("ollama", GZIP, lambda: gzip.compress(b"{}\n" * 2_700_000), 0.0),
    "value": ("ollama", PLAIN + b'{"x": "', b"y" * 65536, 0.0),
    "array": ("gemini", PLAIN + b"[", b"{}," * 20_000, 0.0),
    "messages": ("bedrock", PLAIN, EMPTY_MESSAGE * 4000, 0.0),
    "extension": ("openai-chat", CHUNKED + b"5;", b"x" * 65536, 0.0),
    "interim": ("openai-chat", b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 2000, 0.0),
    "headers": ("openai-chat", OK, b"x: y\r\n" * 10_000, 0.0),
    "refusal": ("openai-chat", b"HTTP/1.1 429 X\r\n\r\n", b"<title" * 10_000, 0.0),
}

_pieces: dict[str, bytes] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        kind = request.split(b" ")[1].split(b"/")[1].decode()
        if kind == "mute":
            await reader.read()
            await reader.read()
            return
        _, first, _, pause = POURERS[kind]
        writer.write(first)
        for one in repeat(_pieces[kind]):
            writer.write(one)
            await writer.drain()
            await asyncio.sleep(pause)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


if __name__ == "__main__":
    _pieces |= {kind: piece() if callable(piece) else piece for kind, (_, _, piece, _) in POURERS.items()}
    listen(serve)
