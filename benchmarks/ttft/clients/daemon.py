"""The daemon as shipped: `monitor run` on a database of its own, scraped and polled, read from its observations."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ttft.cell import Cell, Sample, Told, Unavailable
from benchmarks.ttft.processes import Watch, pinned, stop

_READY = re.compile(r"ready listen=http://([0-9.:]+)/")
_READY_SECONDS = 60.0
_OBSERVATIONS = """SELECT response_id, ttft_seconds, latency_seconds, clock, first_token_shared, outcome
FROM observations"""


def measure(cell: Cell) -> Told:
    config = cell.directory / "monitor.yaml"
    interval_seconds = max(1.0, 2 * cell.stream_seconds)
    config.write_text(_configuration(cell, interval_seconds))
    log = cell.directory / "daemon.log"
    command = [sys.executable, "-m", "monitor", "run", "-c", str(config)]
    with (
        log.open("wb") as sink,
        pinned(command, cell.cores.client, stderr=sink, is_realtime=cell.is_realtime) as process,
    ):
        address = _address(process, log)
        with Watch(process.pid) as usage, _asked(cell, address) as asked:
            # Every endpoint has had a turn, and the first ones' answers are over, before anything counts.
            time.sleep(cell.warm_up_seconds + cell.seconds + cell.stream_seconds)
        stop(process)
    return _told(cell, usage, asked)


def _configuration(cell: Cell, interval_seconds: float) -> str:
    """So many endpoints that `streams` are in flight on average; no probe meets its endpoint's next."""
    endpoints = max(1, round(cell.streams * interval_seconds / cell.stream_seconds))
    lines = [
        "listen: 127.0.0.1:0",
        f"database: sqlite:///{cell.directory}/monitor.db",
        "location: benchmark",
        f"probing: {{interval: {round(interval_seconds * 1000)}ms, concurrency: {2 * cell.streams + 8}}}",
        "providers:",
    ]
    lines += [
        f"  provider-{number}: {{dialect: openai-chat, base_url: '{url}'}}" for number, url in enumerate(cell.base_urls)
    ]
    lines.append("models:")
    providers = len(cell.base_urls)
    for model in range(-(-endpoints // providers)):
        offers = range(model * providers, min(endpoints, (model + 1) * providers))
        lines += [f"  benchmark/model-{model}:", "    endpoints:"]
        lines += [
            f"      - {{provider: provider-{offer % providers}, upstream: truth, price: {{input: 0.15, output: 0.6}}}}"
            for offer in offers
        ]
    return "\n".join(lines) + "\n"


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := _READY.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    lines = log.read_text(errors="replace").splitlines()
    raise Unavailable(f"the daemon did not get ready: {lines[-1] if lines else 'it said nothing'}")


@contextmanager
def _asked(cell: Cell, address: str) -> Iterator[dict[str, dict[str, float]]]:
    """Scraper and router, and the noisy neighbour where there is one; what they were answered, once it is over."""
    asked: dict[str, dict[str, float]] = {}
    out = cell.directory / "pollers.json"
    poll = [sys.executable, "-m", "benchmarks.ttft.pollers", address]
    burn = [sys.executable, "-m", "benchmarks.ttft.burner"] if cell.is_noisy else [sys.executable, "-c", ""]
    with out.open("wb") as sink, pinned(poll, cell.cores.rest, stdout=sink, stderr=None) as pollers:
        with pinned(burn, cell.cores.client, stderr=None):
            yield asked
        stop(pollers)
    asked.update(json.loads(out.read_text() or "{}"))


def _told(cell: Cell, usage: object, asked: dict[str, dict[str, float]]) -> Told:
    with sqlite3.connect(cell.directory / "monitor.db") as database:
        rows = database.execute(_OBSERVATIONS).fetchall()
    good = [row for row in rows if row[0] and row[1] is not None and row[2] is not None]
    clocks = Counter(row[3] for row in good)
    shared = sum(row[4] for row in good)
    bad = Counter(row[5] for row in rows if row[5] not in ("success", "shutdown"))
    notes = ["clock " + ", ".join(f"{name} {count}" for name, count in clocks.items())]
    notes.append(f"first token shared {shared} of {len(good)}")
    notes += [f"{outcome} {count}" for outcome, count in bad.items()]
    for name, one in asked.items():
        notes.append(
            f"/{name}: {one['answers']} answers, {one['not_modified']} not modified, {one['failures']} failed, "
            f"{one['body_bytes'] / 1e6:.1f} MB, slowest {one['slowest_seconds'] * 1000:.0f} ms"
        )
    return Told([Sample(*row[:3]) for row in good], usage, failures=sum(bad.values()), notes=notes)
