"""Which lanes are watched, and when their turns fall due; what then becomes of a turn is for `departures`.

What is scheduled is a lane: one kind of probe of one endpoint. The kinds of an endpoint do not wait for one another.

Every slot that falls due, and is ours and no other monitor's (`claims`), ends in exactly one of reported, or skipped
with a reason (monitor.self_metrics.SKIP_REASONS).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import msgspec

from monitor.catalog.model import Catalog, Endpoint
from monitor.clock import Clock
from monitor.health.state import is_about_our_key
from monitor.observation import Observation
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.agenda import Agenda, Armed
from monitor.scheduling.claims import EVERYTHING, Claims
from monitor.scheduling.departures import Departures
from monitor.scheduling.due import LONGEST_ABSENCE_SECONDS, DueQueue, DueSlot
from monitor.scheduling.flights import DrainReport
from monitor.scheduling.gate import Gate
from monitor.scheduling.lanes import Lane, Watched, WatchedLane, lanes_of
from monitor.scheduling.schedule_clock import ScheduleClock
from monitor.scheduling.secret_watch import secret_asker
from monitor.scheduling.shards import shard_of
from monitor.scheduling.tally import Tally
from monitor.scheduling.waiting import Waiter
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings
from monitor.slot import Cadence

logger = logging.getLogger(__name__)

HORIZON_SECONDS = 5.0  # turns are armed that far ahead: a tick may be late by as much and no probe is
_STUCK_SECONDS = 5.0  # armed turns overdue by this much are not being dealt with


class Dispatcher:
    """Sends probes when they are due.

    `probe` yields a report and raises nothing but CancelledError; `on_report` gets every report at once, in the loop,
    and must not block. `last_due_at`: when the last slot already used fell due, as for ScheduleClock; `probed_before`:
    the lanes that were probed then, whose slots since count as missed. `cut_off(turn, started_at, cost_usd)` makes
    the report of a scheduled probe that a drain cancels. `reported` and `skipped` (by reason) count scheduled slots,
    `dropped_rechecks` (by reason) rechecks without a result. Use from one loop.
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
        secrets_there: Callable[[Endpoint], Awaitable[bool]] | None = None,
        probed_before: Iterable[str] = (),
        cut_off: Callable[[Turn, float, float | None], ProbeReport] | None = None,
        claims: Claims = EVERYTHING,
    ) -> None:
        self.gate = gate
        self._claims = claims
        self.schedule = ScheduleClock(clock, last_due_at) if schedule is None else schedule
        self._tally = Tally(metrics)
        self.skipped, self.dropped_rechecks = self._tally.skipped, self._tally.dropped_rechecks
        self._clock = clock
        self._metrics = metrics
        self._queue = DueQueue()
        self._watched: dict[str, Watched] = {}
        self._generations = itertools.count()
        self._agenda = Agenda(clock, self._fall_due)
        self._departures = Departures(
            clock, self.schedule, self._watched, gate, claims, self._tally, metrics, probe, on_report, cut_off,
            secrets_there or secret_asker(),
        )  # fmt: skip
        self._probed_before = frozenset(probed_before)
        self._last_fallen_due = float("-inf") if last_due_at is None else last_due_at
        self._told_unpriced: set[str] = set()
        self._progress = clock.monotonic()
        self._is_running = False

    # --- what is watched

    def set_catalog(self, catalog: Catalog, probing: ProbingSettings) -> None:
        """Take over a catalog, at start and at reload. Endpoints whose cadence stays keep their place; removed ones are
        no longer scheduled (what is in flight finishes and counts); caps and budget hold at once. Nothing is sent
        before the first `tick`."""
        self._agenda.catch_up()  # what fell due before is the old catalog's
        now = self.schedule.utc_now()
        lanes = {lane.id: lane for endpoint in catalog.endpoints.values() for lane in lanes_of(endpoint)}
        for gone in self._watched.keys() - lanes.keys():
            del self._watched[gone]
            self._queue.remove(gone)
            self._departures.turn_away_lane(gone, "reload")
            self.gate.forget(gone)
        # A slot that fell due just now must not come again because the schedule clock was then set back by 50 ms.
        after = max(now, self._last_fallen_due) if self._last_fallen_due < now + HORIZON_SECONDS else now
        for lane in lanes.values():
            self._watch(lane, after)
        if self._probed_before and self._claims.is_sole:
            self._count_absence(now)
        self._departures.flights.configure(
            probing, {provider.slug: provider.concurrency for provider in catalog.providers.values()}
        )
        self.gate.budget.usd_per_day = probing.budget_usd_per_day
        unpriced = self.gate.budget.watch(catalog.endpoints.values(), probing.max_tokens)
        if probing.budget_usd_per_day is not None:
            self._tell_unpriced(unpriced)
        if self._is_running:
            self.tick()

    def _tell_unpriced(self, endpoints: Sequence[str]) -> None:
        """Once per endpoint."""
        new = [endpoint for endpoint in endpoints if endpoint not in self._told_unpriced]
        if new:
            self._told_unpriced.update(new)
            logger.warning("budget_unpriced endpoints=%d first=%s counted_as=free", len(new), new[0])

    def _watch(self, lane: Lane, after: float) -> None:
        cadence = Cadence.of(lane.id, lane.interval_seconds)
        watched = self._watched.get(lane.id)
        if watched is None:
            generation, shard = next(self._generations), shard_of(lane.id)
            self._watched[lane.id] = Watched(lane.endpoint, lane.kind, cadence, generation, shard)
            self._queue.add(lane.id, cadence, after)
            return
        if watched.endpoint != lane.endpoint:
            watched.endpoint = lane.endpoint
            self.gate.forget(lane.id)
        if (watched.cadence, watched.kind) != (cadence, lane.kind):
            watched.cadence, watched.kind, watched.generation = cadence, lane.kind, next(self._generations)
            self._queue.add(lane.id, cadence, after)
            self._departures.turn_away_lane(lane.id, "reload")

    def _count_absence(self, now: float) -> None:
        """What fell due between the last recorded slot and this process's start."""
        since = max(self._last_fallen_due, now - LONGEST_ABSENCE_SECONDS)
        before = [self._watched[lane] for lane in self._probed_before if lane in self._watched]
        passed = [(one.endpoint.id, one.cadence.slot_at(now) - one.cadence.slot_at(since)) for one in before]
        self._tally.miss([each for each in passed if each[1] > 0])
        self._probed_before = frozenset()

    def interval_seconds(self, endpoint_id: str) -> float:
        """The interval now in force of the kind that decides, stretches included. KeyError for an endpoint that is not
        watched."""
        # Asked for with every report, and the schedule's clock at every tick.
        return self.gate.stretched_seconds(self._watched[endpoint_id].endpoint, self.schedule.latest)

    def share_limits(self, rank: int, monitors: int) -> None:
        """Providers' caps and the budget are for so many monitors together; `rank` as for Flights.share_caps."""
        self._departures.flights.share_caps(rank, monitors)
        self.gate.budget.shared_by(monitors)

    def set_unusable(self, endpoint_id: str, unusable: bool, seen: Endpoint | None = None) -> None:
        """As Gate.set_unusable; an endpoint that is not watched, or configured otherwise than `seen`, is left alone."""
        watched = self._watched.get(endpoint_id)
        if watched is not None and (seen is None or watched.is_as(seen)):
            self.gate.set_unusable(endpoint_id, unusable)

    @property
    def reported(self) -> int:
        return self._tally.reported

    @property
    def longest_flight_seconds(self) -> float:
        """How long a probe may take until it is cut off."""
        return self._departures.flights.longest_seconds

    @property
    def in_flight(self) -> int:
        return len(self._departures.flights)

    @property
    def waiting(self) -> int:
        """Due probes that have no place yet."""
        return self._departures.waiting

    # --- time

    def tick(self) -> None:
        """Arm everything that falls due within the horizon; call it every second or so."""
        if self._departures.is_drained:
            return
        self._is_running = True
        monotonic, now = self._clock.monotonic(), self.schedule.utc_now()
        due, missed = self._queue.pop_until(now, now + HORIZON_SECONDS)
        if self._claims.is_sole:  # else it is found that nobody has sent them
            self._tally.miss((self._watched[each.lane].endpoint.id, each.slots) for each in missed)
        for slot in due:
            self._agenda.arm(self.schedule.monotonic_at(slot.due_at), self._watched[slot.lane].generation, slot)
        self._departures.flights.cut_off_overruns()
        self._departures.expire(monotonic)
        self._departures.admit()
        self._metrics.budget_used_ratio.set(self.gate.budget.used_ratio(now))
        if (line := self.gate.budget.review(now)) is not None:
            logger.warning(line)
        if not self._agenda.is_overdue(monotonic - _STUCK_SECONDS):
            self._progress = monotonic

    def progress(self) -> float:
        """When (monotonic) the schedule last got on: a tick ran, and no armed turn was long overdue."""
        return self._progress

    def recheck(self, turn: Turn, delay_seconds: float) -> None:
        """Probe the slot of `turn` once more after a delay, under the next recheck number. It is dropped, and counted,
        where it may not be sent, or would not be over before the next scheduled probe if it took as long as the last.
        """
        again = msgspec.structs.replace(turn, recheck=turn.recheck + 1)
        watched = self._watched.get(turn.lane)
        if self._departures.is_draining:
            self._tally.skip(again, "shutdown")
        elif watched is None or not watched.is_as(turn.endpoint):
            self._tally.skip(again, "reload")
        else:
            slot = DueSlot(turn.lane, turn.slot, turn.due_at)
            self._agenda.arm(self._clock.monotonic() + max(delay_seconds, 0.0), watched.generation, slot, again)

    # --- one turn

    def _fall_due(self, armed: Armed) -> None:
        try:
            self._deal_with(armed)
        except Exception:  # one turn's trouble must not stop the schedule
            logger.exception("dispatch_failed endpoint=%s slot=%d", armed.due.lane, armed.due.slot)
            if armed.recheck is None:
                self._tally.count("error")

    def _deal_with(self, armed: Armed) -> None:
        watched = self._watched.get(armed.due.lane)
        if watched is None or watched.generation != armed.generation:
            if armed.recheck is not None:
                self._tally.skip(armed.recheck, "reload")
            return  # a scheduled slot of a cadence that ended before it fell due
        if armed.recheck is not None:
            if armed.recheck.is_recovered:
                self._departures.recover_next(armed.due.lane)
            elif self._claims.is_ours(armed.recheck, watched.shard):
                self._recheck_due(armed.recheck, armed.at, watched)
            return
        due = armed.due
        if due.due_at > self._last_fallen_due:
            self._last_fallen_due = due.due_at
        turn = Turn(watched.endpoint, due.slot, due.due_at, 0, watched.kind, lane=due.lane)
        if not self._claims.is_ours(turn, watched.shard):
            return
        waiter = Waiter(turn, armed.at, armed.at + watched.cadence.interval_seconds)
        if self._departures.is_draining:
            self._tally.skip(turn, "shutdown")
        elif not self._departures.joins_recovery(turn):
            self._departures.send(waiter)

    def recover(self, slots: Iterable[DueSlot], spread_seconds: float) -> int:
        """Send slots that fell due before and that nobody has sent, beginning within `spread_seconds`: those of a lane
        one after the other, oldest first, and what falls due meanwhile behind them. How many they are: what is in our
        hands anyway is passed over."""
        in_hand = set(self.in_hand())
        lanes: dict[str, list[Turn]] = {}
        for each in slots:
            watched = self._watched.get(each.lane)
            if watched is not None and (each.lane, each.slot) not in in_hand and not self._departures.is_draining:
                turn = Turn(watched.endpoint, each.slot, each.due_at, 0, watched.kind, is_recovered=True)
                lanes.setdefault(each.lane, []).append(turn)
        now = self._clock.monotonic()
        for number, (lane, turns) in enumerate(sorted(lanes.items(), key=lambda item: item[1][0].due_at)):
            self._departures.take_over(lane, turns)
            first = turns[0]
            slot = DueSlot(lane, first.slot, first.due_at)
            at = now + spread_seconds * number / len(lanes)
            self._agenda.arm(at, self._watched[lane].generation, slot, first)
        return sum(map(len, lanes.values()))

    def in_hand(self) -> Iterator[tuple[str, int]]:
        """(lane, slot) of every turn that is due, is ours or was when it was sent, and is not reported yet."""
        now = self.schedule.utc_now()
        yield from ((turn.lane, turn.slot) for turn in self._departures.in_hand())
        for armed in self._agenda:
            watched = self._watched.get(armed.due.lane)
            if armed.due.due_at <= now and watched is not None and watched.generation == armed.generation:
                turn = armed.recheck or Turn(watched.endpoint, armed.due.slot, armed.due.due_at, 0, watched.kind)
                if self._claims.is_ours(turn, watched.shard):
                    yield armed.due.lane, armed.due.slot

    def sent_elsewhere(self, observation: Observation, lane: str) -> None:
        """Another monitor of this location has probed a lane: what it cost, and how the endpoint stands."""
        utc = self.schedule.utc_now()
        self.gate.budget.spent_elsewhere(observation.cost_usd or 0.0, observation.started_at, utc)
        watched = self._watched.get(lane)
        if watched is None:
            return
        if observation.recheck == 0:
            self.gate.sent_elsewhere(lane, observation.slot)
        if lane == watched.endpoint.id:
            if is_about_our_key(observation.outcome):
                self.gate.set_unusable(lane, True)
            elif observation.is_ok:
                self.gate.set_unusable(lane, False)

    def lanes(self) -> Iterator[WatchedLane]:
        """Every lane that is scheduled."""
        for lane, watched in self._watched.items():
            yield WatchedLane(lane, watched.endpoint.id, watched.kind, watched.cadence, watched.shard)

    def _recheck_due(self, turn: Turn, at: float, watched: Watched) -> None:
        now = self.schedule.utc_now()
        next_due_at = watched.cadence.due_at(watched.cadence.slot_at(now) + 1)
        if self._departures.is_draining:
            self._tally.skip(turn, "shutdown")
        elif now + watched.last_took_seconds > next_due_at:
            self._tally.skip(turn, "overlap")
        else:
            self._departures.send_recheck(Waiter(turn, at, self.schedule.monotonic_at(next_due_at)))

    # --- the end

    async def drain(self, deadline_seconds: float) -> DrainReport:
        """Send nothing more, wait for the probes in flight until the deadline, then cancel them: of those that were
        scheduled `cut_off` tells. Slots that fall due meanwhile are counted under `shutdown`."""
        self._agenda.catch_up()  # what fell due before is sent yet: of several monitors no other deals with it
        try:
            return await self._departures.drain(deadline_seconds)
        finally:
            self._agenda.catch_up()
            self._agenda.cancel()
