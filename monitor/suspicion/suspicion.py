"""Self-suspicion around the prober: a failure that may be our own network's is held back until it is judged, once.

probe -> report -> sign of life
                -> failure -> a known outage? -> passive signs -> asking around -> the provider's, or ours
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from monitor.catalog.model import Endpoint
from monitor.clock import Clock
from monitor.lookout import Lookout
from monitor.outcome import Outcome
from monitor.probing.probe import host_and_port
from monitor.probing.report import Journey, ProbeReport, Turn, Watch
from monitor.probing.resolver import CACHE_SECONDS, Resolver
from monitor.self_metrics import SelfMetrics
from monitor.suspicion.asking import SHARED_SECONDS, AskPlaces, AskResolver, addresses_of, reaches
from monitor.suspicion.evidence import has_any_route
from monitor.suspicion.judge import (
    SETTLE_SECONDS,
    Cause,
    Evidence,
    Failure,
    Outage,
    Place,
    Reach,
    failure_of,
    is_address,
    judge,
)
from monitor.suspicion.outages import Outages, OwnOutage
from monitor.suspicion.places import Known, Places
from monitor.suspicion.watch import ProbeWatch

HOLD_SECONDS = 5.0
# Where signs of life are frequent, the next one is waited for before anybody is bothered.
_PATIENCE_SECONDS = 0.5
_MOST_LOOKED_AT = 8
_RECHECK_SECONDS = 2.0
_CANARY_SECONDS = 60.0
_CANARY_TIMEOUT_SECONDS = 5.0
_MOST_DETAIL = 500

log = logging.getLogger(__name__)


class Probe(Protocol):
    def __call__(self, turn: Turn, watch: Watch | None = None, /) -> Awaitable[ProbeReport]: ...


class Suspicion:
    """`probe` stands in for the prober's. `on_change` is told when an outage of ours begins and when it ends. Use from
    one event loop."""

    def __init__(
        self,
        probe: Probe,
        resolver: Resolver,
        clock: Clock,
        metrics: SelfMetrics,
        on_change: Callable[[OwnOutage], None],
        *,
        etc: Path = Path("/etc"),
        dns_port: int = 53,
    ) -> None:
        self._probe = probe
        self._resolver = resolver
        self.clock = clock
        self._metrics = metrics
        self._on_change = on_change
        self._places = Places()
        self._outages = Outages(self._changed)
        self._found: dict[str, tuple[frozenset[str], float]] = {}  # host -> its addresses, when DNS last told them
        self._ask_places = AskPlaces(self._places, resolver, self._answered, clock, self._news)
        self._ask_resolver = AskResolver(resolver, self._names, clock, self._news, etc, dns_port)
        self._lookout = Lookout(clock)
        self._waiting: asyncio.Event | None = None  # made by who waits for news
        self._tasks: set[asyncio.Task[None]] = set()
        self._rechecking: asyncio.Task[None] | None = None
        self._had_far_route = False
        self._began_at = clock.monotonic()
        resolver.on_found = self._on_found

    # --- life

    def start(self) -> None:
        """Look around once, and after the canaries from time to time."""
        self._has_far_route()
        self._task(self._mind_canaries(), "suspicion canaries")

    async def close(self) -> None:
        """An outage that lasts ends here, as far as anybody will know."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lookout.close()
        await self._ask_places.asking.cancel()
        await self._ask_resolver.asking.cancel()
        self._outages.end_all(self.clock.monotonic())

    def configure(self, canaries: tuple[tuple[str, int], ...]) -> None:
        self._places.set_canaries(canaries)

    def remember(self, endpoint: Endpoint, seconds_ago: float) -> None:
        """An endpoint that was well when the monitor last ran."""
        host, port = host_and_port(endpoint.base_url)
        if host:
            now = self.clock.monotonic()
            known = self.known(host, port)
            known.interval_seconds = endpoint.interval_seconds
            self._places.alive(known, now - max(seconds_ago, 0.0), now)

    @property
    def reason(self) -> str | None:
        """Why the monitor suspects itself; None while it does not."""
        return "; ".join(f"{one.cause}: {one.reason}" for one in self._outages.lasting.values()) or None

    # --- one probe

    async def probe(self, turn: Turn) -> ProbeReport:
        """The finished probe, judged. Raises CancelledError and nothing else."""
        watch = ProbeWatch(self, self._lookout)
        try:
            report = await self._probe(turn, watch)
        finally:
            watch.end()
        try:
            suspect = self._suspect(report)
            return report if suspect is None else await self._judged(report, *suspect)
        except Exception:
            log.exception("self_suspect not judged endpoint=%s", turn.endpoint.id)
            return report

    def _suspect(self, report: ProbeReport) -> tuple[Known, Failure] | None:
        """Take note of what a probe has seen; its failure, if it may be ours, and where."""
        journey = report.journey
        if journey is None or not journey.host:
            return None
        known = self.known(journey.host, journey.port)
        known.interval_seconds = report.turn.endpoint.interval_seconds
        self._note(known, journey)
        failure = failure_of(report.observation.outcome, journey, known.place.addresses)
        return None if failure is None else (known, failure)

    async def _judged(self, report: ProbeReport, known: Known, failure: Failure) -> ProbeReport:
        outage = await self._hold(failure)
        if outage is not None:
            outage.held += 1
            return _offline(report, outage)
        if not failure.was_connected:
            self._places.failed(known, failure.ended_at)
        return report

    async def _hold(self, failure: Failure) -> Outage | None:
        """Our outage that made the failure; None if it is the provider's."""
        began_at = self.clock.monotonic()
        is_frequent = self._places.newest > began_at - SHARED_SECONDS
        ask_at = max(began_at + (_PATIENCE_SECONDS if is_frequent else 0.0), failure.ended_at + SETTLE_SECONDS)
        self._outages.look_at_routes(began_at)
        has_route = self._has_route(failure)
        while True:
            outage = self._outages.covering(failure)
            if outage is not None:
                return outage
            now = self.clock.monotonic()
            evidence = self._evidence(failure, has_route, now >= began_at + HOLD_SECONDS)
            verdict = judge(failure, evidence)
            if verdict is not None:
                if verdict.cause is None:
                    return None
                since, dead_from = self._span_of(verdict.cause, failure)
                return self._outages.begin(verdict, failure, since, dead_from)
            if now >= ask_at:
                self._ask(failure)
            await self._more_by((began_at + HOLD_SECONDS if now >= ask_at else ask_at) - now)

    def _evidence(self, failure: Failure, has_route: bool, is_late: bool) -> Evidence:
        places, resolver = self._ask_places, self._ask_resolver
        is_asked = self._is_told(failure)
        is_alive = is_asked and self._lives_since(places.asking.told_from, failure.place.reach)
        is_resolved = resolver.asking.tells_of(failure.ended_at)
        return Evidence(
            has_route=has_route,
            signs=self._places.signs_since(failure.life_from),
            found_names=self._names_found(),
            is_resolver_alive=resolver.is_alive if is_resolved else None,
            silent=places.silent if is_asked and not is_alive else (),
            is_over=is_late or (is_asked and (is_resolved or not failure.is_unresolved)),
        )

    def _ask(self, failure: Failure) -> None:
        if not self._is_told(failure):
            self._ask_places.asking.begin()
        if failure.is_unresolved and not self._ask_resolver.asking.tells_of(failure.ended_at):
            self._ask_resolver.asking.begin()

    def _is_told(self, failure: Failure) -> bool:
        """Whether the last asking holds for this failure: one that found life tells nothing of what came after it."""
        asking = self._ask_places.asking
        return asking.tells_of(failure.ended_at) and (
            asking.told_from >= failure.ended_at or not self._lives_since(asking.told_from, failure.place.reach)
        )

    def _lives_since(self, at: float, reach: Reach) -> bool:
        return any(sign.at > at and sign.place.reach >= reach for sign in self._places.signs_since(at))

    def _span_of(self, cause: Cause, failure: Failure) -> tuple[float, float]:
        if cause is Cause.ROUTE:
            since, dead_from = self._places.newest, failure.ended_at
        elif cause is Cause.RESOLVER:
            since = max((at for _, at in self._names_found()), default=self._began_at)
            dead_from = self._ask_resolver.asking.told_from
        else:
            since, dead_from = self._places.newest, self._ask_places.asking.told_from
        return max(since, self._began_at), dead_from

    def _has_route(self, failure: Failure) -> bool:
        if failure.place.addresses:
            return has_any_route(failure.place.addresses)
        had_one = self._had_far_route  # a house without a way out looks its names up at home
        return self._has_far_route() or not had_one

    def _has_far_route(self) -> bool:
        found = has_any_route(())
        self._had_far_route = self._had_far_route or found
        return found

    # --- what is seen

    def known(self, host: str, port: int) -> Known:
        known = self._places.get(host, port)
        found = self._found.get(known.place.host)
        if found is not None and found[0] != known.place.addresses:
            known.place = Place(known.place.host, found[0])
        elif found is None and not known.place.addresses and is_address(known.place.host):
            known.place = Place(known.place.host, frozenset((known.place.host,)))
        return known

    def _note(self, known: Known, journey: Journey) -> None:
        at = journey.heard_at
        if journey.connected_at is not None and not journey.is_reused and (at is None or at < journey.connected_at):
            at = journey.connected_at
        if at is not None:
            self.life(known, at)

    def _answered(self, known: Known) -> None:
        self.life(known, self.clock.monotonic())

    def life(self, known: Known, at: float) -> None:
        self._places.alive(known, at, self.clock.monotonic())
        if self._outages.lasting:
            self._outages.life(known.place, at)
        self._news()

    def _on_found(self, host: str, addresses: tuple[str, ...]) -> None:
        now = self.clock.monotonic()
        self._found[host] = (frozenset(addresses), now)
        if host not in self._ask_resolver.local_names:
            self._outages.found(now)
        self._news()

    def _names(self) -> list[str]:
        """Names that DNS told, the newest first."""
        return sorted(self._found, key=lambda host: -self._found[host][1])

    def _names_found(self) -> Iterator[tuple[str, float]]:
        local = self._ask_resolver.local_names
        return ((host, at) for host, (_, at) in self._found.items() if host not in local)

    def _news(self) -> None:
        if self._waiting is not None:
            self._waiting.set()
            self._waiting = None

    async def _more_by(self, seconds: float) -> None:
        news = self._waiting = self._waiting or asyncio.Event()
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await news.wait()
        except TimeoutError:
            pass

    # --- by itself

    def stuck(self, known: Known, begun_at: float) -> None:
        """A connect takes suspiciously long: find out now what cannot be found out when it has timed out."""
        now = self.clock.monotonic()
        place = self.known(known.place.host, known.port).place
        found_at = self._found[place.host][1] if place.host in self._found else float("-inf")
        is_unresolved = not is_address(place.host) and found_at < begun_at - CACHE_SECONDS
        self._task(self._find_out(Failure(place, begun_at, now, is_unresolved)), "suspicion stuck")

    def silent(self, known: Known, since: float) -> float:
        """A stream that may be silent since then, or not: nobody says before it ends. Ask, if nobody else is heard of
        either; when somebody last was."""
        failure = Failure(known.place, since, self.clock.monotonic(), was_connected=True)
        if not self._lives_since(since, known.place.reach) and self._outages.covering(failure) is None:
            if any(not one.place.is_related_to(known.place) for one in self._places.to_ask(_MOST_LOOKED_AT)):
                self._task(self._find_out(failure), "suspicion silent")
            return failure.ended_at
        return self._places.newest

    async def _find_out(self, failure: Failure) -> None:
        await self._hold(failure)

    def _changed(self, outage: Outage) -> None:
        now, utc = self.clock.monotonic(), self.clock.now()
        if outage.until is None:
            outage.since_utc = utc - (now - outage.since)
            log.error(
                "self_suspect began cause=%s reason=%s silent_for=%.1fs",
                outage.cause, outage.reason, now - outage.since,
            )  # fmt: skip
            if self._rechecking is None or self._rechecking.done():
                self._rechecking = self._task(self._recheck(), "suspicion recheck")
            ended_at: float | None = None
        else:
            ended_at = max(outage.since_utc, utc - (now - outage.until))
            log.warning(
                "self_suspect ended cause=%s seconds=%.1f held=%d",
                outage.cause,
                outage.until - outage.since,
                outage.held,
            )
        self._metrics.self_suspect.set(1 if self._outages.lasting else 0)
        self._on_change(OwnOutage(outage.cause, outage.reason, outage.since_utc, ended_at))

    async def _recheck(self) -> None:
        """While we suspect ourselves: ask again, so that it ends even if no probe is due."""
        while self._outages.lasting:
            await self.clock.sleep(_RECHECK_SECONDS)
            self._outages.look_at_routes(self.clock.monotonic())
            if Cause.NETWORK in self._outages.lasting:
                await self._ask_places.asking.begin()
                if not self._ask_places.silent:
                    self._outages.end(Cause.NETWORK, self.clock.monotonic())  # nobody is left to ask
            if Cause.RESOLVER in self._outages.lasting:
                await self._ask_resolver.asking.begin()
                if self._ask_resolver.is_alive:
                    self._outages.end(Cause.RESOLVER, self.clock.monotonic())

    async def _mind_canaries(self) -> None:
        while True:
            await asyncio.gather(*(self._mind(canary) for canary in self._places.canaries()))
            await self.clock.sleep(_CANARY_SECONDS)

    async def _mind(self, canary: Known) -> None:
        begun_at = self.clock.monotonic()
        try:
            async with asyncio.timeout(_CANARY_TIMEOUT_SECONDS):
                addresses = await addresses_of(canary, self._resolver)
                is_alive = bool(addresses) and await reaches(addresses, canary.port)
        except TimeoutError:
            is_alive = False
        if is_alive:
            self._answered(canary)
            return
        now = self.clock.monotonic()
        was_well = canary.was_well(self._places.newest)
        if await self._hold(Failure(canary.place, begun_at, now, not canary.place.addresses)) is None:
            self._places.failed(canary, now)
            if was_well:
                log.warning("canary_silent canary=%s:%d others=answer", canary.place.host, canary.port)

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _offline(report: ProbeReport, outage: Outage) -> ProbeReport:
    """The same report, on our own account. What the probe met stays readable."""
    met = report.observation
    detail = f"{outage.reason} (as {met.outcome}: {met.detail})"[:_MOST_DETAIL]
    replace = msgspec.structs.replace
    return replace(report, observation=replace(met, outcome=Outcome.OFFLINE, detail=detail))
