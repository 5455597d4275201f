"""The probes under way: places under the caps, one task each, cut off when they overrun, drained at the end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from monitor.clock import Clock
from monitor.probing.kinds import CACHE
from monitor.probing.report import ProbeReport, Turn
from monitor.scheduling.claims import EVERYTHING, Claims
from monitor.scheduling.shards import cap_share
from monitor.self_metrics import SelfMetrics
from monitor.settings import ProbingSettings

logger = logging.getLogger(__name__)

OVERRUN_SECONDS = 15.0  # past all its own deadlines a probe is cut off: one that hangs must not keep its place for ever
ELSEWHERE = "elsewhere"
_LATE_SECONDS = 0.5
_CANCEL_SECONDS = 2.0  # a cancelled probe closes its socket in milliseconds


@dataclass(frozen=True, slots=True)
class DrainReport:
    """How a drain ended: probes that finished, that were cut off, and that did not even heed that."""

    finished: int
    cancelled: int
    stuck: int


class Flight(msgspec.Struct, eq=False):
    turn: Turn
    began_at: float  # monotonic
    armed_at: float = 0.0  # monotonic: when it should have begun
    shard: int = 0
    task: asyncio.Task[None] | None = None
    is_overrun: bool = False
    is_cut_off: bool = False  # what it still says, it says of its own end

    @property
    def is_late(self) -> bool:
        return self.began_at - self.armed_at > _LATE_SECONDS

    def cut_off(self, why: str) -> None:
        if self.task is not None:
            self.is_cut_off = self.task.cancel(why) or self.is_cut_off


class Flights:
    """At most one probe per lane is under way. `on_landed(flight, report, reason)` is called once per probe, after
    its place is free: with a report, or None and the reason why there is none (error, shutdown; ELSEWHERE where the
    turn turned out to be another monitor's before anything was sent). Use from one loop."""

    def __init__(
        self,
        clock: Clock,
        probe: Callable[[Turn], Awaitable[ProbeReport]],
        on_landed: Callable[[Flight, ProbeReport | None, str], None],
        metrics: SelfMetrics,
        claims: Claims = EVERYTHING,
    ) -> None:
        self._clock = clock
        self._probe = probe
        self._on_landed = on_landed
        self._claims = claims
        self._metrics = metrics
        self._flights: dict[str, Flight] = {}  # by lane, oldest first
        self._by_provider: Counter[str] = Counter()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        metrics.probes_in_flight.set_function(lambda: len(self._flights))
        self._rank, self._monitors = 0, 1
        self.configure(ProbingSettings(), {})

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    def get(self, lane: str) -> Flight | None:
        return self._flights.get(lane)

    def configure(self, probing: ProbingSettings, provider_caps: Mapping[str, int | None]) -> None:
        """New caps and deadlines hold at once; what is in flight above a lower cap finishes."""
        self._concurrency = probing.concurrency
        self._whole_caps = dict(provider_caps)
        self.share_caps(self._rank, self._monitors)
        self.longest_seconds = probing.connect_timeout_seconds + probing.timeout_seconds + OVERRUN_SECONDS

    def share_caps(self, rank: int, monitors: int) -> None:
        """Providers' caps are for so many monitors together, of which this is the one with that rank, from 0."""
        self._rank, self._monitors = rank, monitors
        self._provider_caps = {
            provider: None if cap is None else cap_share(cap, rank, monitors)
            for provider, cap in self._whole_caps.items()
        }

    def has_place(self, provider: str) -> bool:
        if len(self._flights) >= self._concurrency:
            return False
        cap = self._provider_caps.get(provider)
        return cap is None or self._by_provider[provider] < cap

    def start(self, turn: Turn, armed_at: float, shard: int = 0) -> None:
        """Send a probe that should have begun at `armed_at` (monotonic)."""
        flight = Flight(turn, self._clock.monotonic(), armed_at, shard)
        self._flights[turn.lane] = flight
        self._by_provider[turn.endpoint.provider] += 1
        self._is_empty.clear()

        def cancelled(_task: asyncio.Task[None]) -> None:
            self._land(flight, None, was_cancelled=True)

        flying = self._fly(flight, armed_at, cancelled)
        flight.task = asyncio.get_running_loop().create_task(flying, name=f"probe {turn.lane}")
        # For a task that is cancelled, maybe before its first step; one that ends lands by itself, a turn sooner.
        flight.task.add_done_callback(cancelled)

    def cut_off_overruns(self) -> None:
        """Cancel probes that outlived every deadline of their own; call it now and then."""
        now = self._clock.monotonic()
        for flight in list(self._flights.values()):
            flown = now - flight.began_at
            if flown <= self.longest_seconds:
                return
            # A cache probe asks twice.
            if flight.turn.kind == CACHE and flown <= 2 * self.longest_seconds:
                continue
            if not flight.is_overrun:
                logger.error(
                    "probe_overrun endpoint=%s slot=%d seconds=%.0f: cut off",
                    flight.turn.endpoint.id, flight.turn.slot, now - flight.began_at,
                )  # fmt: skip
            flight.is_overrun = True
            flight.cut_off("overrun")

    async def drain(self, deadline_seconds: float) -> DrainReport:
        """Wait for the probes in flight, then cancel what is left: whatever those say, they yield no report."""
        before = len(self._flights)
        try:
            await self._wait_until_empty(deadline_seconds)
        finally:
            left = list(self._flights.values())
            for flight in left:
                flight.cut_off("drain")
        if left:
            await self._wait_until_empty(_CANCEL_SECONDS)
        stuck = len(self._flights)
        return DrainReport(finished=before - len(left), cancelled=len(left) - stuck, stuck=stuck)

    async def _wait_until_empty(self, seconds: float) -> None:
        empty = asyncio.create_task(self._is_empty.wait())
        over = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((empty, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            empty.cancel()
            over.cancel()

    async def _fly(self, flight: Flight, armed_at: float, cancelled: Callable[[asyncio.Task[None]], None]) -> None:
        turn = flight.turn
        # As late as can be: a process that was frozen until now may have lost its turns to another meanwhile.
        if not self._claims.is_certain:
            await self._claims.settled()
        if not self._claims.is_ours(turn, flight.shard):
            assert flight.task is not None
            flight.task.remove_done_callback(cancelled)
            self._land(flight, None, reason=ELSEWHERE)
            return
        if turn.recheck == 0:
            self._metrics.probe_start_delay.observe(max(self._clock.monotonic() - armed_at, 0.0))
        report: ProbeReport | None = None
        try:
            report = await self._probe(turn)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() > 0:
                raise
            logger.error("probe_broke endpoint=%s slot=%d: it cancelled itself", turn.endpoint.id, turn.slot)
        except Exception:
            logger.exception("probe_broke endpoint=%s slot=%d", turn.endpoint.id, turn.slot)
        assert flight.task is not None
        flight.task.remove_done_callback(cancelled)
        self._land(flight, report)

    def _land(
        self, flight: Flight, report: ProbeReport | None, *, was_cancelled: bool = False, reason: str = "error"
    ) -> None:
        turn = flight.turn
        del self._flights[turn.lane]
        self._by_provider[turn.endpoint.provider] -= 1
        if not self._flights:
            self._is_empty.set()
        was_cut_off = flight.is_cut_off or was_cancelled
        if was_cut_off and not flight.is_overrun:
            reason = "shutdown"
        self._on_landed(flight, None if was_cut_off else report, reason)
