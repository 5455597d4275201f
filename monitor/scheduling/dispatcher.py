"""From due slots to running probes: caps, overlap, waiting, rechecks, drain. Every due slot ends in exactly one of
started, or skipped with a reason (monitor.self_metrics.SKIP_REASONS)."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import Clock
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.alarm import Alarm
from monitor.scheduling.due import DueQueue, DueSlot
from monitor.scheduling.gate import Gate
from monitor.scheduling.schedule_clock import ScheduleClock
from monitor.scheduling.secrets_there import are_secrets_there
from monitor.scheduling.waiting import Waiter, WaitingRoom
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings
from monitor.slot import Cadence

logger = logging.getLogger(__name__)

HORIZON_SECONDS = 5.0  # turns are armed that far ahead: a tick may be late by as much and no probe is
OVERRUN_SECONDS = 15.0  # past all its own deadlines a probe is cut off: one that hangs must not keep its place for ever
_BLUNT_SECONDS = 1e-6  # a timer may ring a hair early
_STUCK_SECONDS = 5.0  # armed turns overdue by this much are not being dealt with
_CANCEL_SECONDS = 2.0  # a cancelled probe closes its socket in milliseconds


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a drain ended: probes that finished, that were cut off, and that did not even heed that."""

    finished: int
    cancelled: int
    stuck: int


@dataclass(slots=True, eq=False)
class _Flight:
    turn: Turn
    began_at: float  # monotonic
    task: asyncio.Task[None] | None = None
    cut_off: bool = False


@dataclass(order=True, slots=True)
class _Armed:
    at: float  # monotonic
    order: int
    generation: int = field(compare=False)
    due: DueSlot = field(compare=False)
    turn: Turn | None = field(compare=False, default=None)  # a recheck's; None = a scheduled slot


@dataclass(slots=True)
class _Watched:
    endpoint: Endpoint
    generation: int  # armed turns of an older one are void
    last_began_at: float | None = None  # monotonic
    last_took_seconds: float = 0.0


