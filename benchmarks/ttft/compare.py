"""A client's word against the truth, response by response. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.ttft.cell import Cell, Told
from benchmarks.ttft.figures import number
from benchmarks.ttft.processes import Usage
from benchmarks.ttft.truth import Exchange, Punctuality, quantile
from benchmarks.ttft.wire import TOKENS

FLOOR = "floor"
_OVERLOADED_BELOW = 0.9
LABELS = {
    "daemon": "the daemon, all in",
    "aiohttp": "aiohttp",
    "openai": "openai SDK",
    "guidellm": "GuideLLM",
    FLOOR: "the method's floor",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds. The errors are absolute; the median of the signed ones tells which way they lean."""

    p50: float
    p99: float
    lean: float

    @classmethod
    def of(cls, errors_ms: Sequence[float]) -> Spread:
        sizes = [abs(one) for one in errors_ms]
        return cls(quantile(sizes, 0.5), quantile(sizes, 0.99), quantile(errors_ms, 0.5))


@dataclass(frozen=True, slots=True)
class ServerFigures:
    late_p50_ms: float
    late_p99_ms: float
    writes_per_second: float  # tokens and ends
    cpu_share: float
    bracket_p50_ms: float  # around send() of the first token: what the truth could be wrong by without kernel stamps
    bracket_p99_ms: float
    kernel_stamped_share: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Where `words` is set the client did not run, and they say why."""

    client: str
    streams: int
    is_noisy: bool = False
    words: str = ""
    responses: int = 0  # compared
    per_second: float = math.nan  # finished
    in_flight: float = math.nan  # on average
    failures: int = 0
    ttft: Spread | None = None
    latency: Spread | None = None
    cpu_ms_per_response: float = math.nan
    core_share: float = math.nan
    peak_rss_megabytes: float = math.nan
    server: ServerFigures | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        return LABELS[self.client] + (", noisy neighbour" if self.is_noisy else "")


def compare(
    cell: Cell, told: Told, punctuality: Punctuality, truth: Sequence[Exchange], server_usage: Usage
) -> Row:  # fmt: skip
    """The row of a cell: of the responses whose requests arrived in the measured window, and of its CPU time."""
    if not truth:
        return Row(cell.client, cell.streams, cell.is_noisy, "sent no request")
    start_ns = min(one.arrival_ns for one in truth) + round(cell.warm_up_seconds * 1e9)
    end_ns = start_ns + round(cell.seconds * 1e9)
    known = {one.response_id: one for one in truth if start_ns <= one.arrival_ns < end_ns and one.done_ns}
    ttft_ms, latency_ms = [], []
    for sample in told.samples:
        if true := known.get(sample.response_id):
            ttft_ms.append((sample.ttft_seconds - true.ttft_seconds) * 1000)
            latency_ms.append((sample.latency_seconds - true.latency_seconds) * 1000)
    finished = sum(start_ns <= one.done_ns < end_ns for one in truth)
    cpu_seconds = told.usage.cpu_between(start_ns, end_ns)
    notes = list(told.notes)
    if missing := len(known) - len(ttft_ms):
        notes.append(f"{missing} of {len(known)} responses not told of")
    in_flight = _in_flight(truth, start_ns, end_ns)
    if in_flight < _OVERLOADED_BELOW * cell.streams:
        notes.append(f"overloaded: on average {in_flight:.0f} of {cell.streams} streams had reached the server")
    return Row(
        client=cell.client,
        streams=cell.streams,
        is_noisy=cell.is_noisy,
        words="" if ttft_ms else "told of no response that was measured",
        responses=len(ttft_ms),
        per_second=finished / cell.seconds,
        in_flight=in_flight,
        failures=told.failures,
        ttft=Spread.of(ttft_ms),
        latency=Spread.of(latency_ms),
        cpu_ms_per_response=cpu_seconds * 1000 / finished if finished else math.nan,
        core_share=cpu_seconds / cell.seconds,
        peak_rss_megabytes=told.usage.peak_rss_megabytes(),
        server=_server_figures(cell, punctuality, truth, server_usage, finished, (start_ns, end_ns)),
        notes=notes,
    )


def _in_flight(truth: Iterable[Exchange], start_ns: int, end_ns: int) -> float:
    spans = (min(one.done_ns or end_ns, end_ns) - max(one.arrival_ns, start_ns) for one in truth)
    return sum(max(0, span) for span in spans) / (end_ns - start_ns)


def _server_figures(
    cell: Cell, punctuality: Punctuality, truth: Sequence[Exchange], usage: Usage, finished: int,
    window_ns: tuple[int, int]
) -> ServerFigures:  # fmt: skip
    brackets_ms = [(one.first_after_ns - one.first_before_ns) / 1e6 for one in truth if one.first_after_ns]
    stamped = punctuality.kernel_stamps + punctuality.middles
    return ServerFigures(
        late_p50_ms=punctuality.late_p50_ms,
        late_p99_ms=punctuality.late_p99_ms,
        writes_per_second=finished * (TOKENS + 1) / cell.seconds,
        cpu_share=usage.cpu_between(*window_ns) / cell.seconds,
        bracket_p50_ms=quantile(brackets_ms, 0.5),
        bracket_p99_ms=quantile(brackets_ms, 0.99),
        kernel_stamped_share=punctuality.kernel_stamps / max(stamped, 1),
    )


def ratios(rows: Iterable[Row]) -> list[str]:
    """For each number of streams: the best other client's error over the daemon's, the headline."""
    lines = []
    quiet = [row for row in rows if not row.words and not row.is_noisy]
    for streams in sorted({row.streams for row in quiet}):
        ours = next((row for row in quiet if row.streams == streams and row.client == "daemon"), None)
        others = [row for row in quiet if row.streams == streams and row.client not in ("daemon", FLOOR)]
        if ours is None or not others:
            continue
        parts = []
        for name in ("p99", "p50"):
            best = min(others, key=lambda row: getattr(row.ttft, name))
            share = getattr(best.ttft, name) / max(getattr(ours.ttft, name), 1e-6)
            parts.append(f"at {name} {number(share)} times the daemon's ({best.label})")
        lines.append(f"{streams} streams: the TTFT error of the best other client is {', '.join(parts)}")
    return lines
