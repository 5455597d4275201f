"""What a scrape of the whole fleet costs, how soon its first byte comes and how long it holds the loop, beside
prometheus-client's `generate_latest` of the same series, and the same of the large JSON answers: shown, never asserted.

python -m benchmarks exposition [endpoints]

The server is the real web room on the daemon's own loop in this process, over a board that is fed 1/60 of the endpoints
a second; the client is another process. CPU is this process's, all threads.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.registry import Collector

import monitor.loop
from benchmarks.health import observation, rss_megabytes
from monitor.catalog.model import Catalog, Endpoint, Model, Price, Provider
from monitor.clock import SystemClock
from monitor.health.board import Board
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.slot import Cadence, Era
from monitor.web import exposition
from monitor.web.app import create_app
from monitor.web.formats import TEXT
from monitor.web.ports import Check
from monitor.web.room import ROOM

INTERVAL_SECONDS = 60.0
SCRAPE_SECONDS = 15.0
PROVIDERS = 50
OFFERS = 25  # of each model
MINUTES = 30  # of past
SCRAPES = 10
FEED = "feed"

# Reads one answer at a time and tells of each (seconds to the first byte, to the first 16 kB or all of it, to the last;
# bytes). Every answer comes over a connection of its own, made before the clock starts.
CLIENT = """
import json, socket, sys, time
port, pause, times, path, *headers = sys.argv[1:]
for _ in range(int(times)):
    time.sleep(float(pause))
    with socket.create_connection(("127.0.0.1", int(port))) as to:
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        begun = time.perf_counter()
        to.sendall("\\r\\n".join(lines).encode())
        size, first, early = 0, None, None
        while got := to.recv(1 << 20):
            size += len(got)
            first = first or time.perf_counter() - begun
            if size > 16384:
                early = early or time.perf_counter() - begun
        last = time.perf_counter() - begun
    print(json.dumps([first, early or last, last, size]), flush=True)
"""


def fleet(size: int) -> Catalog:
    endpoints = [
        Endpoint(
            f"author-{number // OFFERS % 40}/model-{number // OFFERS}-instruct",
            f"provider-{(number // OFFERS * 7 + number % OFFERS) % PROVIDERS}",
            "",
            "openai-chat",
            "http://acme",
            "up",
            INTERVAL_SECONDS,
            price=Price(0.1 + number / 1000, 0.4 + number / 100),
        )
        for number in range(size)
    ]
    models: dict[str, list[Endpoint]] = {}
    for one in endpoints:
        models.setdefault(one.model, []).append(one)
    return Catalog(
        {one.provider: Provider(one.provider, one.provider.title(), None) for one in endpoints},
        {slug: Model(slug, slug, endpoints=tuple(its)) for slug, its in models.items()},
        {one.id: one for one in endpoints},
    )


class Ready:
    starting = ""

    async def checks(self) -> list[Check]:
        return []


async def _none(*_: object) -> Any:
    raise NotImplementedError("this benchmark has no database and no daemon")


@dataclass
class Served:
    board: Board
    app: web.Application
    port: int
    endpoints: list[str]
    since: float  # the first probe of the first endpoint
    fed_until: float
    clock: SystemClock = field(default_factory=SystemClock)

    async def feed(self, seconds: float) -> None:
        """Each endpoint's probe when it is due, half a second's committed at once, views renewed once a second."""
        rng, number = random.Random(2), 0
        began = self.clock.monotonic()
        while (now := self.clock.monotonic()) < began + seconds:
            until = self.clock.now()
            due = range(self._fed(self.fed_until), self._fed(until))
            self.fed_until = until
            batch = [observation(rng, self.endpoints[each % len(self.endpoints)], until - 1, each) for each in due]
            for one in batch:
                self.board.observe(one)
                await self.clock.sleep(0)  # as probes end one by one
            self.board.record(batch)
            if number % 2:
                await self.board.refresh()
            number += 1
            await self.clock.sleep(began + number / 2 - now)

    def _fed(self, at: float) -> int:
        """Probes that were due by then, since the first of all."""
        return int((at - self.since) / INTERVAL_SECONDS * len(self.endpoints))


@asynccontextmanager
async def served(size: int) -> AsyncIterator[Served]:
    catalog, clock, rng = fleet(size), SystemClock(), random.Random(1)
    settings = Settings(path=Path("monitor.yaml"), catalog=catalog, location="here")
    board, ids, now = Board(settings, clock), list(catalog.endpoints), clock.now()
    for one in ids:
        board.set_eras(one, "here", [Era(now - 86_400.0, None, Cadence.of(one, INTERVAL_SECONDS))])
    for minute in range(MINUTES, 0, -1):
        batch = [
            observation(rng, one, now - 60 * (minute - place / len(ids)), 10_000 - minute)
            for place, one in enumerate(ids)
        ]
        for each in batch:
            board.observe(each)
        board.record(batch)
    await board.refresh()
    before = rss_megabytes()
    app = create_app(
        board, lambda: settings, _none, SelfMetrics("0"), Ready(), _none, clock=clock  # type: ignore[arg-type]
    )  # fmt: skip
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"  rendered and encoded, kept in memory: {rss_megabytes() - before:.0f} MB")
    gc.collect()
    gc.freeze()
    gc.set_threshold(500_000, 1_000, 1_000)  # nearly as the daemon's
    yield Served(board, app, runner.addresses[0][1], ids, now - 60 * MINUTES, now)
    await runner.cleanup()


async def asked(port: int, path: str, *headers: str, times: int = 1, pause: float = 0.0) -> list[list[float]]:
    """Per answer (first byte, first 16 kB, last byte, in seconds; bytes)."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(port), str(pause), str(times), path, *headers, stdout=subprocess.PIPE
    )
    told, _ = await client.communicate()
    return [json.loads(line) for line in told.splitlines()]


