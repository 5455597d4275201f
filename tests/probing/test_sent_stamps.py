"""When a request left: the kernel's word, whatever held the process up around send()."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from monitor.clock import FakeClock, SystemClock
from monitor.probing import stamps
from monitor.probing.stamps import StampedSocket, has_kernel_stamps

pytestmark = pytest.mark.timed

kernel_only = pytest.mark.skipif(not has_kernel_stamps(), reason="no kernel stamps on this system")
Send = Callable[[StampedSocket, bytes], int]
SENDS = pytest.mark.parametrize(
    "send", [lambda one, data: one.send(data), lambda one, data: one.sendmsg([data])], ids=["send", "sendmsg"]
)


@kernel_only
@SENDS
def test_a_request_left_when_the_kernel_sent_it_and_not_when_send_was_called_or_came_back(
    send: Send, pair: tuple[StampedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    span: list[float] = []

    def held_up(inner: socket.socket, *arguments: Any) -> int:
        time.sleep(0.01)  # another thread has the processor
        span.append(time.monotonic())
        sent = real(inner, *arguments)
        span.append(time.monotonic())
        time.sleep(0.01)
        return sent

    real = socket.socket.sendmsg
    monkeypatch.setattr(socket.socket, "sendmsg", held_up)
    assert send(pair[0], b"request") == 7
    assert pair[0].sent_at is not None
    assert span[0] <= pair[0].sent_at <= span[1]
    assert pair[1].recv(10) == b"request"


@kernel_only
@SENDS
def test_only_the_first_write_of_a_request_is_asked_about(
    send: Send, pair: tuple[StampedSocket, socket.socket]
) -> None:
    left, right = pair
    send(left, b"head")
    first = left.sent_at
    send(left, b"body")
    assert left.sent_at == first
    left.sent_at = None  # as before the next request on this connection
    send(left, b"next")
    assert first is not None
    assert left.sent_at is not None
    assert left.sent_at > first
    assert right.recv(20) == b"headbodynext"


@kernel_only
def test_what_the_kernel_told_of_a_request_is_no_error_of_the_socket(pair: tuple[StampedSocket, socket.socket]) -> None:
    pair[0].send(b"request")
    assert not events_of(pair[0])
    pair[1].send(b"answer")
    assert pair[0].recv(10) == b"answer"


@kernel_only
@pytest.mark.parametrize(
    "read",
    [lambda one: one.recv(10), lambda one: one.recv_into(memoryview(bytearray(10)))],
    ids=["recv", "recv_into"],
)
def test_a_stamp_that_comes_late_keeps_nobody_busy(
    read: Callable[[StampedSocket], object], pair: tuple[StampedSocket, socket.socket]
) -> None:
    left = pair[0]
    socket.socket.sendmsg(left, [b"request"], stamps._ASK_FOR_STAMP)  # and nobody takes the stamp
    assert events_of(left) == select.EPOLLERR
    with pytest.raises(BlockingIOError):
        read(left)
    assert not events_of(left)


@kernel_only
def test_a_stamp_that_cannot_be_believed_leaves_the_moment_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clock = FakeClock()  # as if the wall clock had been set within send()
        with StampedSocket(clock, socket.AF_INET, socket.SOCK_STREAM, 0) as left:
            left.connect(listener.getsockname())
            left.send(b"request")
            assert left.sent_at == clock.monotonic()


@kernel_only
def test_a_kernel_that_stamps_nothing_sent_leaves_the_moment_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(inner: socket.socket, level: int, option: int, value: Any) -> None:
        if option == stamps._SO_TIMESTAMPING:
            raise OSError(92, "Protocol not available")
        real(inner, level, option, value)

    real = socket.socket.setsockopt
    monkeypatch.setattr(socket.socket, "setsockopt", refused)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        StampedSocket(SystemClock(), socket.AF_INET, socket.SOCK_STREAM, 0) as left,
    ):
        left.connect(listener.getsockname())
        before = time.monotonic()
        left.send(b"request")
        assert left.sent_at is not None
        assert before <= left.sent_at <= time.monotonic()
        right, _ = listener.accept()
        with right:
            assert right.recv(10) == b"request"


@kernel_only
@SENDS
def test_a_kernel_that_refuses_a_message_that_asks_gets_one_that_does_not(
    send: Send, pair: tuple[StampedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refused(inner: socket.socket, parts: Any, ancillary: Any = (), *more: Any) -> int:
        if ancillary:
            asked.append(ancillary)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(inner, parts, ancillary, *more)

    real = socket.socket.sendmsg
    monkeypatch.setattr(socket.socket, "sendmsg", refused)
    left, right = pair
    before = time.monotonic()
    for request in (b"first", b"second"):
        left.sent_at = None
        assert send(left, request) == len(request)
        assert left.sent_at is not None
        assert before <= left.sent_at <= time.monotonic()
        assert right.recv(10) == request
    assert len(asked) == 1


def events_of(one: socket.socket) -> int:
    with select.epoll() as epoll:
        epoll.register(one, select.EPOLLIN)
        return dict(epoll.poll(0)).get(one.fileno(), 0)
