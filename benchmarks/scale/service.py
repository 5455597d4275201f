"""One run of the daemon as shipped, beside a ground-truth server, a scraper and a router."""

from __future__ import annotations

import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.scale.fleet import Fleet
from benchmarks.ttft.processes import Cores, Usage, Watch, may_be_realtime, pinned, stop
from benchmarks.ttft.truth import Exchange, Punctuality, read_log

_READY = re.compile(r"ready listen=http://([0-9.:]+)/")
_READY_SECONDS = 300.0
_SLACK_SECONDS = 600
_SEED = 20_240_601
# First tokens after 0.2 to 1 s, and whole answers of 50 tokens after 1 to 3 s.
TTFT_SECONDS = (0.2, 1.0)
GAP_SECONDS, GAP_SPREAD = 0.028, 0.43
LONGEST_ANSWER_SECONDS = 4.0
_ROWS = """SELECT endpoint, slot, response_id, started_at, ttft_seconds, latency_seconds, connect_seconds, clock,
outcome FROM observations WHERE recheck = 0"""


class DidNotRun(Exception):
    """Why there are no figures, in words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`warm_up_seconds` pass before anything counts, `seconds` are measured."""

    fleet_of_port: FleetOfPort
    seconds: float
    warm_up_seconds: float
    scrape_seconds: float
    poll_seconds: float
    directory: Path
    cores: Cores
    # The daemon's, so that a busy machine does not take its core. Not a real-time class, in which a thread that
    # compresses would keep the loop from the core for 100 ms at a time.
    niceness: int = 0
    taste_seconds: float = 0.0
    server_words: Sequence[str] = ()
    daemon_words: Sequence[str] = ("-m", "monitor")
    environment: dict[str, str] = field(default_factory=dict)


class FleetOfPort:
    """What is watched, once the port of the truth server is known."""

    def __init__(self, endpoints: int, interval_seconds: float, hosts: Sequence[str], **more: str) -> None:
        self._arguments = (endpoints, interval_seconds, hosts)
        self._more = more
        self.hosts = hosts

    def __call__(self, port: int) -> Fleet:
        return Fleet(*self._arguments, port, **self._more)


@dataclass(slots=True)
class Row:
    """One scheduled probe as the database has it."""

    due_at: float
    response_id: str | None
    started_at: float
    ttft_seconds: float | None
    latency_seconds: float | None
    connect_seconds: float | None
    clock: str
    outcome: str


@dataclass(slots=True)
class Ran:
    """Everything a run left. `span_ns` is the measured time on CLOCK_MONOTONIC, `utc_offset_ns` what makes it UTC."""

    fleet: Fleet
    span_ns: tuple[int, int]
    utc_offset_ns: int
    ready_seconds: float
    usage: Usage
    server_usage: Usage
    punctuality: Punctuality
    truth: list[Exchange]
    rows: list[Row]
    before: str  # /metrics at the beginning and at the end of the measured time
    after: str
    asked: dict[str, dict[str, float]]
    ready_rss_bytes: int
    end_rss_bytes: int
    peak_rss_bytes: int
    written_bytes: int  # by the daemon, into files, in the measured time
    database_bytes: int
    all_rows: int
    exit_code: int
    log_lines: list[str]

    @property
    def seconds(self) -> float:
        return (self.span_ns[1] - self.span_ns[0]) / 1e9

    @property
    def utc_span(self) -> tuple[float, float]:
        return utc_span(*self.span_ns, self.utc_offset_ns)


def utc_span(start_ns: int, end_ns: int, offset_ns: int) -> tuple[float, float]:
    """In whole milliseconds, as slots are: a slot is in it or not, however it is reckoned."""
    return round((start_ns + offset_ns) / 1e6) / 1000, round((end_ns + offset_ns) / 1e6) / 1000


