"""Those who ask a daemon in service: Prometheus every few seconds, a router several times a second. And who wants
first bytes alone, plain and gzipped by turns: a scrape that is hung up on costs the daemon a hundredth of a whole one,
so that hundreds tell what the worst is.

How long a first byte took goes by the kernel's stamps at both ends, so that it is the daemon's time alone: whoever asks
shares a core with others, and wakes up late."""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.ttft.truth import quantile
from monitor.clock import SystemClock
from monitor.probing.pulse import wall_offset
from monitor.probing.stamps import StampedSocket

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SCRAPE_SECONDS = 5.0
POLL_SECONDS = 0.1
_LIFE_SECONDS = 900.0
FIRST_BYTES = "first bytes"
_SETTLE_SECONDS = 0.05  # until a connection is accepted, which is no part of a first byte
_PROMETHEUS_ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@dataclass(slots=True)
class Asked:
    answers: int = 0
    not_modified: int = 0
    failures: int = 0
    body_bytes: int = 0
    slowest_seconds: float = 0.0
    slowest_first_byte_seconds: float = 0.0
    median_first_byte_seconds: float = 0.0
    late_first_byte_seconds: float = 0.0  # p95
    latest_first_byte_seconds: float = 0.0  # p99
    seconds: float = 0.0  # all of them


class _Socket(StampedSocket):
    """Reads one byte of an answer first: a stamp is that of a read's last byte, and who wakes up late finds much."""

    __slots__ = ("first_stamp",)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        if self.first_stamp is not None:
            return super().recv_into(buffer, nbytes, flags)
        size = super().recv_into(buffer, 1, flags)
        self.first_stamp = self.stamp
        return size

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """A request is short: one send() takes it whole."""
        self.first_stamp = None
        if self.send(data, flags) < len(data):
            raise OSError("the request was not taken whole")


class StampedConnection(http.client.HTTPConnection):
    """Knows by the kernel's stamps how long the first byte of an answer took."""

    def connect(self) -> None:
        self._stamped = _Socket(SystemClock(), socket.AF_INET, socket.SOCK_STREAM, 0)
        self._stamped.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stamped.connect((self.host, self.port))
        self.sock = self._stamped

    def first_byte_seconds(self, begun: float) -> float:
        """Once the head of the answer has been read; `begun` (monotonic) where there are no stamps."""
        sent_at, stamp = self._stamped.sent_at, self._stamped.first_stamp
        self._stamped.sent_at = None  # the next request's is another
        if sent_at is None or stamp is None:
            return time.monotonic() - begun
        seconds, nanoseconds = struct.unpack("@qq", stamp)
        return float(seconds + nanoseconds / 1e9 - wall_offset(self._stamped.clock) - sent_at)


class _Poller:
    def __init__(self, address: str, path: str, every_seconds: float, headers: dict[str, str]) -> None:
        self.asked = Asked()
        self._first_bytes: list[float] = []
        to = urlsplit(f"//{address}")
        self._connection = StampedConnection(to.hostname or "", to.port)
        self._path = path
        self._every_seconds = every_seconds
        self._headers = headers

    def run(self, over: threading.Event) -> None:
        while not over.wait(self._pause_seconds()):
            begun = time.monotonic()
            try:
                self._ask()
            except (OSError, http.client.HTTPException):
                self.asked.failures += 1
                self._connection.close()
            taken = time.monotonic() - begun
            self.asked.seconds += taken
            self.asked.slowest_seconds = max(self.asked.slowest_seconds, taken)

    def _pause_seconds(self) -> float:
        return self._every_seconds

    def told(self) -> Asked:
        """What came until now."""
        if self._first_bytes:
            self.asked.median_first_byte_seconds = quantile(self._first_bytes, 0.5)
            self.asked.late_first_byte_seconds = quantile(self._first_bytes, 0.95)
            self.asked.latest_first_byte_seconds = quantile(self._first_bytes, 0.99)
            self.asked.slowest_first_byte_seconds = max(self._first_bytes)
        return self.asked

    def _ask(self) -> None:
        begun = time.monotonic()
        self._connection.request("GET", self._path, headers=self._headers)
        response = self._connection.getresponse()
        self._first_bytes.append(self._connection.first_byte_seconds(begun))
        self.asked.body_bytes += len(response.read())
        if response.status == 304:
            self.asked.not_modified += 1
        elif response.status == 200:
            self.asked.answers += 1
            if tag := response.getheader("ETag"):
                self._headers["If-None-Match"] = tag
        else:
            self.asked.failures += 1


class _Taster(_Poller):
    """Hangs up on each first byte. What it asks for is not in step with anything the daemon does every second."""

    def _pause_seconds(self) -> float:
        return random.uniform(0.5, 1.5) * self._every_seconds

    def _ask(self) -> None:
        self._headers["Accept-Encoding"] = "identity" if self._headers["Accept-Encoding"] == "gzip" else "gzip"
        self._connection.connect()
        time.sleep(_SETTLE_SECONDS)
        begun = time.monotonic()
        self._connection.request("GET", self._path, headers=self._headers)
        response = self._connection.getresponse()
        self._first_bytes.append(self._connection.first_byte_seconds(begun))
        self.asked.answers += response.status == 200
        # A reset, so that the daemon need not fill our buffer first.
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        response.close()
        self._connection.close()


def main() -> int:
    """Ask until SIGTERM; then print what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--scrape", type=float, default=SCRAPE_SECONDS, help="seconds between two scrapes")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, help="seconds between two polls of a router")
    parser.add_argument("--taste", type=float, default=0.0, help="seconds between two first bytes; 0 for none")
    parser.add_argument("--life", type=float, default=_LIFE_SECONDS, help="seconds after which they end by themselves")
    given = parser.parse_args()
    scraper = {"Accept": _PROMETHEUS_ACCEPT, "Accept-Encoding": "gzip"}
    pollers = {
        "metrics": _Poller(given.address, "/metrics", given.scrape, scraper),
        "routing": _Poller(given.address, "/api/v1/routing", given.poll, {"Accept-Encoding": "gzip"}),
    }
    if given.taste:
        pollers[FIRST_BYTES] = _Taster(given.address, "/metrics", given.taste, dict(scraper))
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    threads = [threading.Thread(target=one.run, args=(over,), daemon=True) for one in pollers.values()]
    for thread in threads:
        thread.start()
    over.wait(given.life)
    over.set()
    for thread in threads:
        thread.join(15)
    print(json.dumps({name: asdict(one.told()) for name, one in pollers.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
