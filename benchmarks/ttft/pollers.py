"""Those who ask a daemon in service: Prometheus every few seconds, a router several times a second."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass

SCRAPE_SECONDS = 5.0
POLL_SECONDS = 0.1
_LIFE_SECONDS = 900.0
_PROMETHEUS_ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@dataclass(slots=True)
class Asked:
    answers: int = 0
    not_modified: int = 0
    failures: int = 0
    body_bytes: int = 0
    slowest_seconds: float = 0.0
    slowest_first_byte_seconds: float = 0.0
    seconds: float = 0.0  # all of them


class _Poller:
    def __init__(self, address: str, path: str, every_seconds: float, headers: dict[str, str]) -> None:
        self.asked = Asked()
        self._connection = http.client.HTTPConnection(address, timeout=10)
        self._path = path
        self._every_seconds = every_seconds
        self._headers = headers

    def run(self, over: threading.Event) -> None:
        while not over.wait(self._every_seconds):
            begun = time.monotonic()
            try:
                self._ask()
            except (OSError, http.client.HTTPException):
                self.asked.failures += 1
                self._connection.close()
            taken = time.monotonic() - begun
            self.asked.seconds += taken
            self.asked.slowest_seconds = max(self.asked.slowest_seconds, taken)

    def _ask(self) -> None:
        begun = time.monotonic()
        self._connection.request("GET", self._path, headers=self._headers)
        response = self._connection.getresponse()
        self.asked.slowest_first_byte_seconds = max(self.asked.slowest_first_byte_seconds, time.monotonic() - begun)
        self.asked.body_bytes += len(response.read())
        if response.status == 304:
            self.asked.not_modified += 1
        elif response.status == 200:
            self.asked.answers += 1
            if tag := response.getheader("ETag"):
                self._headers["If-None-Match"] = tag
        else:
            self.asked.failures += 1


def main() -> int:
    """Ask until SIGTERM; then print what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--scrape", type=float, default=SCRAPE_SECONDS, help="seconds between two scrapes")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, help="seconds between two polls of a router")
    parser.add_argument("--life", type=float, default=_LIFE_SECONDS, help="seconds after which they end by themselves")
    given = parser.parse_args()
    scraper = {"Accept": _PROMETHEUS_ACCEPT, "Accept-Encoding": "gzip"}
    pollers = {
        "metrics": _Poller(given.address, "/metrics", given.scrape, scraper),
        "routing": _Poller(given.address, "/api/v1/routing", given.poll, {"Accept-Encoding": "gzip"}),
    }
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    threads = [threading.Thread(target=one.run, args=(over,), daemon=True) for one in pollers.values()]
    for thread in threads:
        thread.start()
    over.wait(given.life)
    over.set()
    for thread in threads:
        thread.join(15)
    print(json.dumps({name: asdict(one.asked) for name, one in pollers.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
