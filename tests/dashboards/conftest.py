"""A real Prometheus that has scraped two monitors' pages and evaluated the rules over them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from live_prometheus import SCRAPE_INTERVAL, Prometheus
from ports import free_port
from sample_metrics import Monitor

from monitor.web.formats import TEXT, Format, preferred

RULES = Path(__file__).parents[2] / "dashboards" / "prometheus"


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not there: deploy/install-test-packages")
    return found


# Not for the session: it would go on scraping beside all other tests.
@pytest.fixture(scope="module")
def monitors() -> Iterator[list[str]]:
    """Two servers' addresses, `host:port`. One speaks the text format alone, the other what Prometheus likes better."""
    started_at = time.time() - 3600
    pages = [Monitor(started_at), Monitor(started_at + 60)]
    formats = [lambda _accept: TEXT, preferred]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(*each)) for each in zip(pages, formats, strict=True)]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield [f"127.0.0.1:{server.server_port}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler_of(monitor: Monitor, format_of: Callable[[str], Format]) -> type[BaseHTTPRequestHandler]:
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with turn:
                form = format_of(self.headers["Accept"])
                body = asyncio.run(monitor.page(time.time(), form))
            self.send_response(200)
            self.send_header("Content-Type", form.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def prometheus(monitors: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not there: deploy/install-test-packages")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), SCRAPE_INTERVAL)
    config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
    config["scrape_configs"][0].pop("scrape_timeout")
    config["scrape_configs"][0]["static_configs"][0]["targets"] = monitors
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
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
        deadline = time.monotonic() + 90
        while not server.answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(60)
