"""The transport of plain connections, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from monitor.probing.line import Line


class Ear(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.BaseTransport | None = None
        self.heard = b""
        self.ends: list[Exception | None] = []
        self.breaks = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.breaks:
            raise ZeroDivisionError
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)


class Pair:
    """A line with its ear, and the socket at the far end."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        near.setblocking(False)
        self.far.setblocking(False)
        self.near = near
        self.ear = Ear()
        self.line = Line(asyncio.get_running_loop(), near, self.ear)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    made.line.abort()
    await asyncio.sleep(0)
    made.far.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_line_is_ready_when_it_is_made(pair: Pair) -> None:
    assert pair.ear.transport is pair.line
    assert pair.line.get_extra_info("socket") is pair.near
    assert pair.line.get_extra_info("sslcontext") is None
    pair.line.write(b"ping")
    assert pair.far.recv(10) == b"ping"
    pair.far.send(b"pong")
    await until(lambda: pair.ear.heard == b"pong")


async def test_what_the_system_does_not_take_at_once_is_sent_in_order(pair: Pair) -> None:
    whole = bytes(range(256)) * 8192
    pair.line.write(whole)
    pair.line.write(b"last")
    taken = b""
    while len(taken) < len(whole) + 4:
        taken += await asyncio.get_running_loop().sock_recv(pair.far, 1 << 20)
    assert taken == whole + b"last"
    pair.line.write(b"once more")
    assert pair.far.recv(20) == b"once more"


async def test_nothing_is_read_while_reading_is_paused(pair: Pair) -> None:
    pair.line.pause_reading()
    pair.line.pause_reading()
    pair.far.send(b"later")
    await asyncio.sleep(0.01)
    assert (pair.ear.heard, pair.line.is_reading()) == (b"", False)
    pair.line.resume_reading()
    pair.line.resume_reading()
    await until(lambda: pair.ear.heard == b"later")


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("has_unsent", [False, True])
async def test_its_end_is_told_once_and_closes_the_socket(pair: Pair, has_unsent: bool, is_paused: bool) -> None:
    loop, descriptor = asyncio.get_running_loop(), pair.near.fileno()
    failed: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: failed.append(context))
    if has_unsent:
        pair.line.write(bytes(4 << 20))
    if is_paused:
        pair.line.pause_reading()
    pair.line.close()
    pair.line.abort()
    assert pair.line.is_closing() and not pair.line.is_reading()
    pair.line.write(b"too late")
    pair.line.resume_reading()
    # The next socket gets the number: what is left with the loop would be in its way.
    assert not loop.remove_reader(descriptor) and not loop.remove_writer(descriptor)
    await asyncio.sleep(0)
    assert pair.ear.ends == [None]
    assert pair.near.fileno() == -1
    heard = b"".join(iter(lambda: pair.far.recv(1 << 20), b""))
    assert (heard == b"") is not has_unsent and not heard.endswith(b"too late")
    await asyncio.sleep(0)
    assert (pair.ear.ends, failed) == ([None], [])


async def test_the_far_ends_end_is_told(pair: Pair) -> None:
    pair.far.send(b"last")
    pair.far.close()
    await until(lambda: pair.ear.ends)
    assert (pair.ear.heard, pair.ear.ends) == (b"last", [None])


async def test_a_reset_is_told_as_what_it_is(pair: Pair) -> None:
    pair.line.write(b"never read")
    pair.far.close()
    await until(lambda: pair.ear.ends)
    assert isinstance(pair.ear.ends[0], ConnectionResetError)


async def test_a_write_that_meets_nobody_ends_the_line(pair: Pair) -> None:
    pair.line.pause_reading()
    pair.far.close()
    pair.line.write(b"to nobody")
    await until(lambda: pair.ear.ends)
    assert isinstance(pair.ear.ends[0], BrokenPipeError)


async def test_a_protocol_that_fails_loses_its_connection_and_is_reported(pair: Pair) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    pair.ear.breaks = True
    pair.far.send(b"x")
    await until(lambda: pair.ear.ends)
    assert isinstance(told[0]["exception"], ZeroDivisionError)
    assert isinstance(pair.ear.ends[0], ZeroDivisionError)
