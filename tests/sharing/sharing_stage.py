"""Several monitors of one location on one PostgreSQL, a fleet that remembers every request, and the reckoning between
the two: which due slots have a row, and what each request beyond the rows was."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from daemon_stage import Subprocess, environment

from monitor.catalog.model import Model, Price
from monitor.clock import SystemClock
from monitor.sharing.lease import BEAT_SECONDS
from monitor.simulator.config import fleet_yaml
from monitor.simulator.members import Fleet, Profile, SimEndpoint, SimProvider, fleet_of
from monitor.simulator.server import FleetServer
from monitor.simulator.speech import SPEECHES
from monitor.slot import Cadence

LOCATION = "test"
_PROFILE = Profile(ttft_seconds=0.12, tokens_per_second=200.0, tail_share=0.0, load_gain=0.0, answer_tokens=12.0)
# From a request to its row: the slowest answer of the profile, the flush interval, and the commit.
IN_FLIGHT_SECONDS = 3.0
PROBE_SECONDS = 6.0  # the longest that a probe of this configuration takes
LATE_SECONDS = 1.0


def healthy_fleet(endpoints: int, seed: int = 1) -> Fleet:
    providers = tuple(
        SimProvider(slug, slug.title(), "always well") for slug in ("northwind", "southgate", "eastbourne", "westlake")
    )
    count = -(-endpoints // len(providers))
    models = tuple(Model(f"author/model-{number}", f"Model {number}") for number in range(count))
    all_of_them = [
        SimEndpoint(model.slug, provider.slug, "", model.slug, Price(input=0.1, output=0.4), _PROFILE)
        for model in models
        for provider in providers
    ]
    return fleet_of(seed, providers, models, tuple(all_of_them[:endpoints]))


@asynccontextmanager
async def remembering_fleet(endpoints: int, seed: int = 1) -> AsyncIterator[FleetServer]:
    async with FleetServer(healthy_fleet(endpoints, seed), SystemClock(), "127.0.0.1", 0) as server:
        server.seen = deque()  # of any length
        yield server


def config_of(server: FleetServer, directory: Path, database: str, interval: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    text = fleet_yaml(
        server.fleet, server.base_url, listen="127.0.0.1:0", database=database, location=LOCATION, interval=interval
    )
    spill = f"database:\n  url: {database}\n  spill: {directory}/rows.spill\n"
    text = text.replace(f"database: {database}\n", spill, 1)
    deadlines = "  timeout: 4s\n  first_token_timeout: 3s\n  idle_timeout: 2s\n  connect_timeout: 2s\n"
    text = text.replace(f"  interval: {interval}\n", f"  interval: {interval}\n{deadlines}", 1)
    assert spill in text and deadlines in text
    path = directory / "monitor.yaml"
    path.write_text(text)
    return path


def monitors(server: FleetServer, directory: Path, database: str, interval: str, count: int) -> list[Subprocess]:
    return [
        Subprocess(config_of(server, directory / f"monitor-{number}", database, interval), environment(server))
        for number in range(1, count + 1)
    ]


@dataclass(frozen=True)
class Event:
    """What was done to a monitor. `at` is UTC seconds."""

    at: float
    what: str  # kill, freeze, or starvation: by the machine, which had no time for it
    monitor: int
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.what} of monitor {self.monitor}{lasting}"


@dataclass(frozen=True)
class Extra:
    """A request that no row tells of."""

    at: float
    endpoint: str
    number: int
    event: Event | None  # that found it in flight

    def __str__(self) -> str:
        text = f"{self.endpoint} request {self.number}"
        if self.event is None:
            return f"{text} at {self.at:.3f}: UNEXPLAINED"
        return f"{text}: sent {self.event.at - self.at:.3f} s before the {self.event}"


@dataclass
class Reckoning:
    due: int = 0
    missing: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    requests: int = 0
    rows: int = 0
    without_id: int = 0  # rows whose probe ended before it was told an id
    extras: list[Extra] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)  # rows whose request the fleet has not seen

    @property
    def late_ratio(self) -> float:
        return len(self.late) / max(self.due, 1)

    @property
    def unexplained(self) -> list[Extra]:
        return [extra for extra in self.extras if extra.event is None]

    def lines(self) -> list[str]:
        latest = f", the latest by {max(self.late):.1f} s" if self.late else ""
        return [
            f"due slots {self.due}, rows {self.rows} ({self.without_id} without an id), no row {len(self.missing)}",
            f"late by more than {LATE_SECONDS:g} s: {len(self.late)} = {100 * self.late_ratio:.2f} %{latest}",
            f"requests {self.requests}, beyond the rows {len(self.extras)}, unexplained {len(self.unexplained)}",
            *(f"  {extra}" for extra in self.extras),
            *(f"  no row: {each}" for each in self.missing[:50]),
        ]


async def reckon(
    database: str,
    server: FleetServer,
    since: float,
    until: float,
    interval_seconds: float,
    events: Sequence[Event],
    lags: Sequence[tuple[float, float]],
) -> Reckoning:
    """Of the slots due in [since, until), once everything is written. `lags` are as from `lateness`: a request is seen
    that much later than it was sent."""
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT endpoints.name AS endpoint, due_ms, recheck, delay_us, response_id FROM raw_observations "
            "JOIN endpoints ON endpoints.id = endpoint_id"
        )
    finally:
        await connection.close()
    found = Reckoning()
    scheduled = {(row["endpoint"], row["due_ms"]): row for row in rows if row["recheck"] == 0}
    for endpoint in server.fleet.endpoints:
        cadence = Cadence.of(endpoint, interval_seconds)
        for slot in range(cadence.slot_from(since), cadence.slot_from(until)):
            found.due += 1
            row = scheduled.get((endpoint, round(cadence.due_at(slot) * 1000)))
            if row is None:
                found.missing.append(f"{endpoint} due {cadence.due_at(slot):.3f}")
                continue
            found.rows += 1
            if row["delay_us"] > LATE_SECONDS * 1e6:
                found.late.append(row["delay_us"] / 1e6)
    # A probe that ended before its first event has no id: it is known by when it began, and stands for one request.
    by_id = {row["response_id"] for row in rows}
    began: dict[str, list[float]] = {}
    for row in rows:
        if row["response_id"] is None:
            began.setdefault(row["endpoint"], []).append((row["due_ms"] * 1000 + row["delay_us"]) / 1e6)
            found.without_id += 1
    ids = set()
    for seen in server.seen:
        found.requests += 1
        provider = server.fleet.providers[server.fleet.endpoints[seen.endpoint].provider]
        id_ = SPEECHES[provider.dialect].response_id(seen.endpoint, seen.number)
        ids.add(id_)
        if id_ in by_id:
            continue
        unnamed = began.get(seen.endpoint, [])
        if (at := next((at for at in unnamed if -0.1 <= seen.at - at <= PROBE_SECONDS), None)) is not None:
            unnamed.remove(at)
            continue
        slack = 0.1 + max((lag for at, lag in lags if at - lag - 0.2 <= seen.at <= at + 0.2), default=0.0)
        explaining = [one for one in events if -slack <= one.at - seen.at <= IN_FLIGHT_SECONDS]
        event = min(explaining, key=lambda one: one.at, default=None)
        found.extras.append(Extra(seen.at, seen.endpoint, seen.number, event))
    found.unasked = [id_ for id_ in by_id if id_ is not None and id_ not in ids]
    return found


@asynccontextmanager
async def lateness() -> AsyncIterator[list[tuple[float, float]]]:
    """When (UTC seconds) this loop, which is the fleet's too, was late, and by how much."""
    lags: list[tuple[float, float]] = []

    async def watch() -> None:
        while True:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            if (lag := time.monotonic() - due) > 0.05:
                lags.append((time.time(), lag))

    task = asyncio.create_task(watch())
    try:
        yield lags
    finally:
        task.cancel()


