"""What a restarted process knows of the day and of the schedule before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monitor.clock import FakeClock
from monitor.probing.probe import Prober
from monitor.probing.redaction import Redactor
from monitor.probing.report import ProbeReport
from monitor.resume import resume
from monitor.scheduling.dispatcher import Dispatcher
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings, parse_settings
from monitor.storage.resume_reads import RecentLane

MIDNIGHT = 1_699_920_000.0
HOUR = 3600.0
DAY = 24 * HOUR
YAML = """
location: here
probing: {budget: {usd_per_day: 1}}
providers:
  acme: {name: Acme, dialect: openai-chat, base_url: https://api.acme.example/v1}
models:
  a/small: {endpoints: [{provider: acme, upstream: small, price: {input: 1, output: 10}}]}
  a/large: {endpoints: [{provider: acme, upstream: large, price: {input: 1, output: 10}}]}
"""


class Recorded:
    """A history in which each hour of the schedule has cost 0.01 USD."""

    def __init__(self, last_due_at: float | None, mean: float = 1e-5) -> None:
        self.due_at = last_due_at
        self.mean = mean
        self.since: dict[str, float] = {}

    async def last_due_at(self, location: str) -> float | None:
        assert location == "here"
        return self.due_at

    async def spent_since(self, at: float, location: str) -> float:
        self.since["spent"] = at
        return 0.0 if self.due_at is None else max(self.due_at - at, 0.0) / HOUR / 100

    async def recent_lanes(self, since: float, location: str) -> dict[tuple[str, str], RecentLane]:
        self.since["mean"] = since
        dear = RecentLane(cost_pusd=10**12, priced=1)
        return {("a/small@acme", "chat"): RecentLane(round(self.mean * 1e12), 1), ("a/gone@acme", "chat"): dear}

    async def last_probes(self, since: float) -> dict[tuple[str, str, str], float]:
        at = self.due_at or 0.0
        return {("a/small@acme", "here", "chat"): at, ("a/large@acme", "there", "chat"): at}


async def resumed(clock: FakeClock, history: Any) -> Dispatcher:
    settings: Settings = parse_settings(YAML, Path("monitor.yaml"))
    prober = Prober(settings.probing, "here", clock, Redactor(), lambda _: False)

    def heard(report: ProbeReport) -> None:
        raise AssertionError(report)

    taken_up = await resume(
        settings, clock, history, prober.probe, prober.cut_off, heard, SelfMetrics("test"), history.due_at
    )
    dispatcher = taken_up.dispatcher
    dispatcher.set_catalog(settings.catalog, settings.probing)
    return dispatcher


async def test_the_days_spending_is_that_of_the_schedules_day_and_not_of_the_walls() -> None:
    """At 06:00 by the wall, which was set back by 20 hours: the schedule goes on at 02:00 of the next day."""
    history = Recorded(MIDNIGHT + 26 * HOUR)
    dispatcher = await resumed(FakeClock(now=MIDNIGHT + 6 * HOUR), history)
    assert history.since["spent"] == MIDNIGHT + DAY
    now = dispatcher.schedule.utc_now()
    assert now >= MIDNIGHT + 26 * HOUR
    assert dispatcher.gate.budget.used_ratio(now) == 0.02


async def test_a_usual_restart_asks_since_this_mornings_midnight_and_counts_what_it_missed() -> None:
    history = Recorded(MIDNIGHT + 5 * HOUR)
    dispatcher = await resumed(FakeClock(now=MIDNIGHT + 6 * HOUR), history)
    assert history.since == {"spent": MIDNIGHT, "mean": MIDNIGHT + 4 * HOUR}
    assert dispatcher.gate.budget.used_ratio(dispatcher.schedule.utc_now()) == 0.05
    assert dispatcher.skipped == {"missed": 60}, "the other endpoint was never probed from here"


async def test_a_restart_knows_what_probes_really_cost() -> None:
    now = MIDNIGHT + 1.0
    cheap = await resumed(FakeClock(now=now), Recorded(now - 60.0, mean=0.0))
    dear = await resumed(FakeClock(now=now), Recorded(now - 60.0, mean=1.0))
    assert cheap.gate.budget.factor(now) < dear.gate.budget.factor(now)


async def test_a_first_start_has_nothing_to_resume() -> None:
    history = Recorded(None)
    dispatcher = await resumed(FakeClock(now=MIDNIGHT + 6 * HOUR), history)
    assert history.since["spent"] == MIDNIGHT
    assert dispatcher.gate.budget.spent_usd == 0.0
