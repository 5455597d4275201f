"""A provider in a process of its own, whose streams never end. Says its port, then serves until it is killed.

/mute       no status line             /comments   a comment every 50 ms, and no token
/silent     headers, and no more       /stall      tokens for half a second, then comments
/endless    a token every 50 ms        /roles      events without a token, every 50 ms
"""

from __future__ import annotations

import asyncio
import json

from provider_process import listen

PAUSE_SECONDS = 0.05
TOKENS_BEFORE_STALL = 10
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
COMMENT = b": processing\n\n"


def event(**delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


TOKEN, ROLE = event(content="word "), event(role="assistant", content="")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        request = await reader.readuntil(b"\r\n\r\n")
        kind = request.split(b" ")[1].split(b"/")[1].decode()
        if kind == "mute":
            await reader.read()
        writer.write(HEAD)
        said = 0
        while not writer.is_closing():
            if kind != "silent":
                is_token = kind == "endless" or (kind == "stall" and said < TOKENS_BEFORE_STALL)
                writer.write(TOKEN if is_token else ROLE if kind == "roles" else COMMENT)
                said += 1
            await asyncio.sleep(PAUSE_SECONDS)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()


if __name__ == "__main__":
    listen(serve)
