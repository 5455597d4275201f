"""A real Prometheus that has scraped two monitors' pages and evaluated the rules over them."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.sample_metrics import Monitor

RULES = Path(__file__).parents[2] / "dashboards" / "prometheus"
SCRAPE_SECONDS = 0.4
# Enough for rate() over `RATE_INTERVAL` to have its two samples.
SCRAPES = 4
RATE_INTERVAL = "5s"


class Prometheus:
    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str | float) -> Any:
        """The answer's `data`; AssertionError with Prometheus's own words if it refuses."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expr: str) -> dict[Mapping[str, str], float]:
        """An instant query: labels (as a sorted tuple of pairs) -> value."""
        found = self.get("query", query=expr)["result"]
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found}  # type: ignore[misc]

    def range(self, expr: str) -> list[Any]:
        now = time.time()
        return list(self.get("query_range", query=expr, start=now - 2, end=now, step=1)["result"])

    def answers(self) -> bool:
        try:
            scraped = self.query('min(count_over_time(up{job="llm-provider-monitor"}[1m]))')
            recorded = self.query("fleet:llm_model_available:ratio")
        except (OSError, AssertionError):
            return False
        return bool(recorded) and min(scraped.values(), default=0) >= SCRAPES


@pytest.fixture(scope="session")
def monitors() -> Iterator[list[str]]:
    """Two servers' addresses, `host:port`."""
    started_at = time.time() - 3600
    pages = [Monitor(started_at), Monitor(started_at + 60)]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(page)) for page in pages]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield [f"127.0.0.1:{server.server_port}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler_of(monitor: Monitor) -> type[BaseHTTPRequestHandler]:
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with turn:
                body = asyncio.run(monitor.page(time.time()))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="session")
def prometheus(monitors: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not there: deploy/install-test-packages")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{SCRAPE_SECONDS}s")
    config["global"] = {name: f"{int(SCRAPE_SECONDS * 1000)}ms" for name in config["global"]}
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["scrape_configs"][0].pop("scrape_timeout")
    config["scrape_configs"][0]["static_configs"][0]["targets"] = monitors
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Prometheus(port)
        deadline = time.monotonic() + 40
        while not server.answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(20)
