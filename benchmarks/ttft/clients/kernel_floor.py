"""The floor of the method: a bare epoll loop with the kernel's receive stamps, and no client that anybody would use.

It shows how small an error the ground truth can tell. Not among the default clients, and never in a ratio.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from urllib.parse import urlsplit

from benchmarks.ttft.clients.closed_loop import Options, options

_SO_TIMESTAMPNS = 35
_FIRST_TOKEN = b'"delta":{"content":"'
_END = b"data: [DONE]"


class _Line:
    """One connection, one request after the other."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.response_id = ""
        self._began = 0
        self._first = 0

    def ask(self) -> None:
        body = json.dumps({"stream": True, "messages": [{"role": "user", "content": "word and count"}]}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: truth\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._first, self.response_id = 0, ""
        self._began = time.monotonic_ns()
        self.socket.send(head + body)

    def read(self) -> list[object] | None:
        """The sample once the response is over."""
        data, ancillary, _, _ = self.socket.recvmsg(1 << 16, 64)
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
        at = seconds * 1_000_000_000 + nanoseconds - time.time_ns() + time.monotonic_ns()
        if not self.response_id and (place := data.find(b'"id":"')) >= 0:
            self.response_id = data[place + 6 : data.index(b'"', place + 6)].decode()
        if not self._first and _FIRST_TOKEN in data:
            self._first = at
        if _END in data:
            return [self.response_id, (self._first - self._began) / 1e9, (at - self._began) / 1e9]
        return None


def _run(given: Options) -> list[list[object]]:
    address = urlsplit(given.base_url)
    waiting = [_Line(address.hostname, address.port) for _ in range(given.streams)]
    epoll = select.epoll()
    lines = {line.socket.fileno(): line for line in waiting}
    for number in lines:
        epoll.register(number, select.EPOLLIN)
    samples = []
    begun = time.monotonic()
    busy = 0
    while waiting or busy:
        elapsed = time.monotonic() - begun
        if elapsed > given.seconds + 15:
            break
        while waiting and elapsed >= given.ramp_seconds * (given.streams - len(waiting)) / given.streams:
            waiting.pop().ask()
            busy += 1
        for number, _ in epoll.poll(0.005 if waiting else 1.0):
            if sample := lines[number].read():
                samples.append(sample)
                if elapsed < given.seconds:
                    lines[number].ask()
                else:
                    busy -= 1
    return samples


if __name__ == "__main__":
    given = options()
    given.out.write_text(json.dumps({"samples": _run(given), "failures": []}))