@contextmanager
def held() -> Iterator[list[float]]:
    """CPU seconds of every turn that the loop gave to somebody but the feed, as they come in."""
    turns: list[float] = []
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        is_feed = isinstance(owner, asyncio.Task) and owner.get_name() == FEED
        begun = time.thread_time()
        run(handle)
        if not is_feed:
            turns.append(time.thread_time() - begun)

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield turns
    finally:
        asyncio.events.Handle._run = run  # type: ignore[method-assign]


def milliseconds(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered) * 1e3:.1f} / {ordered[-1] * 1e3:.1f} ms"


GZIP = "Accept-Encoding: gzip"
OPENMETRICS = "Accept: application/openmetrics-text;version=1.0.0"
ANSWERS = {
    "/metrics": ("/metrics",),
    "/metrics, gzip": ("/metrics", GZIP),
    "/metrics, gzip, OpenMetrics": ("/metrics", GZIP, OPENMETRICS),
    "/metrics of a provider, gzip": ("/metrics?provider=provider-7", GZIP),
    "/metrics/self": ("/metrics/self",),
    "/api/v1/routing, gzip": ("/api/v1/routing", GZIP),
    "/api/v1/routing of a model": ("/api/v1/routing?model=author-1/model-1-instruct",),
    "/api/v1/models, gzip": ("/api/v1/models", GZIP),
    "/api/v1/providers": ("/api/v1/providers",),
    "/, gzip": ("/", GZIP),
}


