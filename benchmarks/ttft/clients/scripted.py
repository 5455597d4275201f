"""Runs a client of this benchmark's own (stock aiohttp, the openai SDK) and reads what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.ttft.cell import Cell, Sample, Told, Unavailable
from benchmarks.ttft.processes import REPOSITORY, Watch, pinned

BENCH_PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"
_SLACK_SECONDS = 40.0


def measure_aiohttp(cell: Cell) -> Told:
    return _measure(cell, Path(sys.executable), "stock_aiohttp")


def measure_floor(cell: Cell) -> Told:
    return _measure(cell, Path(sys.executable), "kernel_floor")


def measure_openai(cell: Cell) -> Told:
    require_bench("openai")
    return _measure(cell, BENCH_PYTHON, "openai_sdk")


def require_bench(package: str) -> None:
    """Raises Unavailable unless the benchmark's own environment has it."""
    if not BENCH_PYTHON.exists():
        raise Unavailable("not installed: .venv-bench is missing, `make bench` makes it")
    question = f"import importlib.metadata; importlib.metadata.version({package!r})"
    if subprocess.run([BENCH_PYTHON, "-c", question], capture_output=True, timeout=60, check=False).returncode:
        raise Unavailable("not installed: see benchmarks/requirements.txt")


def _measure(cell: Cell, python: Path, module: str) -> Told:
    out = cell.directory / "answers.json"
    seconds = cell.warm_up_seconds + cell.seconds
    command = [
        str(python), "-m", f"benchmarks.ttft.clients.{module}", "--base-url", cell.base_urls[0],
        "--streams", str(cell.streams), "--seconds", str(seconds), "--ramp", str(cell.stream_seconds),
        "--out", str(out),
    ]  # fmt: skip
    with (
        pinned(command, cell.cores.client, stderr=None, is_realtime=cell.is_realtime) as process,
        Watch(process.pid) as usage,
    ):
        process.wait(seconds + _SLACK_SECONDS)
    if not out.exists():
        raise Unavailable(f"ended with code {process.returncode} and wrote nothing")
    told = json.loads(out.read_text())
    return Told([Sample(*one) for one in told["samples"]], usage, failures=len(told["failures"]))