_AWAY = re.compile(r"^(\S+ \S+),(\d+) .* was_away seconds=(\S+)")


def starved(processes: Sequence[Subprocess], events: Sequence[Event]) -> list[Event]:
    """Freezes that nobody ordered: the monitors' own words about not having run for a while."""
    ordered = [one for one in events if one.what == "freeze"]
    found = []
    for number, process in enumerate(processes, 1):
        for line in process.log:
            if told := _AWAY.match(line):
                woke = time.mktime(time.strptime(told[1], "%Y-%m-%d %H:%M:%S")) + float(f"0.{told[2]}")
                # Told since the last heartbeat, which was a second before the next one was due.
                away = float(told[3]) - BEAT_SECONDS
                if not any(
                    one.monitor == number and one.at - BEAT_SECONDS < woke < one.at + one.seconds + 5.0
                    for one in ordered
                ):
                    found.append(Event(woke - away, "starvation", number, away))
    return found


async def freeze(process: Subprocess, number: int, seconds: float, events: list[Event]) -> None:
    events.append(Event(time.time(), "freeze", number, seconds))
    process.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.signal(signal.SIGCONT)


async def kill(process: Subprocess, number: int, events: list[Event]) -> None:
    events.append(Event(time.time(), "kill", number))
    await process.end(signal.SIGKILL)


async def end_all(processes: Sequence[Subprocess]) -> None:
    """Whatever became of them: those that live drain and end."""
    for process in processes:
        if process.is_running:
            process.signal(signal.SIGCONT)
    for process in processes:
        if process.is_running:
            await process.end(signal.SIGTERM)


def misfortunes(seed: int, seconds: float, count: int) -> list[tuple[float, str, int, float]]:
    """(after seconds, what, monitor, for how long): kills and freezes of random monitors, from 20 s after the start to
    40 s before the end."""
    draw = random.Random(seed)
    found = []
    at = 20.0
    while at < seconds - 40.0:
        what = draw.choice(("kill", "freeze"))
        found.append((at, what, draw.randrange(count), draw.uniform(2.0, 20.0)))
        at += draw.uniform(35.0, 95.0)
    return found
