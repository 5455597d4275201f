from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Iterator

import pytest

from monitor import loop
from monitor.loop import GATHER_SECONDS, MANY_STREAMS

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll on this system")


class Crowd:
    """A reader of so many streams, which takes none of what is found."""

    def __init__(self, streams: int = MANY_STREAMS) -> None:
        self.streams = streams

    def read(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return found

    def __len__(self) -> int:
        return self.streams


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_two_looks_are_a_span_apart_while_much_comes_in(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    looks: list[float] = []
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(left, select.EPOLLIN)
        right.send(b"x")  # never read: ready at every look
        for _ in range(20):
            assert selector.select(1.0)
            looks.append(time.monotonic())
    # A pause that a busy machine has drawn out is followed by none: of any two, one is kept.
    assert min(after - before for before, after in zip(looks, looks[2:], strict=False)) >= GATHER_SECONDS * 0.9


def test_after_a_pause_that_lasted_too_long_none_is_made(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = time.sleep

    def oversleep(seconds: float) -> None:
        slept.append(seconds)
        sleep(seconds + 0.005)

    monkeypatch.setattr(time, "sleep", oversleep)
    pair[1].send(b"x")  # never read: ready at every look
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(pair[0], select.EPOLLIN)
        pauses = []
        for _ in range(5):
            assert selector.select(1.0)
            pauses.append(len(slept))
    assert pauses == [0, 1, 1, 2, 2]


def test_what_is_ready_to_run_is_never_waited_with() -> None:
    async def main() -> float:
        begun = time.monotonic()
        for _ in range(500):
            await asyncio.sleep(0)
        return time.monotonic() - begun

    assert loop.run(main()) < 500 * GATHER_SECONDS


def test_a_timer_that_is_due_sooner_than_the_span_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    with loop.GatheringSelector() as selector:
        selector.readers.append(Crowd())
        selector.register(pair[0], select.EPOLLIN)
        selector.select(0)
        begun = time.monotonic()
        assert not selector.select(GATHER_SECONDS / 10)
        assert time.monotonic() - begun >= GATHER_SECONDS / 20


def test_while_few_streams_are_read_nobody_waits(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of a thread, or a request of many packets, would take a span for each step."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pair[1].send(b"x")  # never read: ready at every look
    with loop.GatheringSelector() as selector:
        selector.readers.extend((Crowd(MANY_STREAMS - 2), Crowd(1)))
        selector.register(pair[0], select.EPOLLIN)
        for _ in range(5):
            assert selector.select(1.0)
        assert not slept
        selector.readers.append(Crowd(1))
        assert selector.select(1.0)
    assert slept


async def test_a_run_is_on_such_a_loop() -> None:
    def kind() -> type:
        async def main() -> type:
            return type(asyncio.get_running_loop()._selector)

        return loop.run(main())

    assert await asyncio.to_thread(kind) is loop.GatheringSelector