class Dispatcher:
    """Sends probes when they are due. `probe` never raises but CancelledError and yields a report; `on_report` gets every
    report in the loop, at once, and must not block. `last_due_at`: as for ScheduleClock. Use from one loop.

    `started` and `skipped` (by reason) count scheduled slots; `dropped_rechecks` (by reason) the rechecks not sent.
    """

    def __init__(
        self,
        clock: Clock,
        probe: Callable[[Turn], Awaitable[ProbeReport]],
        on_report: Callable[[ProbeReport], None],
        metrics: SelfMetrics,
        gate: Gate,
        *,
        last_due_at: float | None = None,
        schedule: ScheduleClock | None = None,
        secrets_there: Callable[[Endpoint], Awaitable[bool]] = are_secrets_there,
    ) -> None:
        self.gate = gate
        self.schedule = schedule or ScheduleClock(clock, last_due_at)
        self.started = 0
        self.skipped: Counter[str] = Counter()
        self.dropped_rechecks: Counter[str] = Counter()
        self._clock = clock
        self._probe = probe
        self._on_report = on_report
        self._metrics = metrics
        self._secrets_there = secrets_there
        self._queue = DueQueue()
        self._watched: dict[str, _Watched] = {}
        self._generations = itertools.count()
        self._orders = itertools.count()
        self._armed: list[_Armed] = []
        self._alarm = Alarm(clock, self._ring)
        self._room = WaitingRoom()
        self._behind_recheck: dict[str, Waiter] = {}
        self._flights: dict[str, _Flight] = {}
        self._in_flight_at: Counter[str] = Counter()  # by provider
        self._asking: dict[str, asyncio.Task[None]] = {}  # for a secret, by endpoint
        self._idle = asyncio.Event()
        self._idle.set()
        self._probing = ProbingSettings()
        self._provider_caps: dict[str, int | None] = {}
        self._last_fallen_due = last_due_at if last_due_at is not None else float("-inf")
        self._progress = clock.monotonic()
        self._is_running = False
        self._is_draining = False

    # --- what is watched

    def set_catalog(self, catalog: Catalog, probing: ProbingSettings) -> None:
        """Take over a catalog, at start and at reload. Endpoints whose cadence stays keep their place; removed ones
        are no longer scheduled (in flight, they finish and count); caps hold at once. Before the first `tick` nothing
        is sent."""
        now = self.schedule.utc_now()
        # A slot that fell due a moment ago must not come again because the schedule clock was just set back by 50 ms.
        after = self._not_again(now)
        for gone in self._watched.keys() - catalog.endpoints.keys():
            del self._watched[gone]
            self._queue.remove(gone)
            self._drop_waiters(gone)
            self.gate.forget(gone)
        for endpoint in catalog.endpoints.values():
            self._watch(endpoint, after)
        self._probing = probing
        self._provider_caps = {provider.slug: provider.concurrency for provider in catalog.providers.values()}
        self.gate.budget.usd_per_day = probing.budget_usd_per_day
        unpriced = self.gate.budget.watch(catalog.endpoints.values(), probing.max_tokens)
        if unpriced and probing.budget_usd_per_day is not None:
            logger.warning("budget_unpriced endpoints=%d first=%s counted_as=free", len(unpriced), unpriced[0])
        if self._is_running:
            self.tick()

    def _watch(self, endpoint: Endpoint, after: float) -> None:
        cadence = Cadence.of(endpoint.id, endpoint.interval_seconds)
        watched = self._watched.get(endpoint.id)
        if watched is not None and watched.endpoint != endpoint:
            watched.endpoint = endpoint
            self.gate.forget(endpoint.id)
        if self._queue.cadence(endpoint.id) == cadence and watched is not None:
            return
        self._queue.add(endpoint.id, cadence, after)
        self._drop_waiters(endpoint.id)
        self._watched[endpoint.id] = _Watched(endpoint, next(self._generations))

    def _drop_waiters(self, endpoint: str) -> None:
        waiters = self._room.remove(endpoint)
        behind = self._behind_recheck.pop(endpoint, None)
        for waiter in [*waiters, *([] if behind is None else [behind])]:
            self._skip(waiter.turn, "late")

    def _not_again(self, now: float) -> float:
        return max(now, self._last_fallen_due) if self._last_fallen_due < now + HORIZON_SECONDS else now

    # --- the tick and the alarm

    def tick(self) -> None:
        """Arm everything that falls due within the horizon; call it every second or so."""
        self._is_running = True
        monotonic = self._clock.monotonic()
        now = self.schedule.utc_now()
        due, missed = self._queue.pop_until(now, now + HORIZON_SECONDS)
        for slots in missed:
            self._count("missed", slots.count)
        if missed:
            logger.warning("slots_missed slots=%d endpoints=%d", sum(slots.count for slots in missed), len(missed))
        for slot in due:
            self._arm(self.schedule.monotonic_at(slot.due_at), self._watched[slot.endpoint].generation, slot)
        self._expire(monotonic)
        self._cut_off_overruns(monotonic)
        self._admit()
        self._review_budget(now)
        if not self._armed or self._armed[0].at > monotonic - _STUCK_SECONDS:
            self._progress = monotonic

    def progress(self) -> float:
        """When (monotonic) the schedule last got on: a tick ran, and no armed turn was long overdue."""
        return self._progress

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """Due probes without a place."""
        return len(self._room) + len(self._behind_recheck)

    def interval_seconds(self, endpoint_id: str) -> float:
        """The interval now in force, stretches included. KeyError for an endpoint that is not watched."""
        return self.gate.stretched_seconds(self._watched[endpoint_id].endpoint, self.schedule.utc_now())

    def delay_key(self, endpoint: Endpoint, seconds: float) -> None:
        """A retry hint from elsewhere; those in reports are heeded without this."""
        self.gate.delay_key(endpoint, seconds, self._clock.monotonic())

    def set_unusable(self, endpoint_id: str, unusable: bool) -> None:
        """As Gate.set_unusable; an endpoint that is not watched is left alone."""
        if endpoint_id in self._watched:
            self.gate.set_unusable(endpoint_id, unusable)

    def recheck(self, turn: Turn, delay_seconds: float) -> None:
        """Probe the slot of `turn` once more after a delay, under the next recheck number. Dropped, and counted in
        `dropped_rechecks`, where it may not be sent or could not be over before the next scheduled probe."""
        again = replace(turn, recheck=turn.recheck + 1)
        watched = self._watched.get(turn.endpoint.id)
        if self._is_draining or watched is None or watched.endpoint != turn.endpoint:
            self._skip(again, "shutdown" if self._is_draining else "removed")
            return
        slot = DueSlot(turn.endpoint.id, turn.slot, turn.due_at)
        self._arm(self._clock.monotonic() + max(delay_seconds, 0.0), watched.generation, slot, again)

    def _arm(self, at: float, generation: int, due: DueSlot, turn: Turn | None = None) -> None:
        heapq.heappush(self._armed, _Armed(at, next(self._orders), generation, due, turn))
        self._alarm.set(self._armed[0].at)

    def _ring(self) -> None:
        now = self._clock.monotonic() + _BLUNT_SECONDS
        while self._armed and self._armed[0].at <= now:
            armed = heapq.heappop(self._armed)
            try:
                self._fall_due(armed)
            except Exception:
                logger.exception("dispatch_failed endpoint=%s slot=%d", armed.due.endpoint, armed.due.slot)
                if armed.turn is None:
                    self._count("error")
        if self._armed:
            self._alarm.set(self._armed[0].at)

    # --- one turn

    def _fall_due(self, armed: _Armed) -> None:
        watched = self._watched.get(armed.due.endpoint)
        is_void = watched is None or watched.generation != armed.generation
        if armed.turn is not None:
            if is_void:
                self._skip(armed.turn, "removed")
            else:
                self._recheck_due(armed.turn, armed.at)
            return
        if watched is None or is_void:
            return  # it left before its time came
        self._last_fallen_due = max(self._last_fallen_due, armed.due.due_at)
        turn = Turn(watched.endpoint, armed.due.slot, armed.due.due_at)
        if self._is_draining:
            self._skip(turn, "shutdown")
            return
        flight = self._flights.get(turn.endpoint.id)
        reason = self.gate.may_send(turn, self._clock.monotonic(), self.schedule.utc_now())
        if reason == "secret_missing":
            self._ask_for_secret(turn.endpoint)
        waiter = Waiter(turn, armed.at, armed.at + turn.endpoint.interval_seconds)
        if reason == "overlap" and flight is not None and flight.turn.recheck > 0:
            # Skipping it would thin out the scheduled probes of failing endpoints, and flatter their uptime.
            former = self._behind_recheck.get(turn.endpoint.id)
            if former is not None:
                self._skip(former.turn, "late")
            self._behind_recheck[turn.endpoint.id] = waiter
        elif reason is not None:
            self._skip(turn, reason)
        else:
            self._offer(waiter)

    def _recheck_due(self, turn: Turn, at: float) -> None:
        if self._is_draining:
            self._skip(turn, "shutdown")
            return
        watched = self._watched[turn.endpoint.id]
        cadence = Cadence.of(turn.endpoint.id, turn.endpoint.interval_seconds)
        now = self.schedule.utc_now()
        next_due_at = cadence.due_at(cadence.slot_at(now) + 1)
        if now + watched.last_took_seconds > next_due_at:
            self._skip(turn, "overlap")
            return
        self._offer(Waiter(turn, at, self.schedule.monotonic_at(next_due_at)))

    def _offer(self, waiter: Waiter) -> None:
        provider = waiter.turn.endpoint.provider
        if self._has_place(provider) and not self._room.waits(provider):
            self._start(waiter)
            return
        replaced = self._room.enter(waiter, self._watched[waiter.turn.endpoint.id].last_began_at)
        if replaced is not None:
            self._skip(replaced.turn, "late")

    def _has_place(self, provider: str) -> bool:
        if len(self._flights) >= self._probing.concurrency:
            return False
        cap = self._provider_caps.get(provider)
        return cap is None or self._in_flight_at[provider] < cap

    def _admit(self) -> None:
        """Fill the free places from the waiting room."""
        monotonic = self._clock.monotonic()
        while len(self._room) and (waiter := self._room.take(self._has_place)) is not None:
            if waiter.expires_at <= monotonic:
                self._skip(waiter.turn, "late")
            else:
                self._start(waiter)

    def _start(self, waiter: Waiter) -> None:
        monotonic, utc = self._clock.monotonic(), self.schedule.utc_now()
        watched = self._watched[waiter.turn.endpoint.id]
        turn = replace(waiter.turn, endpoint=watched.endpoint)
        reason = self.gate.may_start(turn, monotonic, utc)
        if reason is not None:
            self._skip(turn, reason)
            return
        self.gate.began(turn, utc)
        watched.last_began_at = monotonic
        flight = _Flight(turn, monotonic)
        self._flights[turn.endpoint.id] = flight
        self._in_flight_at[turn.endpoint.provider] += 1
        self._metrics.probes_in_flight.set(len(self._flights))
        self._idle.clear()
        if turn.recheck == 0:
            self.started += 1
        flight.task = asyncio.create_task(self._fly(flight, waiter.armed_at), name=f"probe {turn.endpoint.id}")

    async def _fly(self, flight: _Flight, armed_at: float) -> None:
        report: ProbeReport | None = None
        try:
            if flight.turn.recheck == 0:
                self._metrics.probe_start_delay.observe(max(self._clock.monotonic() - armed_at, 0.0))
            report = await self._probe(flight.turn)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling() == 0:  # nobody asked for it
                self._broke(flight.turn, "it cancelled itself")
                return
            raise
        except Exception:
            self._broke(flight.turn, "it raised", exc_info=True)
        finally:
            self._land(flight, report)

    def _broke(self, turn: Turn, why: str, exc_info: bool = False) -> None:
        """A probe that our own code broke: logged, and its slot counted as one that got no probe."""
        logger.error("probe_broke endpoint=%s slot=%d: %s", turn.endpoint.id, turn.slot, why, exc_info=exc_info)
        if turn.recheck == 0:
            self.started -= 1
        self._skip(turn, "error")

    def _land(self, flight: _Flight, report: ProbeReport | None) -> None:
        endpoint = flight.turn.endpoint
        monotonic, utc = self._clock.monotonic(), self.schedule.utc_now()
        del self._flights[endpoint.id]
        self._in_flight_at[endpoint.provider] -= 1
        self._metrics.probes_in_flight.set(len(self._flights))
        if not self._flights:
            self._idle.set()
        self.gate.ended(flight.turn, report, monotonic, utc)
        watched = self._watched.get(endpoint.id)
        if watched is None:
            self.gate.forget(endpoint.id)
        else:
            watched.last_took_seconds = monotonic - flight.began_at
        if report is not None:
            try:
                self._on_report(report)
            except Exception:
                logger.exception("report_failed endpoint=%s slot=%d", endpoint.id, flight.turn.slot)
        behind = self._behind_recheck.pop(endpoint.id, None)
        if behind is not None:
            self._offer(behind)
        self._admit()