def run(plan: Plan) -> Ran:
    """Raises DidNotRun."""
    truth_log = plan.directory / "truth.jsonl"
    with _truth_server(plan, truth_log) as (server, port):
        fleet = plan.fleet_of_port(port)
        config, log = plan.directory / "monitor.yaml", plan.directory / "daemon.log"
        database = plan.directory / "monitor.db"
        config.write_text(fleet.configuration(database))
        command = [sys.executable, *plan.daemon_words, "run", "-c", str(config)]
        with (
            Watch(server.pid) as server_usage,
            log.open("wb") as sink,
            pinned(
                command, plan.cores.client, stderr=sink, environment=plan.environment, niceness=plan.niceness
            ) as daemon,
        ):
            begun = time.monotonic()
            address = _address(daemon, log)
            ready_seconds = time.monotonic() - begun
            ready_rss_bytes = _resident_bytes(daemon.pid)
            with Watch(daemon.pid) as usage, _pollers(plan, address) as asked:
                time.sleep(plan.warm_up_seconds)
                before, written_before = _metrics(address), _written_bytes(daemon.pid)
                start_ns = time.monotonic_ns()
                _sleep(plan.seconds, daemon)
                end_ns = time.monotonic_ns()
                after, written_after = _metrics(address), _written_bytes(daemon.pid)
                end_rss_bytes, peak_rss_bytes = _resident_bytes(daemon.pid), _peak_bytes(daemon.pid)
                # The last probes of the measured time are to be over, and their rows committed.
                _sleep(LONGEST_ANSWER_SECONDS + 2.0, daemon)
            exit_code = stop(daemon)
        stop(server)
    offset_ns = time.time_ns() - time.monotonic_ns()
    span = utc_span(start_ns, end_ns, offset_ns)
    all_rows = _rows(database, fleet)
    rows = [row for row in all_rows if span[0] <= row.due_at < span[1]]
    punctuality, truth = read_log(truth_log)
    return Ran(
        fleet=fleet, span_ns=(start_ns, end_ns), utc_offset_ns=offset_ns, ready_seconds=ready_seconds, usage=usage,
        server_usage=server_usage, punctuality=punctuality, truth=truth, rows=rows, before=before, after=after,
        asked=asked, ready_rss_bytes=ready_rss_bytes, end_rss_bytes=end_rss_bytes, peak_rss_bytes=peak_rss_bytes,
        written_bytes=written_after - written_before, database_bytes=database.stat().st_size, all_rows=len(all_rows),
        exit_code=exit_code, log_lines=log.read_text(errors="replace").splitlines(),
    )  # fmt: skip


@contextmanager
def _truth_server(plan: Plan, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-m", "benchmarks.ttft.truth_server", "--log", str(log), "--seed", str(_SEED)]
    command += [word for host in plan.fleet_of_port.hosts for word in ("--host", host)]
    command += ["--ttft", *map(str, TTFT_SECONDS), "--gap", str(GAP_SECONDS), "--gap-spread", str(GAP_SPREAD)]
    command += ["--life", str(_life_seconds(plan)), *plan.server_words]
    is_realtime = plan.cores.server != plan.cores.client and may_be_realtime()
    with pinned(command, plan.cores.server, stdout=subprocess.PIPE, stderr=None, is_realtime=is_realtime) as process:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise DidNotRun("the ground-truth server did not start")
        yield process, int(port)


@contextmanager
def _pollers(plan: Plan, address: str) -> Iterator[dict[str, dict[str, float]]]:
    """Scraper and router; what they were answered, once it is over."""
    asked: dict[str, dict[str, float]] = {}
    out = plan.directory / "pollers.json"
    command = [sys.executable, "-m", "benchmarks.ttft.pollers", address, "--life", str(_life_seconds(plan))]
    command += ["--scrape", str(plan.scrape_seconds), "--poll", str(plan.poll_seconds)]
    command += ["--taste", str(plan.taste_seconds)]
    niceness = -20 if may_be_realtime() else 0  # who wakes up late has several writes' bytes under one stamp
    with (
        out.open("wb") as sink,
        pinned(command, plan.cores.rest, stdout=sink, stderr=None, niceness=niceness) as pollers,
    ):
        yield asked
        stop(pollers)
    asked.update(json.loads(out.read_text() or "{}"))


def _life_seconds(plan: Plan) -> int:
    return round(_READY_SECONDS + plan.warm_up_seconds + plan.seconds + _SLACK_SECONDS)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if found := _READY.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.02)
    lines = log.read_text(errors="replace").splitlines()
    raise DidNotRun(f"the daemon did not get ready: {lines[-1] if lines else 'it said nothing'}")


def _sleep(seconds: float, process: subprocess.Popen[bytes]) -> None:
    """DidNotRun if the daemon ends meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        if process.poll() is not None:
            raise DidNotRun(f"the daemon ended with code {process.returncode} in the middle")


def _metrics(address: str) -> str:
    with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes(pid: int) -> int:
    return _of_proc(pid, "status", "VmHWM:") * 1024


def _written_bytes(pid: int) -> int:
    return _of_proc(pid, "io", "wchar:")


def _of_proc(pid: int, file: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _rows(database: Path, fleet: Fleet) -> list[Row]:
    with closing(sqlite3.connect(database)) as connection:
        return [Row(fleet.due_at(*row[:2]), *row[2:]) for row in connection.execute(_ROWS)]
