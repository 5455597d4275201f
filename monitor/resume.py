"""The schedule and the budget, taken up where the last process left them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from monitor.clock import Clock, suspended_seconds
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.budget import DAY_SECONDS, Budget
from monitor.scheduling.claims import EVERYTHING, Claims
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.gate import Gate
from monitor.scheduling.schedule_clock import ScheduleClock
from monitor.self_metrics import SelfMetrics
from monitor.settings import Settings
from monitor.storage.history import History
from monitor.storage.names import Place

# What a probe costs is learned from the last hour on record: enough for a mean, and a quick read.
_LEARNING_SECONDS = 3600.0


async def resume(
    settings: Settings,
    clock: Clock,
    history: History,
    probe: Callable[[Turn], Awaitable[ProbeReport]],
    cut_off: Callable[[Turn, float, float | None], ProbeReport],
    on_report: Callable[[ProbeReport], None],
    metrics: SelfMetrics,
    last_due_at: float | None,
    on_last_probes: Callable[[Mapping[Place, float]], None] = lambda last_probes: None,
    claims: Claims = EVERYTHING,
) -> Dispatcher:
    """`last_due_at` is when the last process's last slot fell due, in UTC seconds; None at a first start.
    `on_last_probes` is told when those of the day before that were due."""
    location = settings.location
    schedule = ScheduleClock(clock, last_due_at, suspended_seconds)
    # The schedule's day, not the wall's: it may be past a midnight that the wall has still before it.
    now = schedule.utc_now()
    recent = now if last_due_at is None else last_due_at
    endpoints = settings.catalog.endpoints
    mean_costs = await history.mean_costs(recent - _LEARNING_SECONDS, location)
    budget = Budget(
        settings.probing.budget_usd_per_day,
        now,
        await history.spent_since(now // DAY_SECONDS * DAY_SECONDS, location),
        {endpoints[name].lane(kind): usd for (name, kind), usd in mean_costs.items() if name in endpoints},
    )
    places = await history.last_probes(recent - DAY_SECONDS)
    on_last_probes(places)
    return Dispatcher(
        clock,
        probe,
        on_report,
        metrics,
        Gate(budget),
        schedule=schedule,
        last_due_at=last_due_at,
        probed_before={
            endpoints[name].lane(kind) for name, where, kind in places if where == location and name in endpoints
        },
        cut_off=cut_off,
        claims=claims,
    )
