"""Asking whatever listens where a daemon should."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from monitor.catalog.model import Catalog
from monitor.commands.asking import NoAnswer, NotAMonitor, ask
from monitor.settings import Settings

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def saying(text: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()
        writer.close()

    return answer


def http(status: int, body: bytes) -> Answer:
    return saying(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


async def asked(answer: Answer) -> dict[str, object]:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await ask(Settings(Path(), Catalog({}, {}, {}), listen_port=port), "/api/v1/routing", "endpoints")


async def test_a_daemons_answer_is_handed_on() -> None:
    assert await asked(http(200, b'{"endpoints": []}')) == {"endpoints": []}


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (http(404, b"<html>"), NotAMonitor, "answered 404 with something else than JSON"),
        (http(200, b"[]"), NotAMonitor, "answered 200: not what a monitor says"),
        (http(200, b'{"error": "no"}'), NotAMonitor, "answered 200: not what a monitor says"),
        (http(503, b'{"error": {"code": 503, "message": "being restored"}}'), NotAMonitor, "503: being restored"),
        (saying(b"SSH-2.0-x\r\n"), NotAMonitor, "^what listens there does not speak HTTP$"),
        (saying(b""), NotAMonitor, r"^it closed the connection without an answer$"),
    ],
)
async def test_what_came_instead_is_said_in_words(answer: Answer, kind: type[NoAnswer], said: str) -> None:
    with pytest.raises(NoAnswer, match=said) as caught:
        await asked(answer)
    assert isinstance(caught.value, kind)
    assert "aiohttp" not in str(caught.value)
    assert "ssl:default" not in str(caught.value)


async def test_nobody_is_nobody() -> None:
    for host in ("127.0.0.1", "::"):
        with pytest.raises(NoAnswer, match=r"^nobody listens there$"):
            await ask(Settings(Path(), Catalog({}, {}, {}), listen_host=host, listen_port=1), "/", "endpoints")
