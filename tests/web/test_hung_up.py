"""Who goes away in the middle of an answer leaves none of it: nobody looks for cycles."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web

from monitor.clock import SystemClock
from monitor.web import sending
from monitor.web.sending import Gzipped, Sending

LARGE = bytes(1 << 20)


@contextmanager
def no_looks_for_cycles() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def hang_up(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - several tasks have to end
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("ends", ["they hang up", "we cut them off"])
async def test_what_was_being_sent_is_let_go(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ends == "we cut them off":
        monkeypatch.setattr(sending, "SENDING_SECONDS", 0.05)
    clock, readers = SystemClock(), Sending(1)
    sent, ended = [0], [0]

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            sent[0] += 1
            yield LARGE

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await readers.answer(request, {}, chunks, lambda: Gzipped(chunks(), clock), clock)
        finally:
            ended[0] += 1

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        before = sys.getrefcount(LARGE)
        with no_looks_for_cycles():
            for number in range(3):
                sent[0] = 0
                with socket.create_connection(runner.addresses[0][:2]) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: monitor\r\n\r\n")
                    if ends == "they hang up":
                        await until(lambda: sent[0] > 1)
                        await asyncio.sleep(0.02)  # there is no more room in the socket
                        hang_up(client)
                    await until(lambda: ended[0] > number)  # noqa: B023 - awaited here
            await until(lambda: sys.getrefcount(LARGE) == before)
    finally:
        await runner.cleanup()
