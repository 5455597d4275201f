"""The tables as Markdown, and their place in docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ttft.compare import Row, ratios
from benchmarks.ttft.document import write_between
from benchmarks.ttft.figures import number
from benchmarks.ttft.processes import REPOSITORY, Cores

CHART = REPOSITORY / "docs" / "benchmarks" / "ttft-error.svg"
_BEGIN, _END = "<!-- ttft: written by `python -m benchmarks ttft --write-docs` -->", "<!-- ttft: end -->"
_HEAD = (
    "| client | responses | per second | in flight | TTFT error p50 | p99 ms | latency error p50 | p99 ms "
    "| CPU ms per probe | of a core | peak RSS MB |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def machine(cores: Cores, is_realtime: bool) -> str:
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    priority = "before all other processes" if is_realtime else "at ordinary priority"
    return (
        f"{day}; {os.cpu_count()} cores, {_cpu_model()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f} at the start; "
        f"each client on core {cores.client} {priority}, the server on core {cores.server}, "
        f"scraper and router on core {cores.rest}"
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def line_of(row: Row) -> str:
    if row.words or row.ttft is None or row.latency is None:
        return f"| {row.label} | {row.words} | | | | | | | | | |"
    cells = [
        row.label, f"{row.responses:,}", number(row.per_second), number(row.in_flight), number(row.ttft.p50),
        number(row.ttft.p99), number(row.latency.p50), number(row.latency.p99),
        number(row.cpu_ms_per_response), f"{row.core_share:.0%}", number(row.peak_rss_megabytes),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _server_line(row: Row) -> str:
    server = row.server
    if server is None:
        return f"- {row.label}: {row.words}"
    return (
        f"- beside {row.label}: late p50 {number(server.late_p50_ms)}, p99 {number(server.late_p99_ms)} ms; "
        f"{server.writes_per_second:,.0f} writes/s on {server.cpu_share:.0%} of its core; bracket around a first "
        f"token's send() p50 {number(server.bracket_p50_ms)}, p99 {number(server.bracket_p99_ms)} ms, "
        f"{server.kernel_stamped_share:.1%} with the kernel's own transmit stamp inside it"
    )


def text_of(rows: Sequence[Row], where: str) -> str:
    parts = [f"Machine: {where}.", "\n".join(f"- **{line}**" for line in ratios(rows))]
    for streams in sorted({row.streams for row in rows}):
        of_these = [row for row in rows if row.streams == streams]
        parts.append(f"### {streams} stream{'s' if streams > 1 else ''}")
        parts.append("\n".join([_HEAD, *map(line_of, of_these)]))
        parts.append("The server itself:\n\n" + "\n".join(map(_server_line, of_these)))
        notes = [f"- {row.label}: {'; '.join(row.notes)}" for row in of_these if row.notes]
        if notes:
            parts.append("What they said:\n\n" + "\n".join(notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def write_document(text: str) -> None:
    write_between(_BEGIN, _END, text)
