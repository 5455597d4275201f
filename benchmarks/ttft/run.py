"""The whole comparison: each client in turn beside a ground-truth server of its own, on cores of their own."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ttft import report
from benchmarks.ttft.cell import Cell, Told, Unavailable
from benchmarks.ttft.chart import svg
from benchmarks.ttft.clients import daemon, guidellm, scripted
from benchmarks.ttft.compare import FLOOR, Row, compare
from benchmarks.ttft.processes import Cores, Watch, begin, may_be_realtime, pinned, stop
from benchmarks.ttft.truth import read_log
from benchmarks.ttft.wire import TOKENS

CLIENTS: dict[str, Callable[[Cell], Told]] = {
    "daemon": daemon.measure,
    "aiohttp": scripted.measure_aiohttp,
    "openai": scripted.measure_openai,
    "guidellm": guidellm.measure,
    FLOOR: scripted.measure_floor,
}
_DEFAULT_CLIENTS = "daemon,aiohttp,openai,guidellm"
# Several addresses, so that fresh connections do not run out of ports.
_HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 9))
_LEAST_WARM_UP_SECONDS = 3.0
_SEED = 20_240_601


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How the server answers: the span of TTFTs, and the mean gap between tokens, in seconds."""

    ttft_seconds: tuple[float, float]
    gap_seconds: float

    @property
    def stream_seconds(self) -> float:
        return sum(self.ttft_seconds) / 2 + TOKENS * self.gap_seconds

    @classmethod
    def for_streams(cls, streams: int, gap_seconds: float | None) -> Pace:
        # A single stream of usual length would give a handful of responses.
        if streams == 1:
            return cls((0.1, 0.3), gap_seconds or 0.01)
        return cls((0.2, 0.8), gap_seconds or 0.04)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ttft", description="How right each client's TTFT is.")
    parser.add_argument("--streams", default=None, help="numbers in flight, default 1,32,128,512")
    parser.add_argument("--clients", default=None, help=f"default {_DEFAULT_CLIENTS}; there is {FLOOR} too")
    parser.add_argument("--seconds", type=float, default=None, help="measured per client, default 12")
    parser.add_argument("--gap", type=float, default=None, help="mean seconds between tokens, default 0.04")
    parser.add_argument(
        "--noisy", action=argparse.BooleanOptionalAction, default=None,
        help="the daemon once more, beside a process that burns 80 %% of its core; default unless --quick",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="32 and 512 streams, daemon and aiohttp, 5 s: a minute")
    parser.add_argument(
        "--realtime", action="store_true",
        help="clients too are scheduled before all others on the machine (root), except beside the noisy neighbour",
    )  # fmt: skip
    parser.add_argument("--write-docs", action="store_true", help="rewrite the tables and the chart under docs/")
    parser.add_argument("--json", type=Path, default=None, help="write every figure there")
    given = parser.parse_args(words)
    quick = given.quick
    given.streams = [int(one) for one in (given.streams or ("32,512" if quick else "1,32,128,512")).split(",")]
    given.clients = (given.clients or ("daemon,aiohttp" if quick else _DEFAULT_CLIENTS)).split(",")
    given.seconds = given.seconds or (5.0 if quick else 12.0)
    given.noisy = not quick and "daemon" in given.clients if given.noisy is None else given.noisy
    if unknown := set(given.clients) - set(CLIENTS):
        parser.error(f"no such client: {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}")
    if not all(1 <= one <= 4096 for one in given.streams):
        parser.error("streams: from 1 to 4096")
    return given


def main(*words: str) -> int:
    given = _arguments(words)
    cores = begin("ttft", "--realtime" if given.realtime else None)
    where = report.machine(cores, given.realtime)
    print(f"ttft: {where}", flush=True)
    rows = []
    for streams, client, is_noisy in _plan(given):
        row = _measure(client, streams, is_noisy, given, cores)
        rows.append(row)
        print(f"{streams:>4} {report.line_of(row)}", flush=True)
    text = report.text_of(rows, where)
    print("\n" + text)
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    if given.write_docs:
        report.write_document(text)
        report.CHART.parent.mkdir(exist_ok=True)
        report.CHART.write_text(svg(rows, where.partition(",")[0]))
    return 0


def _plan(given: argparse.Namespace) -> Iterator[tuple[int, str, bool]]:
    for streams in given.streams:
        for client in given.clients:
            yield streams, client, False
    if given.noisy:
        yield max(given.streams), "daemon", True


def _measure(client: str, streams: int, is_noisy: bool, given: argparse.Namespace, cores: Cores) -> Row:
    pace = Pace.for_streams(streams, given.gap)
    with tempfile.TemporaryDirectory(prefix="ttft-") as name:
        directory = Path(name)
        log = directory / "truth.jsonl"
        with _truth_server(log, pace, cores) as (process, port):
            cell = Cell(
                client=client,
                streams=streams,
                seconds=given.seconds,
                warm_up_seconds=max(_LEAST_WARM_UP_SECONDS, 2 * pace.stream_seconds + 1),
                stream_seconds=pace.stream_seconds,
                base_urls=tuple(f"http://{host}:{port}/v1" for host in _HOSTS),
                directory=directory,
                cores=cores,
                is_noisy=is_noisy,
                is_realtime=given.realtime and not is_noisy,
            )
            try:
                with Watch(process.pid) as server_usage:
                    told = CLIENTS[client](cell)
            except (Unavailable, subprocess.TimeoutExpired) as error:
                return Row(client, streams, is_noisy, str(error))
            stop(process)
        return compare(cell, told, *read_log(log), server_usage)


@contextmanager
def _truth_server(log: Path, pace: Pace, cores: Cores) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-m", "benchmarks.ttft.truth_server", "--log", str(log), "--seed", str(_SEED)]
    command += [word for host in _HOSTS for word in ("--host", host)]
    command += ["--ttft", *map(str, pace.ttft_seconds), "--gap", str(pace.gap_seconds)]
    # The truth is to be punctual even where others want its core, as long as it is not the client's.
    is_realtime = cores.server != cores.client and may_be_realtime()
    with pinned(command, cores.server, stdout=subprocess.PIPE, stderr=None, is_realtime=is_realtime) as process:
        port = process.stdout.readline()
        if not port:
            raise SystemExit("ttft: the ground-truth server did not start")
        yield process, int(port)
