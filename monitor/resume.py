"""The schedule and the budget, taken up where the last process left them: what must be known before the first probe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from monitor.clock import Clock, suspended_seconds
from monitor.observation import CHAT
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


@dataclass(frozen=True, slots=True)
class Resumed:
    """`last_probes`: when the last scheduled probe of each place was due, in UTC seconds, of the day before; none
    where all are chat and all were seen lately. `well`: endpoints whose last word of the last hour was an answer, and
    when that was due."""

    dispatcher: Dispatcher
    last_probes: Mapping[Place, float]
    well: Mapping[str, float]


async def resume(
    settings: Settings,
    clock: Clock,
    history: History,
    probe: Callable[[Turn], Awaitable[ProbeReport]],
    cut_off: Callable[[Turn, float, float | None], ProbeReport],
    on_report: Callable[[ProbeReport], None],
    metrics: SelfMetrics,
    last_due_at: float | None,
    claims: Claims = EVERYTHING,
) -> Resumed:
    """`last_due_at` is when the last process's last slot fell due, in UTC seconds; None at a first start."""
    location = settings.location
    schedule = ScheduleClock(clock, last_due_at, suspended_seconds)
    # The schedule's day, not the wall's: it may be past a midnight that the wall has still before it.
    now = schedule.utc_now()
    recent = now if last_due_at is None else last_due_at
    endpoints = settings.catalog.endpoints
    # Beside one another: the database walks through an hour of rows for each, off the loop.
    lanes, spent_usd = await asyncio.gather(
        history.recent_lanes(recent - _LEARNING_SECONDS, location),
        history.spent_since(now // DAY_SECONDS * DAY_SECONDS, location),
    )
    places: dict[Place, float] = {}
    if any(each.probes for each in endpoints.values()) or any((name, CHAT) not in lanes for name in endpoints):
        places = await history.last_probes(recent - DAY_SECONDS)
    known = {(name, kind): lane for (name, kind), lane in lanes.items() if name in endpoints}
    mean_costs = {endpoints[name].lane(kind): lane.mean_cost_usd for (name, kind), lane in known.items()}
    budget = Budget(
        settings.probing.budget_usd_per_day,
        now,
        spent_usd,
        {lane: usd for lane, usd in mean_costs.items() if usd is not None},
    )
    gate = Gate(budget)
    deciding = {name: lane for (name, kind), lane in known.items() if kind == endpoints[name].kind}
    for name, lane in deciding.items():
        if lane.is_refused:
            gate.set_unusable(name, True)
    dispatcher = Dispatcher(
        clock,
        probe,
        on_report,
        metrics,
        gate,
        schedule=schedule,
        last_due_at=last_due_at,
        probed_before=mean_costs.keys()
        | {endpoints[name].lane(kind) for name, where, kind in places if where == location and name in endpoints},
        cut_off=cut_off,
        claims=claims,
    )
    return Resumed(dispatcher, places, {name: lane.succeeded_at for name, lane in deciding.items() if lane.is_well})
