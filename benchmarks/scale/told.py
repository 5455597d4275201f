"""What a run came to, against the truth. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.scale.service import Ran
from benchmarks.ttft.compare import Spread
from benchmarks.ttft.truth import quantile

_SAMPLE = re.compile(r"^(monitor_[a-z_]+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Of the measured time alone: upper bound -> how many were at most that."""

    upto: dict[float, float]

    @property
    def count(self) -> float:
        return max(self.upto.values(), default=0.0)

    def bound(self, share: float) -> float:
        """The smallest bucket that holds that share; NaN of nothing."""
        return next(
            (upper for upper, count in sorted(self.upto.items()) if count and count >= share * self.count), math.nan
        )

    def above(self, upper: float) -> float:
        """How many were above that bound."""
        return self.count - self.upto.get(upper, math.nan)


@dataclass(frozen=True, slots=True)
class Figures:
    """Milliseconds, megabytes of 10^6, bytes; NaN where there is none."""

    seconds: float
    due: int
    rows: int
    outcomes: dict[str, int]
    skipped: dict[str, int]  # by reason, of the measured time
    per_second: float
    in_flight: float
    core_share: float
    cpu_ms_per_probe: float
    server_share: float
    server_late_p99_ms: float
    start_delay_p50_ms: float  # as the rows have it
    start_delay_p99_ms: float
    start_delay_max_ms: float
    start_delay_bucket_p99_ms: float  # as the daemon's own histogram has it
    arrival_p50_ms: float  # from the due time to the request's arrival at the server, connecting included
    arrival_p99_ms: float
    connect_p50_ms: float
    connect_p99_ms: float
    ttft: Spread
    latency: Spread
    kernel_stamped_share: float
    untold: int  # responses of the measured time that no row tells of
    lag: Histogram
    ready_seconds: float
    ready_rss_mb: float
    end_rss_mb: float
    peak_rss_mb: float
    database_bytes_per_row: float
    written_bytes_per_row: float
    asked: dict[str, dict[str, float]]
    exit_code: int
    complaints: list[str]


def figures_of(ran: Ran) -> Figures:
    start_ns, end_ns = ran.span_ns
    known = {one.response_id: one for one in ran.truth if one.done_ns}
    ttft_ms, latency_ms, arrival_ms = [], [], []
    for row in ran.rows:
        true = known.get(row.response_id or "")
        if true is None or row.ttft_seconds is None or row.latency_seconds is None:
            continue
        ttft_ms.append((row.ttft_seconds - true.ttft_seconds) * 1000)
        latency_ms.append((row.latency_seconds - true.latency_seconds) * 1000)
        arrival_ms.append(((true.arrival_ns + ran.utc_offset_ns) / 1e9 - row.due_at) * 1000)
    delays_ms = [(row.started_at - row.due_at) * 1000 for row in ran.rows]
    connects_ms = [row.connect_seconds * 1000 for row in ran.rows if row.connect_seconds is not None]
    told = {row.response_id for row in ran.rows}
    finished = sum(start_ns <= one.done_ns < end_ns for one in ran.truth)
    cpu_seconds = ran.usage.cpu_between(start_ns, end_ns)
    before, after = _samples(ran.before), _samples(ran.after)
    return Figures(
        seconds=ran.seconds,
        due=ran.fleet.slots_due(*ran.utc_span),
        rows=len(ran.rows),
        outcomes=dict(Counter(row.outcome for row in ran.rows).most_common()),
        skipped=_skipped(before, after),
        per_second=finished / ran.seconds,
        in_flight=_in_flight(ran),
        core_share=cpu_seconds / ran.seconds,
        cpu_ms_per_probe=cpu_seconds * 1000 / finished if finished else math.nan,
        server_share=ran.server_usage.cpu_between(start_ns, end_ns) / ran.seconds,
        server_late_p99_ms=ran.punctuality.late_p99_ms,
        start_delay_p50_ms=quantile(delays_ms, 0.5),
        start_delay_p99_ms=quantile(delays_ms, 0.99),
        start_delay_max_ms=max(delays_ms, default=math.nan),
        start_delay_bucket_p99_ms=_histogram("monitor_probe_start_delay_seconds", before, after).bound(0.99) * 1000,
        arrival_p50_ms=quantile(arrival_ms, 0.5),
        arrival_p99_ms=quantile(arrival_ms, 0.99),
        connect_p50_ms=quantile(connects_ms, 0.5),
        connect_p99_ms=quantile(connects_ms, 0.99),
        ttft=Spread.of(ttft_ms),
        latency=Spread.of(latency_ms),
        kernel_stamped_share=sum(row.clock == "kernel" for row in ran.rows) / max(len(ran.rows), 1),
        untold=_untold(ran, told),
        lag=_histogram("monitor_event_loop_lag_seconds", before, after),
        ready_seconds=ran.ready_seconds,
        ready_rss_mb=ran.ready_rss_bytes / 1e6,
        end_rss_mb=ran.end_rss_bytes / 1e6,
        peak_rss_mb=ran.peak_rss_bytes / 1e6,
        database_bytes_per_row=ran.database_bytes / max(ran.all_rows, 1),
        written_bytes_per_row=ran.written_bytes / max(len(ran.rows), 1),
        asked=ran.asked,
        exit_code=ran.exit_code,
        complaints=complaints(ran.log_lines),
    )


def complaints(lines: Iterable[str]) -> list[str]:
    """What the daemon's log has of warnings and errors, by kind: the first of each and how often."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if " WARNING " in line or " ERROR " in line or line.startswith("Traceback"):
            words = re.sub(r"[0-9]+", "#", line.partition(" WARNING ")[2] or line.partition(" ERROR ")[2] or line)
            found.setdefault(" ".join(words.split()[:2]), []).append(line)
    return [f"{len(each)} times: {each[0][:200]}" for each in found.values()]


def _untold(ran: Ran, told: set[str | None]) -> int:
    """Of the responses whose request came well within the measured time."""
    margin_ns = 2_000_000_000
    start_ns, end_ns = ran.span_ns
    return sum(
        one.response_id not in told for one in ran.truth if start_ns + margin_ns <= one.arrival_ns < end_ns - margin_ns
    )


def _in_flight(ran: Ran) -> float:
    start_ns, end_ns = ran.span_ns
    spans = (min(one.done_ns or end_ns, end_ns) - max(one.arrival_ns, start_ns) for one in ran.truth)
    return sum(max(0, span) for span in spans) / (end_ns - start_ns)


def _samples(page: str) -> dict[tuple[str, str], float]:
    return {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(page)}


def _skipped(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> dict[str, int]:
    name = "monitor_probes_skipped_total"
    counts = {
        labels.partition('"')[2].rstrip('"'): round(value - before.get((each, labels), 0.0))
        for (each, labels), value in after.items()
        if each == name
    }
    return {reason: count for reason, count in counts.items() if count}


def _histogram(name: str, before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> Histogram:
    upto = {
        float(labels.partition('le="')[2].rstrip('"')): value - before.get((each, labels), 0.0)
        for (each, labels), value in after.items()
        if each == f"{name}_bucket"
    }
    return Histogram(upto)
