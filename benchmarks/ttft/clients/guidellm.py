"""GuideLLM by its own command line; TTFT as its own report tells it, request by request."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.ttft.cell import Cell, Sample, Told, Unavailable
from benchmarks.ttft.clients.scripted import BENCH_PYTHON, require_bench
from benchmarks.ttft.processes import Watch, pinned

_START_AND_REPORT_SECONDS = 120.0
_PROMPTS = 20_000


def measure(cell: Cell) -> Told:
    require_bench("guidellm")
    report, log = cell.directory / "guidellm.json", cell.directory / "guidellm.log"
    seconds = cell.warm_up_seconds + cell.seconds + cell.stream_seconds
    command = [
        str(BENCH_PYTHON.with_name("guidellm")), "run",
        "--backend", f"kind=openai_http,target={cell.base_urls[0].removesuffix('/v1')},model=truth,"
        "request_format=/v1/chat/completions",
        "--profile", f"kind=concurrent,streams={cell.streams}",
        "--constraint", f"kind=max_duration,seconds={seconds}",
        "--data", f"kind=json_file,path={_write_prompts(cell.directory)}",
        "--output", f"kind=json,path={report}", "--disable-console",
    ]  # fmt: skip
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cell.directory)}
    with (
        log.open("wb") as sink,
        pinned(command, cell.cores.client, stdout=sink, stderr=sink, cwd=cell.directory, environment=environment,
               is_realtime=cell.is_realtime)
        as process,
        Watch(process.pid) as usage,
    ):  # fmt: skip
        process.wait(seconds + _START_AND_REPORT_SECONDS)
    if not report.exists():
        raise Unavailable(f"ended with code {process.returncode} and no report: {_last_line(log)}")
    requests = json.loads(report.read_text())["benchmarks"][0]["requests"]
    return Told([_sample(one) for one in requests["successful"]], usage, failures=len(requests["errored"]))


def _write_prompts(directory: Path) -> Path:
    path = directory / "prompts.jsonl"
    with path.open("w") as file:
        for number in range(_PROMPTS):
            prompt = f"word{number} is a code word. Write the code word, then count from 1 to 20 in digits."
            file.write(json.dumps({"prompt": prompt}) + "\n")
    return path


def _sample(request: dict) -> Sample:
    times = request["info"]["timings"]
    began = times["request_start"]
    return Sample(request["response_id"], times["first_token_iteration"] - began, times["request_end"] - began)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
