"""The command: what is asked for, run and told."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scale import report
from benchmarks.scale.service import DidNotRun, FleetOfPort, Plan, run
from benchmarks.scale.told import figures_of
from benchmarks.tls.certificates import made_certificate
from benchmarks.ttft.document import write_between
from benchmarks.ttft.processes import begin
from benchmarks.ttft.report import machine

_HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 41))


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=10_000)
    parser.add_argument("--interval", type=float, default=60.0, help="seconds between two probes of an endpoint")
    parser.add_argument("--minutes", type=float, default=10.0, help="measured, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=None, help="seconds; default the interval and five more")
    parser.add_argument("--scrape", type=float, default=15.0, help="seconds between two scrapes of /metrics")
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between two polls of /api/v1/routing")
    parser.add_argument("--taste", type=float, default=1.0, help="seconds between two first bytes of /metrics; 0: none")
    parser.add_argument(
        "--first", action="store_true",
        help="the daemon is nicest of all on the machine (-20, root): for a machine that others use meanwhile",
    )  # fmt: skip
    parser.add_argument("--tls", action="store_true", help="https, with ECDSA P-256 certificates")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the table in docs/benchmarks.md")
    parser.add_argument("--turns", type=Path, default=None, help="write there which callbacks kept the loop how long")
    parser.add_argument("--json", type=Path, default=None, help="write every figure there")
    parser.add_argument("--keep", type=Path, default=None, help="leave database and logs in this directory")
    return parser.parse_args(words)


def main(*words: str) -> int:
    given = _arguments(words)
    cores = begin("scale", "--first" if given.first else None)
    where = machine(cores, False)
    print(f"scale: {where}", flush=True)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        directory = given.keep or Path(name)
        directory.mkdir(exist_ok=True)
        certificate = made_certificate(directory, "ECDSA P-256", _HOSTS) if given.tls else None
        plan = Plan(
            fleet_of_port=FleetOfPort(given.endpoints, given.interval, _HOSTS, scheme="https" if given.tls else "http"),
            seconds=given.minutes * 60,
            warm_up_seconds=given.interval + 5.0 if given.warm_up is None else given.warm_up,
            scrape_seconds=given.scrape,
            poll_seconds=given.poll,
            taste_seconds=given.taste,
            directory=directory,
            cores=cores,
            niceness=-20 if given.first else 0,
            server_words=() if certificate is None else certificate.server_words,
            daemon_words=("-m", "benchmarks.scale.turns") if given.turns else ("-m", "monitor"),
            environment=({} if certificate is None else certificate.environment)
            | ({"SCALE_TURNS": str(given.turns)} if given.turns else {}),
        )
        try:
            figures = figures_of(run(plan))
        except DidNotRun as why:
            print(f"scale: {why}", file=sys.stderr)
            return 1
    text = report.text_of(figures, given, where)
    print("\n" + text)
    if given.write_docs:
        write_between(report.BEGIN, report.END, text)
    if given.json:
        given.json.write_text(json.dumps(dataclasses.asdict(figures), indent=1))
    return 0
