"""Thirty days of ten thousand endpoints: what they take on disk, and how long a start and the turn of an hour take.

python -m benchmarks history [endpoints [directory]]

Makes its database first (10,000 endpoints: some eight minutes and 8 GB), and removes it at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.history import past, rows, turn
from monitor.health.board import Board
from monitor.health.sketch import FIGURES
from monitor.settings import DatabaseSettings, Settings, load_settings
from monitor.storage.database import Database
from monitor.storage.history import History
from monitor.storage.restore import restore_board
from monitor.storage.window_sums import renew_sums

_PORT = 19777
_QUANTILES = (0.5, 0.9, 0.99)


def main(endpoints: str = "1000", directory: str | None = None) -> None:
    place = Path(tempfile.mkdtemp(prefix="history-", dir=directory))
    try:
        with _answering(place) as port:
            _measure(place, int(endpoints), port)
    finally:
        shutil.rmtree(place)


@contextlib.contextmanager
def _answering(place: Path) -> Iterator[int]:
    """The port of who answers the probes that a start sends meanwhile."""
    command = [sys.executable, "-m", "benchmarks.ttft.truth_server", "--host", "127.0.0.1", "--gap", "0.01"]
    command += ["--log", str(place / "truth.jsonl"), "--life", "7200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


def _measure(place: Path, endpoints: int, port: int) -> None:
    config = place / "monitor.yaml"
    config.write_text(_yaml(place, endpoints, port))
    settings = load_settings(config)
    print(f"history: {endpoints} endpoints at 60 s")
    rows_db = DatabaseSettings(url=f"sqlite:///{place}/rows.db")
    rows_log = asyncio.run(rows.main(place, replace(settings, database=rows_db)))
    path = place / "monitor.db"
    asyncio.run(past.make(path, settings))
    print(
        f"  rollups of {past.HOURLY_DAYS} and {past.DAILY_DAYS} days, an hour raw: {path.stat().st_size / 1e9:.2f} GB"
    )
    _restart(config, "a start from rollups alone")
    sums_log = asyncio.run(_sum(settings))
    _restart(config, "a start from window sums")
    asyncio.run(_quantiles(settings))
    closing_log = asyncio.run(turn.measure(settings))
    for what, each in (("hours closed", closing_log), ("window sums", sums_log)):
        print(f"  the log, {what}: {each / endpoints:.0f} bytes an endpoint, {each * 24 / 1e9:.2f} GB a day")
    print(f"  the whole log: {(rows_log + (closing_log + sums_log) * 24) / 1e9:.2f} GB a day")


def _yaml(place: Path, endpoints: int, port: int) -> str:
    lines = [f"listen: 127.0.0.1:{_PORT}", f"database: sqlite:///{place}/monitor.db", "location: here", "providers:"]
    lines += [f"  p{each}: {{dialect: openai-chat, base_url: 'http://127.0.0.1:{port}/v1'}}" for each in range(20)]
    lines.append("models:")
    for model in range(-(-endpoints // 20)):
        lines += [f"  author/model-{model}:", "    endpoints:"]
        offers = range(min(20, endpoints - model * 20))
        lines += [f"      - {{provider: p{each}, upstream: m, price: {{input: 0.15, output: 0.6}}}}" for each in offers]
    return "\n".join(lines) + "\n"


def _restart(config: Path, what: str) -> None:
    begun, probing = time.time(), None
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.history.run", str(config), str(past.NOW - begun))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while time.time() - begun < 300 and process.poll() is None and (why := _why_not_ready()) != "":
                if probing is None and why is not None and "probing has begun" in why:
                    probing = time.time() - begun
                time.sleep(0.05)
            took, memory = time.time() - begun, _resident_megabytes(process.pid)
            print(
                f"  {what}: probing after {probing or took:.1f} s, /readyz 200 after {took:.1f} s, "
                f"{_cpu_seconds(process.pid):.1f} s of CPU, {memory:.0f} MB"
            )
        finally:
            process.kill()  # as a crash would: the next start finds no more than a commit


def _why_not_ready() -> str | None:
    """As /readyz tells; empty if it is, None if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/readyz", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["error"]["message"])
    except (urllib.error.URLError, OSError):
        return None


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


async def _sum(settings: Settings) -> float:
    """What the last hours of a running monitor leave on record; the bytes that an hour adds to the write-ahead log."""
    database = await Database.open(settings.database, past.clock())
    history = History(database)
    log = await turn.growing_log(database, settings)
    for what, first in (("rollups", past.ROLLED - 5 * past.HOUR), ("those before", past.ROLLED - 2 * past.HOUR)):
        log_bytes = log.stat().st_size
        for hour in range(first, first + 3 * past.HOUR, past.HOUR):
            cpu = time.process_time()
            await renew_sums(history, database.run, hour)
            print(f"  sums of a window, made of {what}: {time.process_time() - cpu:.1f} s of CPU")
        log_bytes = log.stat().st_size - log_bytes
    await database.close()
    return log_bytes / 3


async def _quantiles(settings: Settings) -> None:
    database = await Database.open_read_only(settings.database, past.clock())
    board = Board(settings, past.clock())
    await restore_board(board, History(database), past.NOW, [])
    await database.close()
    cpu = time.process_time()
    for figure in FIGURES:
        board.windows.quantiles_all("30d", figure, _QUANTILES)
    print(f"  all 30d quantiles (4 figures, 3 each) of all endpoints: {(time.process_time() - cpu) * 1000:.0f} ms")
