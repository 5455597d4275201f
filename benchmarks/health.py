"""How fast the windows, states and views are, and how much memory they take: shown, never asserted.

python -m benchmarks.health [series]
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monitor.catalog.model import Catalog, Endpoint, Model, Provider
from monitor.clock import FakeClock
from monitor.health.board import Board
from monitor.health.rows import rows_of
from monitor.health.sketch import FIGURES
from monitor.health.spans import HOUR, LONG_WINDOWS, floor_hour
from monitor.health.tally import Tally
from monitor.health.windows import Windows
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.settings import Settings
from monitor.slot import Cadence, Era

NOW = 1_700_000_000.0


@contextmanager
def shown(what: str, times: int = 1, unit: str = "") -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds = time.perf_counter() - begun
    each = f", {seconds / times * 1e6:.2f} us per {unit}" if times > 1 else ""
    print(f"  {what}: {seconds * 1000:.1f} ms{each}")


def observation(rng: random.Random, endpoint: str, started_at: float, slot: int) -> Observation:
    ok = rng.random() > 0.02
    ttft = rng.lognormvariate(-1.0, 0.5)
    return Observation(
        endpoint=endpoint,
        location="here",
        slot=slot,
        due_at=started_at - 0.01,
        started_at=started_at,
        outcome=Outcome.SUCCESS if ok else Outcome.SERVER_ERROR,
        ttft_seconds=ttft if ok else None,
        latency_seconds=ttft + 1.0 if ok else None,
        output_tokens_per_second=rng.lognormvariate(4.0, 0.4) if ok else None,
        throughput_tokens_per_second=rng.lognormvariate(3.5, 0.4) if ok else None,
        answer_ok=True if ok else None,
    )


def catalog(series: int) -> Catalog:
    endpoints = [
        Endpoint(f"author/model-{number}", "acme", "", "openai-chat", "http://acme", "up", 60.0)
        for number in range(series)
    ]
    return Catalog(
        {"acme": Provider("acme", "Acme", None)},
        {one.model: Model(one.model, one.model, endpoints=(one,)) for one in endpoints},
        {one.id: one for one in endpoints},
    )


def rss_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main(series: int = 10_000) -> int:
    rng = random.Random(1)
    print(f"health: {series} series")
    watched = catalog(series)
    ids = list(watched.endpoints)

    before = rss_megabytes()
    windows = Windows(NOW)
    for minute in range(30):
        batch = [observation(rng, one, NOW - 1800 + 60 * minute + 1, minute) for one in ids]
        if minute == 29:
            with shown("windows: record a minute's observations in one batch", len(batch), "observation"):
                windows.record(batch, NOW)
        else:
            windows.record(batch, NOW)
    small = [[observation(rng, rng.choice(ids), NOW, 1000 + number) for _ in range(170)] for number in range(20)]
    with shown("windows: record batches of 170", 20 * 170, "observation"):
        for batch in small:
            windows.record(batch, NOW)
    print(f"  windows: {rss_megabytes() - before:.0f} MB with 30 observations a series")
    for figure in FIGURES:
        with shown(f"windows: 30d p50, p90, p99 of {figure}, all series", series, "series"):
            windows.quantiles_all("30d", figure, (0.5, 0.9, 0.99))

    tallies = []
    for one in ids[:1000]:
        tally = Tally()
        for slot in range(60):
            tally.add(observation(rng, one, NOW, slot))
        tallies.append(tally)
    hour = floor_hour(NOW)
    rows = rows_of((hour, one, "here", "chat", tally) for one, tally in zip(ids, tallies, strict=False))
    windows.restore_ranges(NOW, hour + HOUR, hour)
    with shown("windows: restore hourly rows", len(rows), "row"):
        windows.restore_hours(rows)
    leaving = dict.fromkeys(LONG_WINDOWS, rows)
    slices = []
    windows.slide(hour + HOUR, leaving)
    more = True
    while more:
        begun = time.perf_counter()
        more = windows.settle()
        slices.append(time.perf_counter() - begun)
    print(f"  windows: slide {len(rows)} rows x 3: {sum(slices) * 1000:.0f} ms, longest {max(slices) * 1000:.1f} ms")
    del windows

    clock = FakeClock(NOW)
    before = rss_megabytes()
    board = Board(Settings(path=Path("monitor.yaml"), catalog=watched, location="here"), clock)
    for one in ids:
        board.set_eras(one, "here", [Era(NOW - 86400.0, None, Cadence.of(one, 60.0))])
    for minute in range(30):
        batch = [observation(rng, one, NOW - 1800 + 60 * minute + 1, minute) for one in ids]
        if minute == 29:
            with shown("board: observe", len(batch), "observation"):
                for one in batch:
                    board.observe(one)
        else:
            for one in batch:
                board.observe(one)
        board.record(batch)
    slices = []
    refreshing = board.refresh_slices()
    more = True
    while more:
        begun = time.perf_counter()
        more = next(refreshing, 0) is None
        slices.append(time.perf_counter() - begun)
    print(
        f"  board: refresh all views: {sum(slices) * 1000:.0f} ms, {sum(slices) / series * 1e6:.0f} us per view, "
        f"longest slice {max(slices) * 1000:.1f} ms"
    )
    with shown("board: refresh with nothing to do"):
        list(board.refresh_slices())
    with shown("board: pooled 30d figures of all series"):
        board.figures(ids, None, "30d", (0.5, 0.9, 0.99))
    with shown("board: pooled 30d figures of one series, 100 times", 100, "call"):
        for one in ids[:100]:
            board.figures([one], None, "30d", (0.5, 0.9, 0.99))
    print(f"  board: {rss_megabytes() - before:.0f} MB with 30 observations a series and all views")
    return 0


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
