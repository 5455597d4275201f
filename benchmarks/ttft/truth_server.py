"""The ground truth: an OpenAI-compatible server that knows when requests arrived and when tokens left.

One thread around epoll, in a process and on a core of its own. A request's arrival is the kernel's receive stamp of the
read that completed it. A token's departure is the kernel's transmit stamp, which on loopback is taken inside send(),
right before the receiver's own; CLOCK_MONOTONIC is read around that call as well, and stands in where there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import heapq
import itertools
import json
import random
import select
import signal
import socket
import ssl
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ttft import wire
from benchmarks.ttft.secrecy import Secrecy, server_context
from benchmarks.ttft.truth import Exchange, Punctuality, prompt_hash, quantile, write_log

_SO_TIMESTAMPNS = 35
_SO_TIMESTAMPING = 37
_TX_SOFTWARE, _SOFTWARE, _TIMES_ONLY = 1 << 1, 1 << 4, 1 << 11
_ASK_TX_STAMP = [(socket.SOL_SOCKET, _SO_TIMESTAMPING, struct.pack("I", _TX_SOFTWARE))]
_TIMESPEC = struct.Struct("qq")
_MSG_ERRQUEUE = 0x2000
_PR_SET_TIMERSLACK = 29
_READ_BYTES = 1 << 16
_LIFE_SECONDS = 900  # nobody is left behind, whatever becomes of the parent

_now_ns = time.monotonic_ns


def _to_monotonic(stamp: bytes) -> int:
    """A stamp of CLOCK_REALTIME as of CLOCK_MONOTONIC, by the pair of clocks at this moment."""
    seconds, nanoseconds = _TIMESPEC.unpack_from(stamp)
    before = _now_ns()
    wall = time.time_ns()
    after = _now_ns()
    return seconds * 1_000_000_000 + nanoseconds - wall + (before + after) // 2


class _Pace:
    """When tokens leave: seeded draws, made before anything is timed."""

    def __init__(
        self, seed: int, ttft_seconds: tuple[float, float], gap_seconds: float, gap_spread: float = 0.0
    ) -> None:
        rng = random.Random(seed)
        self._ttfts = itertools.cycle([round(rng.uniform(*ttft_seconds) * 1e9) for _ in range(1 << 14)])
        # Uneven gaps: a steady beat would flatter a client that guesses where a token was.
        self._gaps = itertools.cycle([round(rng.uniform(0.5, 1.5) * gap_seconds * 1e9) for _ in range(1 << 16)])
        self._slownesses = itertools.cycle([rng.uniform(1 - gap_spread, 1 + gap_spread) for _ in range(1 << 14)])

    def ttft_ns(self) -> int:
        return next(self._ttfts)

    def gap_ns(self, slowness: float) -> int:
        return round(next(self._gaps) * slowness)

    def slowness(self) -> float:
        """Of one stream: how much longer its gaps are than the mean."""
        return next(self._slownesses)


class _Stream:
    __slots__ = ("connection", "exchange", "sent", "slowness", "writes")

    def __init__(self, connection: _Connection, exchange: Exchange, writes: Iterator[bytes], slowness: float) -> None:
        self.connection = connection
        self.exchange = exchange
        self.writes = writes
        self.slowness = slowness
        self.sent = 0


class _Connection:
    __slots__ = ("buffer", "closes", "port", "secrecy", "socket")

    def __init__(self, accepted: socket.socket, port: int, secrecy: Secrecy | None) -> None:
        self.socket = accepted
        self.port = port
        self.secrecy = secrecy
        self.buffer = b""
        self.closes = False

    def read(self) -> tuple[bytes, int] | None:
        """The bytes and when the last of them arrived; no bytes at the end, None where they say nothing yet."""
        data, ancillary, _, _ = self.socket.recvmsg(_READ_BYTES, 256)
        arrival_ns = next((_to_monotonic(stamp) for _, kind, stamp in ancillary if kind == _SO_TIMESTAMPNS), 0)
        if self.secrecy is not None and data:
            opened = self.secrecy.opened(data)
            if answer := self.secrecy.to_send():
                self.socket.send(answer)
            if opened is None:
                return None
            data = opened
        return data, arrival_ns or _now_ns()

    def send(self, data: bytes) -> None:
        self.socket.send(data if self.secrecy is None else self.secrecy.sealed(data))

    def send_stamped(self, data: bytes) -> tuple[int, int, int]:
        """Before, transmit stamp (0 if the kernel gave none), after."""
        if self.secrecy is not None:
            data = self.secrecy.sealed(data)
        before = _now_ns()
        self.socket.sendmsg([data], _ASK_TX_STAMP)
        after = _now_ns()
        stamp = self.transmit_stamp()
        return before, stamp if before <= stamp <= after else 0, after

    def transmit_stamp(self) -> int:
        try:
            _, ancillary, _, _ = self.socket.recvmsg(0, 512, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            return 0
        return next((_to_monotonic(stamp) for _, kind, stamp in ancillary if kind == _SO_TIMESTAMPING), 0)


class TruthServer:
    def __init__(self, hosts: list[str], pace: _Pace, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self.exchanges: list[Exchange] = []
        self._pace = pace
        self._numbers = itertools.count(1)
        self._sequence = itertools.count()
        self._due: list[tuple[int, int, _Stream]] = []
        self._lateness_ns = array("q")
        self._kernel_stamps = 0
        self._middles = 0
        self._is_over = False
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._listeners: dict[int, socket.socket] = {}
        self.port = 0
        for host in hosts:
            self._listen(host)

    def _listen(self, host: str) -> None:
        listener = socket.create_server((host, self.port), backlog=1024)
        listener.setblocking(False)
        # Accepted sockets inherit it, so that a request which is there before accept() has its stamp too.
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.port = listener.getsockname()[1]
        self._listeners[listener.fileno()] = listener
        self._epoll.register(listener, select.EPOLLIN)

    def stop(self, *_: object) -> None:
        self._is_over = True

    def run(self) -> None:
        waiting = [self._epoll.fileno()]
        while not self._is_over:
            wait_ns = self._send_due()
            # select() keeps microseconds where Python's epoll rounds up to milliseconds.
            if wait_ns <= 0 or select.select(waiting, (), (), min(wait_ns / 1e9, 0.2))[0]:
                for number, what in self._epoll.poll(0):
                    self._on_event(number, what)

    def punctuality(self) -> Punctuality:
        late_ms = [late / 1e6 for late in self._lateness_ns]
        return Punctuality(
            len(late_ms), quantile(late_ms, 0.5), quantile(late_ms, 0.99), self._kernel_stamps, self._middles
        )

    def _send_due(self) -> int:
        """Send what is due now, a batch at most; nanoseconds until the next."""
        due = self._due
        for _ in range(32):
            if not due:
                return 200_000_000
            wait_ns = due[0][0] - _now_ns()
            if wait_ns > 0:
                return wait_ns
            due_ns, _, stream = heapq.heappop(due)
            try:
                self._send_next(stream, due_ns)
            except OSError:
                self._close(stream.connection)
        return 0

    def _send_next(self, stream: _Stream, due_ns: int) -> None:
        if stream.connection.socket.fileno() < 0:
            return
        data = next(stream.writes)
        exchange = stream.exchange
        now_ns = _now_ns()
        self._lateness_ns.append(now_ns - due_ns)
        if stream.sent == 0:
            exchange.first_due_ns = due_ns
            before, stamp, after = stream.connection.send_stamped(data)
            exchange.first_before_ns, exchange.first_after_ns = before, after
            exchange.first_ns = self._departure(before, stamp, after)
        elif stream.sent == wire.TOKENS:
            exchange.done_ns = self._departure(*stream.connection.send_stamped(data))
            if stream.connection.closes:
                self._close(stream.connection)
            return
        else:
            stream.connection.send(data)
        stream.sent += 1
        # From now and not from when it was due: tokens must not bunch because this process had to wait for its core.
        self._schedule(now_ns + self._pace.gap_ns(stream.slowness), stream)

    def _departure(self, before: int, stamp: int, after: int) -> int:
        self._kernel_stamps += stamp > 0
        self._middles += stamp == 0
        return stamp or (before + after) // 2

    def _schedule(self, due_ns: int, stream: _Stream) -> None:
        heapq.heappush(self._due, (due_ns, next(self._sequence), stream))

    def _on_event(self, number: int, what: int) -> None:
        if number in self._listeners:
            self._accept(self._listeners[number])
            return
        connection = self._connections.get(number)
        if connection is None:
            return
        if what & select.EPOLLERR:
            connection.transmit_stamp()
        try:
            self._read(connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._close(connection)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, address = listener.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOFTWARE | _TIMES_ONLY)
                secrecy = None if self._context is None else Secrecy(self._context)
                self._connections[accepted.fileno()] = _Connection(accepted, address[1], secrecy)
                self._epoll.register(accepted, select.EPOLLIN | select.EPOLLRDHUP)

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None):
            connection.socket.close()

    def _read(self, connection: _Connection) -> None:
        found = connection.read()
        if found is None:
            return
        data, arrival_ns = found
        if not data:
            self._close(connection)
            return
        connection.buffer += data
        while found := wire.cut_request(connection.buffer):
            request, connection.buffer = found
            connection.closes = request.closes
            self._answer(connection, request, arrival_ns)

    def _answer(self, connection: _Connection, request: wire.Request, arrival_ns: int) -> None:
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            self._begin(connection, json.loads(request.body), arrival_ns)
        elif request.path.endswith("/models"):
            connection.send(wire.MODELS_ANSWER)
        elif request.path == "/health":
            connection.send(wire.HEALTH_ANSWER)
        else:
            connection.send(wire.NOT_FOUND_ANSWER)

    def _begin(self, connection: _Connection, body: dict[str, object], arrival_ns: int) -> None:
        number = next(self._numbers)
        prompt = wire.prompt_of(body)
        first_word = prompt.split(maxsplit=1)[0] if prompt.strip() else "token"
        if not body.get("stream"):
            connection.send(wire.unstreamed_answer(number, first_word))
            return
        options = body.get("stream_options")
        with_usage = bool(isinstance(options, dict) and options.get("include_usage"))
        exchange = Exchange(wire.response_id(number), prompt_hash(prompt), connection.port, arrival_ns)
        self.exchanges.append(exchange)
        connection.send(wire.role_bytes(number))
        writes = wire.token_writes(number, first_word, with_usage)
        stream = _Stream(connection, exchange, writes, self._pace.slowness())
        self._schedule(arrival_ns + self._pace.ttft_ns(), stream)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", action="append", required=True, help="a loopback address; may be given again")
    parser.add_argument("--log", type=Path, required=True, help="written at SIGTERM")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ttft", type=float, nargs=2, default=(0.2, 0.8), metavar=("LEAST", "MOST"))
    parser.add_argument("--gap", type=float, default=0.04, help="mean seconds between tokens")
    parser.add_argument("--gap-spread", type=float, default=0.0, help="by what share of it streams differ, at most")
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM: then it speaks TLS")
    parser.add_argument("--life", type=int, default=_LIFE_SECONDS, help="seconds after which it ends by itself")
    arguments = parser.parse_args()
    # Timers are let run 50 us late for the sake of batteries.
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    pace = _Pace(arguments.seed, tuple(arguments.ttft), arguments.gap, arguments.gap_spread)
    server = TruthServer(arguments.host, pace, None if arguments.tls is None else server_context(*arguments.tls))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, server.stop)
    signal.alarm(arguments.life)
    print(server.port, flush=True)
    gc.collect()
    gc.freeze()
    gc.disable()
    server.run()
    write_log(arguments.log, server.punctuality(), server.exchanges)
    return 0


if __name__ == "__main__":
    sys.exit(main())
