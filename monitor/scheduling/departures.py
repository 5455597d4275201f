"""What becomes of a turn that is due and ours: refused with a reason, waiting for a place, or sent and reported.

And what goes on when a probe has landed: who waits for its place, the scheduled turn behind a recheck, what its lane
has still to recover.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import msgspec

from monitor.catalog.model import Endpoint
from monitor.clock import Clock
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.claims import Claims
from monitor.scheduling.flights import ELSEWHERE, DrainReport, Flight, Flights
from monitor.scheduling.gate import Gate
from monitor.scheduling.lanes import Watched
from monitor.scheduling.recovery import Recovery
from monitor.scheduling.schedule_clock import ScheduleClock
from monitor.scheduling.secret_watch import SecretWatch
from monitor.scheduling.tally import Tally
from monitor.scheduling.waiting import Waiter, WaitingRoom
from monitor.self_metrics import SelfMetrics

logger = logging.getLogger(__name__)


class Departures:
    """`watched` is the dispatcher's own, by lane; the rest is as there. Nothing is sent any more once a drain began.
    Use from one loop."""

    def __init__(
        self,
        clock: Clock,
        schedule: ScheduleClock,
        watched: Mapping[str, Watched],
        gate: Gate,
        claims: Claims,
        tally: Tally,
        metrics: SelfMetrics,
        probe: Callable[[Turn], Awaitable[ProbeReport]],
        on_report: Callable[[ProbeReport], None],
        cut_off: Callable[[Turn, float, float | None], ProbeReport] | None,
        secrets_there: Callable[[Endpoint], Awaitable[bool]],
    ) -> None:
        self.flights = Flights(clock, probe, self._landed, metrics, claims)
        self.is_draining = self.is_drained = False
        self._clock = clock
        self._schedule = schedule
        self._watched = watched
        self._gate = gate
        self._claims = claims
        self._tally = tally
        self._on_report = on_report
        self._cut_off = cut_off
        self._recovery = Recovery()
        self._room = WaitingRoom()
        self._behind_recheck: dict[str, Waiter] = {}
        self._secrets = SecretWatch(self._secret_is_back, secrets_there)
        self._drains = 0

    @property
    def waiting(self) -> int:
        """Due probes that have no place yet."""
        return len(self._room) + len(self._behind_recheck)

    def in_hand(self) -> Iterator[Turn]:
        """Every turn that is ours, or was when it was sent, and is not reported yet."""
        yield from (flight.turn for flight in self.flights)
        waiters = itertools.chain(self._room, self._behind_recheck.values())
        for turn in itertools.chain((waiter.turn for waiter in waiters), self._recovery):
            watched = self._watched.get(turn.lane)
            if watched is not None and self._claims.is_ours(turn, watched.shard):
                yield turn

    # --- one turn

    def send(self, waiter: Waiter) -> None:
        """A scheduled turn: begin it at once if it may be sent and has a place."""
        monotonic, utc = self._clock.monotonic(), self._schedule.utc_now()
        reason = self._gate.may_send(waiter.turn, monotonic, utc)
        if reason is not None:
            self._refuse(waiter, reason)
        elif self._finds_place(waiter):
            self._start(waiter, monotonic, utc, is_checked=True)

    def send_recheck(self, waiter: Waiter) -> None:
        if self._finds_place(waiter):
            self._start(waiter, self._clock.monotonic(), self._schedule.utc_now())

    def take_over(self, lane: str, turns: Sequence[Turn]) -> None:
        """Turns that nobody has sent: `recover_next` sends them, and behind them what falls due meanwhile."""
        # What waits for a place is of the same lane, and must not be replaced there.
        waiting = [waiter.turn for waiter in self._room.remove(lane) if waiter.turn.recheck == 0]
        self._recovery.begin(lane, [*turns, *waiting])

    def joins_recovery(self, turn: Turn) -> bool:
        """Whether the lane of a turn that falls due now recovers, so that the turn waits there."""
        return self._recovery.is_joined_by(turn)

    def recover_next(self, lane: str) -> None:
        """Send what waits there in turn, unless a probe of the lane is under way, at whose end it goes on."""
        watched = self._watched[lane]
        while self.flights.get(lane) is None and (turn := self._recovery.next_of(lane)) is not None:
            monotonic, utc = self._clock.monotonic(), self._schedule.utc_now()
            if self.is_draining:
                self._tally.skip(turn, "shutdown")
            elif self._claims.is_ours(turn, watched.shard):
                waiter = Waiter(
                    turn, self._schedule.monotonic_at(turn.due_at), monotonic + watched.cadence.interval_seconds
                )
                ask = self._gate.may_recover if turn.is_recovered else self._gate.may_send
                if (reason := ask(turn, monotonic, utc)) is not None:
                    self._tally.skip(turn, reason)
                elif self._finds_place(waiter):
                    self._start(waiter, monotonic, utc, is_checked=True)
                else:
                    return

    def _refuse(self, waiter: Waiter, reason: str) -> None:
        turn = waiter.turn
        flight = self.flights.get(turn.lane)
        if reason == "overlap" and turn.recheck == 0 and flight is not None and flight.turn.recheck > 0:
            # Skipped, it would thin out the scheduled probes of failing endpoints alone, and flatter their uptime.
            former = self._behind_recheck.pop(turn.lane, None)
            self._turn_away([] if former is None else [former], "late")
            self._behind_recheck[turn.lane] = waiter
            return
        if reason == "overlap" and turn.recheck == 0 and not self._claims.is_sole and flight and flight.is_late:
            # We were frozen, and are not dead: nobody else sends what we skip.
            self._recovery.begin(turn.lane, [turn])
            return
        if reason == "secret_missing":
            self._secrets.look(turn.endpoint)
        self._tally.skip(turn, reason)

    def _finds_place(self, waiter: Waiter) -> bool:
        """Whether it may begin at once; else it waits."""
        provider = waiter.turn.endpoint.provider
        if self.flights.has_place(provider) and not self._room.waits(provider):
            return True
        replaced = self._room.enter(waiter, self._watched[waiter.turn.lane].last_began_at)
        self._turn_away([] if replaced is None else [replaced], "late")
        return False

    def admit(self) -> None:
        """Fill the free places from the waiting room."""
        while len(self._room) and (waiter := self._room.take(self.flights.has_place)) is not None:
            monotonic = self._clock.monotonic()
            if waiter.expires_at <= monotonic:
                self._tally.skip(waiter.turn, "late")
            else:
                self._start(waiter, monotonic, self._schedule.utc_now())

    def _start(self, waiter: Waiter, monotonic: float, utc: float, *, is_checked: bool = False) -> None:
        """`is_checked`: the gate was asked just now."""
        turn = waiter.turn
        watched = self._watched[turn.lane]
        if not self._claims.is_ours(turn, watched.shard):
            self._recover_next_of(turn.lane)
            return
        if not watched.is_as(turn.endpoint):
            if turn.recheck:
                self._tally.skip(turn, "reload")  # it was to confirm what was seen of another configuration
                return
            turn, is_checked = msgspec.structs.replace(turn, endpoint=watched.endpoint), False
        if not is_checked and (reason := self._gate.may_start(turn, monotonic, utc)) is not None:
            self._refuse(waiter, reason)
            self._recover_next_of(turn.lane)
            return
        self._gate.began(turn, utc)
        watched.last_began_at = monotonic
        self.flights.start(turn, waiter.armed_at, watched.shard)

    def _landed(self, flight: Flight, report: ProbeReport | None, reason: str) -> None:
        turn = flight.turn
        lane = turn.lane
        monotonic = self._clock.monotonic()
        watched = self._watched.get(lane)
        is_current = watched is not None and watched.is_as(turn.endpoint)
        if reason == ELSEWHERE and report is None:
            self._gate.withdrawn(turn, self._schedule.utc_now())
            self.admit()
            self._recover_next_of(lane)
            return
        self._gate.ended(turn, report, monotonic, self._schedule.utc_now(), is_current)
        if watched is None:
            self._gate.forget(lane)
        else:
            watched.last_took_seconds = monotonic - flight.began_at
        if report is None and reason == "shutdown":
            if turn.recheck == 0 and self._cut_off is not None and not self.is_drained:
                began_at = self._clock.now() - (monotonic - flight.began_at)
                self._hand_on(self._cut_off(turn, began_at, self._gate.budget.most_usd(lane)))
            else:
                self._tally.skip(turn, reason)
            return  # somebody is ending the loop: nothing more is started in it
        if report is None:
            self._tally.skip(turn, reason)
        else:
            self._hand_on(report)
        self.admit()
        behind = self._behind_recheck.pop(lane, None)
        if behind is not None:
            if behind.expires_at <= monotonic:
                self._tally.skip(behind.turn, "late")
            else:
                self.send(behind)
        self._recover_next_of(lane)

    def _recover_next_of(self, lane: str) -> None:
        if lane in self._recovery and lane in self._watched:
            self.recover_next(lane)

    def _hand_on(self, report: ProbeReport) -> None:
        turn = report.turn
        try:
            self._on_report(report)
        except Exception:
            logger.exception("report_failed endpoint=%s slot=%d", turn.endpoint.id, turn.slot)
            self._tally.skip(turn, "error")
        else:
            self._tally.report(turn)

    # --- what is not sent

    def expire(self, monotonic: float) -> None:
        expired = self._room.expire(monotonic)
        self._turn_away(expired, "late")
        for waiter in expired:
            self._recover_next_of(waiter.turn.lane)
        over = [lane for lane, waiter in self._behind_recheck.items() if waiter.expires_at <= monotonic]
        self._turn_away([self._behind_recheck.pop(lane) for lane in over], "late")

    def _turn_away(self, waiters: list[Waiter], reason: str) -> None:
        for waiter in waiters:
            self._tally.skip(waiter.turn, reason)

    def turn_away_lane(self, lane: str, reason: str) -> None:
        """Nobody waits there any more."""
        behind = self._behind_recheck.pop(lane, None)
        self._recovery.forget(lane)
        self._turn_away([*self._room.remove(lane), *([] if behind is None else [behind])], reason)

    def _secret_is_back(self, endpoint: Endpoint) -> None:
        watched = self._watched.get(endpoint.id)
        if watched is not None and watched.is_as(endpoint):
            self._gate.set_secret_missing(endpoint.id, False)
            logger.info("secret_restored endpoint=%s", endpoint.id)

    # --- the end

    async def drain(self, deadline_seconds: float) -> DrainReport:
        """Send nothing more, wait for the probes in flight until the deadline, then cancel them: of those that were
        scheduled `cut_off` tells."""
        self.is_draining = True
        self._drains = drain = self._drains + 1
        waiters = [*self._room.clear(), *self._behind_recheck.values()]
        self._behind_recheck.clear()
        self._turn_away(waiters, "shutdown")
        for turn in self._recovery.clear():
            self._tally.skip(turn, "shutdown")
        try:
            report = await self.flights.drain(deadline_seconds)
        finally:
            self.is_drained = True
            self._secrets.cancel()
        if drain == self._drains:  # a later call cuts this one short, and it knows what was cancelled
            logger.info(
                "drained finished=%d cancelled=%d stuck=%d turned_away=%d",
                report.finished, report.cancelled, report.stuck, len(waiters),
            )  # fmt: skip
        return report
