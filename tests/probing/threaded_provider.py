"""A provider in a thread of its own, which tells when it really received a request and really wrote each event.

It goes on while the event loop under test stands still, which is the point."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from probing_stage import DONE, ROLE, STOP, sse, text, usage

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Truth:
    """Monotonic seconds; one entry of `tokens` per event, just before and just after it was written."""

    port: int = 0
    request_at: list[float] = field(default_factory=list)
    tokens: list[tuple[float, float]] = field(default_factory=list)

    def ttft(self, request: int = 0, token: int = 0) -> tuple[float, float]:
        """The least and the most that the TTFT can have been, had this thread been run at once when it could."""
        before, after = self.tokens[token]
        return before - self.request_at[request], after - self.request_at[request]


def chunk(data: str) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data.encode())


@contextmanager
def telling(
    pauses: Sequence[float],
    *,
    tls: ssl.SSLContext | None = None,
    requests: int = 1,
    tail: Sequence[Any] = (STOP,),
    tail_after: float = 0.0,
) -> Iterator[Truth]:
    """Answer `requests` requests on one connection, each with a token after each of `pauses` seconds, and the end
    `tail_after` seconds behind the last."""
    truth = Truth()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    truth.port = listener.getsockname()[1]
    failures: list[BaseException] = []

    def answer(connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request or not request.endswith(b"}"):
            read = connection.recv(65536)
            truth.request_at.append(time.monotonic())
            if not read:
                return
            request += read
        connection.sendall(HEAD + chunk(sse(ROLE)))
        for number, pause in enumerate(pauses):
            time.sleep(pause)
            before = time.monotonic()
            connection.sendall(chunk(sse(text(f"token {number} "))))
            truth.tokens.append((before, time.monotonic()))
        time.sleep(tail_after)
        rest = "".join(sse(said) for said in (*tail, usage(completion=len(pauses)), DONE))
        connection.sendall(chunk(rest) + b"0\r\n\r\n")

    def serve() -> None:
        try:
            plain, _ = listener.accept()
            plain.settimeout(10)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = plain if tls is None else tls.wrap_socket(plain, server_side=True)
            with connection:
                for _ in range(requests):
                    answer(connection)
                connection.settimeout(0.5)
                connection.recv(1)
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield truth
    finally:
        listener.close()
        thread.join(10)
    if failures:
        raise failures[0]
