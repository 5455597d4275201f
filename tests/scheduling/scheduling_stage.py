"""A dispatcher on a fake clock, with a scripted probe and every turn written down."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable

from monitor.catalog.model import Catalog, Endpoint, Model, Price, ProbeKind, Provider
from monitor.clock import FakeClock
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import Budget
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.gate import Gate
from monitor.secret import Secret
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings

MIDNIGHT = 1_699_920_000.0  # 2023-11-14 00:00 UTC


def endpoint_of(
    provider: str = "acme",
    number: int = 0,
    interval_seconds: float = 60.0,
    price: Price | None = None,
    api_key: Secret | None = None,
    base_url: str = "",
    probes: tuple[ProbeKind, ...] = (),
    is_asked_chat: bool = True,
) -> Endpoint:
    return Endpoint(
        model=f"author/model-{number}",
        provider=provider,
        suffix="",
        dialect="openai-chat",
        base_url=base_url or f"https://api.{provider}.example/v1",
        upstream=f"model-{number}",
        interval_seconds=interval_seconds,
        price=price,
        api_key=api_key,
        probes=probes,
        is_asked_chat=is_asked_chat,
    )


def catalog_of(endpoints: Iterable[Endpoint], caps: dict[str, int] | None = None) -> Catalog:
    endpoints = list(endpoints)
    providers = {e.provider: Provider(e.provider, e.provider, (caps or {}).get(e.provider)) for e in endpoints}
    models: dict[str, Model] = {}
    for slug in {e.model for e in endpoints}:
        models[slug] = Model(slug, slug, endpoints=tuple(e for e in endpoints if e.model == slug))
    return Catalog(providers, models, {e.id: e for e in endpoints})


def report_of(
    turn: Turn,
    outcome: Outcome = Outcome.SUCCESS,
    started_at: float | None = None,
    cost_usd: float | None = None,
    retry_after_seconds: float | None = None,
) -> ProbeReport:
    observation = Observation(
        endpoint=turn.endpoint.id,
        location="test",
        slot=turn.slot,
        due_at=turn.due_at,
        started_at=turn.due_at if started_at is None else started_at,
        kind=turn.kind,
        recheck=turn.recheck,
        outcome=outcome,
        cost_usd=cost_usd,
    )
    return ProbeReport(turn, observation, retry_after_seconds=retry_after_seconds)


def cut_off(turn: Turn, started_at: float, cost_usd: float | None) -> ProbeReport:
    return report_of(turn, Outcome.SHUTDOWN, started_at, cost_usd)


class Stage:
    """`probe` answers with success after `takes_seconds`, unless `script` (awaited with the turn) gives a report."""

    def __init__(
        self,
        clock: FakeClock | None = None,
        *,
        usd_per_day: float | None = None,
        spent_usd: float = 0.0,
        last_due_at: float | None = None,
        secrets_there: Callable[[Endpoint], Awaitable[bool]] | None = None,
        probed_before: Iterable[str] = (),
        mean_costs: dict[str, float] | None = None,
    ) -> None:
        self.clock = clock or FakeClock(now=MIDNIGHT + 3600.0)
        self.takes_seconds = 0.0
        self.script: Callable[[Turn], Awaitable[ProbeReport]] | None = None
        self.usd_per_day = usd_per_day
        self.begun: list[tuple[float, Turn]] = []  # monotonic
        self.reports: list[ProbeReport] = []
        self.on_report: Callable[[ProbeReport], None] = lambda report: None
        self.busy: Counter[str] = Counter()  # by provider
        self.most_busy: Counter[str] = Counter()  # also by "" for all
        self.busy_lanes: Counter[str] = Counter()
        self.metrics = SelfMetrics("test")
        self.budget = Budget(usd_per_day, self.clock.now(), spent_usd, mean_costs)
        self.gate = Gate(self.budget)
        self.dispatcher = Dispatcher(
            self.clock, self._probe, self._reported, self.metrics, self.gate, last_due_at=last_due_at,
            secrets_there=secrets_there, probed_before=probed_before, cut_off=cut_off,
        )  # fmt: skip

    def load(self, endpoints: Iterable[Endpoint], caps: dict[str, int] | None = None, concurrency: int = 512) -> None:
        self.dispatcher.set_catalog(
            catalog_of(endpoints, caps),
            ProbingSettings(concurrency=concurrency, budget_usd_per_day=self.usd_per_day),
        )

    async def run(self, seconds: float) -> None:
        """Let time pass with a tick each second."""
        for _ in range(int(seconds)):
            self.dispatcher.tick()
            await self.clock.advance(1.0)

    async def _probe(self, turn: Turn) -> ProbeReport:
        provider = turn.endpoint.provider
        self.begun.append((self.clock.monotonic(), turn))
        assert not self.busy_lanes[turn.lane], "two probes of one kind and endpoint at once"
        self.busy_lanes[turn.lane] += 1
        for place in (provider, ""):
            self.busy[place] += 1
            self.most_busy[place] = max(self.most_busy[place], self.busy[place])
        try:
            started_at = self.clock.now()
            if self.script is not None:
                return await self.script(turn)
            await self.clock.sleep(self.takes_seconds)
            return report_of(turn, started_at=started_at)
        finally:
            self.busy_lanes[turn.lane] -= 1
            for place in (provider, ""):
                self.busy[place] -= 1

    def _reported(self, report: ProbeReport) -> None:
        self.reports.append(report)
        self.on_report(report)

    def slots(self) -> dict[str, list[int]]:
        """The scheduled slots begun, by lane, in order."""
        slots: dict[str, list[int]] = defaultdict(list)
        for _, turn in self.begun:
            if turn.recheck == 0:
                slots[turn.lane].append(turn.slot)
        return slots

    def sample(self, name: str, **labels: str) -> float:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value


async def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """For the tests on the real loop: wait for something that nobody signals."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def forever(turn: Turn) -> ProbeReport:
    await asyncio.Event().wait()
    raise AssertionError