async def measure(size: int) -> tuple[bytes, float, float, float]:
    """The page, and CPU seconds: of sending it, of sending it gzipped, of rendering what changes between scrapes."""
    async with served(size) as room:
        costs = {}
        print("  CPU per answer, one after another, nothing else going on:")
        for name, (path, *headers) in ANSWERS.items():
            await asked(room.port, path, *headers)
            begun = time.process_time()
            answers = await asked(room.port, path, *headers, times=5)
            costs[name] = (time.process_time() - begun) / 5
            print(f"    {name}: {costs[name] * 1e3:.1f} ms CPU, {answers[0][3] / 1e6:.2f} MB")
        begun = time.process_time()
        await asyncio.gather(*(asked(room.port, "/metrics", GZIP) for _ in range(4)))
        print(f"    /metrics, gzip, four at once: {(time.process_time() - begun) * 1e3:.1f} ms CPU together")
        form = exposition.Exposition.page
        page = b"".join(form(room.app[ROOM].exposition, TEXT, None))
        await room.feed(5.0)
        rendering = await changing(room)
        print("  while the fleet is probed: median / worst of what a client sees; the web room's longest turn of the")
        print("  loop in CPU time, and in brackets while nobody asks, when it renders what has changed:")
        for name, (path, *headers) in ANSWERS.items():
            feeding = asyncio.create_task(room.feed(600.0), name=FEED)
            with held() as alone:
                await asyncio.sleep(3.0)
            with held() as turns:
                answers = await asked(room.port, path, *headers, times=SCRAPES, pause=0.3)
            feeding.cancel()
            first, early, last = ([each[place] for each in answers] for place in range(3))
            print(
                f"    {name}: first byte {milliseconds(first)}, 16 kB {milliseconds(early)}, "
                f"all {milliseconds(last)}; longest turn {max(turns) * 1e3:.1f} ms ({max(alone) * 1e3:.1f})"
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"  resident at the end {rss_megabytes():.0f} MB, at most {peak:.0f} MB, board and feed included")
    return page, costs["/metrics"], costs["/metrics, gzip"], rendering


async def changing(room: Served) -> float:
    """CPU seconds of rendering what changes from one scrape to the next."""
    rendered: list[float] = []
    lines = exposition._lines

    def timed(*arguments: Any) -> Any:
        begun = time.thread_time()
        found = lines(*arguments)
        rendered.append(time.thread_time() - begun)
        return found

    exposition._lines = timed
    await room.feed(SCRAPE_SECONDS)
    exposition._lines = lines
    print(
        f"  rendered again in {SCRAPE_SECONDS:g} s: {len(rendered)} of {len(room.endpoints)} endpoints, "
        f"{sum(rendered) * 1e3:.0f} ms CPU"
    )
    return sum(rendered)


# --- the peer, in a process of its own: 640,000 metric objects take a gigabyte

_LINE = re.compile(r"([a-z_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-z]+)="([^"]*)"')
Sample = tuple[str, tuple[tuple[str, str], ...], float]


def samples(page: str) -> Iterator[Sample]:
    for line in page.splitlines():
        if not line.startswith("#") and (found := _LINE.fullmatch(line)):
            yield found[1], tuple(sorted(_LABEL.findall(found[2] or ""))), float(found[3])


class Prepared(Collector):
    """The same samples without an object each: nothing is left to do but to write them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families = list(registry.collect())

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def peer(path: str) -> None:
    page = Path(path).read_text()
    ours = [each for each in samples(page) if each[0].startswith("llm_")]
    registry, families = CollectorRegistry(), {}
    for name, labels, value in ours:
        if name not in families:
            kind = Counter if name.endswith("_total") else Gauge
            families[name] = kind(name, "The same.", [label for label, _ in labels], registry=registry)
        child = families[name].labels(*(text for _, text in labels))
        child.inc(value) if isinstance(child, Counter) else child.set(value)
    costs = []
    for collector in (registry, Prepared(registry)):
        begun = time.process_time()
        whole = generate_latest(collector)
        costs.append(time.process_time() - begun)
    theirs = {each for each in samples(whole.decode()) if not each[0].endswith("_created")}
    print(json.dumps([*costs, len(ours), len(set(ours) ^ theirs)]))


def main(size: str = "10000") -> int:
    print(f"exposition: {size} endpoints, {PROVIDERS} providers")
    page, plain, gzipped, rendering = monitor.loop.run(measure(int(size)))
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(page)
        file.flush()
        told = subprocess.check_output([sys.executable, "-m", "benchmarks.exposition", "peer", file.name])
    objects, prepared, series, different = json.loads(told)
    print(f"  generate_latest of the same {series} series ({different} differ): {objects:.2f} s CPU")
    print(f"    of samples that are there already, nothing collected: {prepared:.2f} s CPU")
    for name, cost in (("plain", plain), ("gzip", gzipped)):
        whole = cost + rendering
        print(
            f"  {name}: {objects / cost:.0f} times less than generate_latest; with all that is rendered between two "
            f"scrapes {objects / whole:.0f} times ({prepared / whole:.0f} times less than with samples that are there)"
        )
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:]))
