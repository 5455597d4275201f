"""The table as Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from benchmarks.scale.told import Figures
from benchmarks.ttft.figures import number
from benchmarks.ttft.pollers import FIRST_BYTES

BEGIN, END = "<!-- scale: written by `python -m benchmarks scale --write-docs` -->", "<!-- scale: end -->"


def text_of(figures: Figures, given: argparse.Namespace, where: str) -> str:
    head = (
        f"{given.endpoints:,} {'https' if given.tls else 'plain http'} endpoints at {given.interval:g} s, "
        f"{figures.per_second:.1f} probes a second, on average {figures.in_flight:.0f} in flight, for "
        f"{figures.seconds / 60:.3g} minutes; /metrics scraped every {given.scrape:g} s, /api/v1/routing polled every "
        f"{given.poll:g} s. Machine: {where}."
    )
    rows = [f"| {what} | {value} | {aim} |" for what, value, aim in _rows(figures)]
    table = "\n".join(["| figure | measured | aim |", "|---|---|---|", *rows])
    notes = [f"- {line}" for line in _notes(figures)]
    return "\n\n".join([head, table, "\n".join(notes)]) + "\n"


def _rows(one: Figures) -> Iterator[tuple[str, str, str]]:
    lost = one.due - one.rows
    yield "CPU, share of one core", f"{one.core_share:.1%}", "60 %"
    yield "CPU per probe, everything else included", f"{number(one.cpu_ms_per_probe)} ms", ""
    yield "slots due / rows / lost", f"{one.due:,} / {one.rows:,} / {lost:,}", "none lost"
    yield "skipped, by reason", _listed(one.skipped) or "none", "none"
    yield "outcomes", _listed(one.outcomes), ""
    yield (
        "start delay p50 / p99 / most",
        " / ".join(map(number, (one.start_delay_p50_ms, one.start_delay_p99_ms, one.start_delay_max_ms))) + " ms",
        "p99 100 ms",
    )
    yield "start delay p99 as the daemon's histogram has it", f"at most {number(one.start_delay_bucket_p99_ms)} ms", ""
    yield (
        "from due to the request's arrival, connecting included, p50 / p99",
        f"{number(one.arrival_p50_ms)} / {number(one.arrival_p99_ms)} ms",
        "",
    )
    yield "connecting p50 / p99", f"{number(one.connect_p50_ms)} / {number(one.connect_p99_ms)} ms", ""
    yield "TTFT error p50 / p99", f"{number(one.ttft.p50)} / {number(one.ttft.p99)} ms", "p99 0.1 ms"
    yield "latency error p50 / p99", f"{number(one.latency.p50)} / {number(one.latency.p99)} ms", ""
    yield "rows with the kernel's stamps", f"{one.kernel_stamped_share:.2%}", ""
    yield "responses that no row tells of", f"{one.untold:,}", "none"
    yield (
        "loop lag p50 / p99 / above 5, 10, 50 ms",
        f"at most {number(one.lag.bound(0.5) * 1000)} / {number(one.lag.bound(0.99) * 1000)} ms / "
        f"{one.lag.above(0.005):.0f}, {one.lag.above(0.01):.0f}, {one.lag.above(0.05):.0f} of {one.lag.count:.0f}",
        "",
    )
    yield (
        "resident memory when ready / at the end / most",
        f"{number(one.ready_rss_mb)} / {number(one.end_rss_mb)} / {number(one.peak_rss_mb)} MB",
        "700 MB",
    )
    yield "seconds from start to ready", number(one.ready_seconds), ""
    yield "database, bytes a row", number(one.database_bytes_per_row), ""
    yield "written into files, bytes a row", number(one.written_bytes_per_row), ""
    for name, asked in one.asked.items():
        if name == FIRST_BYTES:
            yield f"/metrics, first byte of {asked['answers']:.0f}, p50 / p95 / p99 / most", _first_byte(asked), "5 ms"
        else:
            yield f"/{name}", _asked(asked), ""


def _first_byte(asked: Mapping[str, float]) -> str:
    return (
        f"{asked['median_first_byte_seconds'] * 1000:.1f} / {asked['late_first_byte_seconds'] * 1000:.1f} / "
        f"{asked['latest_first_byte_seconds'] * 1000:.1f} / {asked['slowest_first_byte_seconds'] * 1000:.1f} ms"
    )


def _asked(asked: Mapping[str, float]) -> str:
    times = asked["answers"] + asked["not_modified"]
    answers = max(asked["answers"], 1)
    return (
        f"{asked['answers']:.0f} answers, {asked['not_modified']:.0f} not modified, {asked['failures']:.0f} failed; "
        f"{asked['body_bytes'] / answers / 1e6:.2f} MB each, whole in {asked['seconds'] / max(times, 1) * 1000:.0f} ms "
        f"on average, {asked['slowest_seconds'] * 1000:.0f} at most; first byte in "
        f"{asked['median_first_byte_seconds'] * 1000:.1f} ms, p95 "
        f"{asked['late_first_byte_seconds'] * 1000:.1f}, {asked['slowest_first_byte_seconds'] * 1000:.1f} at most"
    )


def _notes(one: Figures) -> Iterator[str]:
    yield f"the ground-truth server: {one.server_share:.0%} of its core, late p99 {number(one.server_late_p99_ms)} ms"
    if one.exit_code:
        yield f"the daemon ended with code {one.exit_code}"
    yield from (f"the daemon said {line}" for line in one.complaints)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
