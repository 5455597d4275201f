"""How punctual and how dear the schedule is: 10,000 endpoints at 60 s with an empty probe. Shown, not asserted."""

from __future__ import annotations

import asyncio
import time

from monitor.catalog.model import Catalog, Endpoint, Provider
from monitor.clock import SystemClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.gate import Gate
from monitor.scheduling.jobs import Chores
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings

ENDPOINTS = 10_000
SECONDS = 10.0
_WARM_UP_SECONDS = 1.0


def _catalog() -> Catalog:
    endpoints = {}
    for number in range(ENDPOINTS):
        endpoint = Endpoint(
            model=f"author/model-{number // 20}", provider=f"provider-{number % 20}", suffix="", dialect="openai-chat",
            base_url="https://api.example/v1", upstream="m", interval_seconds=60.0,
        )  # fmt: skip
        endpoints[endpoint.id] = endpoint
    providers = {slug: Provider(slug, slug, 64) for slug in {e.provider for e in endpoints.values()}}
    return Catalog(providers, {}, endpoints)


async def _measure() -> tuple[list[float], float]:
    clock = SystemClock()
    delays: list[float] = []

    async def probe(turn: Turn) -> ProbeReport:
        delays.append(clock.now() - turn.due_at)
        await clock.sleep(0.2)  # a short answer: some 33 probes in flight
        observation = Observation(
            endpoint=turn.endpoint.id, location="bench", slot=turn.slot, due_at=turn.due_at, started_at=turn.due_at,
            outcome=Outcome.SUCCESS,
        )  # fmt: skip
        return ProbeReport(turn, observation)

    metrics = SelfMetrics("bench")
    dispatcher = Dispatcher(clock, probe, lambda report: None, metrics, Gate(Budget(None, clock.now())))
    dispatcher.set_catalog(_catalog(), ProbingSettings())
    chores = Chores(clock, dispatcher.tick)
    chores.start()
    await clock.sleep(_WARM_UP_SECONDS)
    delays.clear()
    cpu_before = time.process_time()
    await clock.sleep(SECONDS)
    cpu = time.process_time() - cpu_before
    await dispatcher.drain(5.0)
    await chores.stop(1.0)
    return sorted(delays), cpu


def main() -> None:
    delays, cpu = asyncio.run(_measure())
    p50, p99 = (delays[int(len(delays) * quantile)] * 1000 for quantile in (0.5, 0.99))
    print(f"scheduling: {ENDPOINTS} endpoints at 60 s, {len(delays) / SECONDS:.0f} probes/s for {SECONDS:.0f} s")
    print(f"  start delay p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {delays[-1] * 1000:.2f} ms")
    print(f"  CPU {cpu / SECONDS * 100:.1f} % of one core, {cpu / len(delays) * 1e6:.0f} us per probe")


if __name__ == "__main__":
    main()
