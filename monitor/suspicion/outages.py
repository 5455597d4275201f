"""Our own outages, those that last and those that are over. Stamps are monotonic seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from monitor.suspicion.evidence import has_any_route
from monitor.suspicion.judge import Cause, Failure, Outage, Place, Reach, Verdict

_REMEMBERED = 64  # a stream may come to its end long after the outage that cut it
# A route that nothing has missed for so long is not waited for: its endpoint may be gone from the configuration.
_MISSED_SECONDS = 1200.0


@dataclass(frozen=True, slots=True)
class OwnOutage:
    """An outage as it is told: UTC seconds, `ended_at` None while it lasts."""

    cause: Cause
    reason: str
    started_at: float
    ended_at: float | None


class Outages:
    """`on_change` is called with an outage when it begins and when it ends."""

    def __init__(self, on_change: Callable[[Outage], None]) -> None:
        self._on_change = on_change
        self._past: deque[Outage] = deque(maxlen=_REMEMBERED)
        self._missed_at = 0.0
        self.lasting: dict[Cause, Outage] = {}

    def covering(self, failure: Failure) -> Outage | None:
        """The outage that explains a failure, if there is one."""
        if not (self.lasting or self._past):
            return None
        return next((one for one in (*self.lasting.values(), *self._past) if one.covers(failure)), None)

    def begin(self, verdict: Verdict, failure: Failure, since: float, dead_from: float) -> Outage:
        """Begin one, or add to the one of this cause that lasts."""
        assert verdict.cause is not None
        cause, place = verdict.cause, failure.place
        outage = self.lasting.get(cause)
        is_new = outage is None
        if outage is None:
            outage = Outage(cause, verdict.reason, min(since, dead_from), dead_from, place.reach)
        if cause is Cause.ROUTE:
            outage.addresses |= place.addresses
            self._missed_at = failure.ended_at
        outage.reach = min(outage.reach, place.reach)
        if is_new:
            self.lasting[cause] = outage
            self._on_change(outage)
        return outage

    def end(self, cause: Cause, at: float) -> None:
        outage = self.lasting.pop(cause, None)
        if outage is not None:
            outage.until = max(at, outage.dead_from)
            self._past.append(outage)
            self._on_change(outage)

    def end_all(self, at: float) -> None:
        for cause in list(self.lasting):
            self.end(cause, at)

    def life(self, place: Place, at: float) -> None:
        """A sign of life: the network is back, or was never gone for all."""
        network = self.lasting.get(Cause.NETWORK)
        if network is not None and at > network.dead_from and place.reach >= network.reach:
            self.end(Cause.NETWORK, at)
        route = self.lasting.get(Cause.ROUTE)
        if route is not None and at > route.dead_from:
            self.look_at_routes(at)
            route.is_partial = route.is_partial or (route.until is None and place.reach is not Reach.LOOPBACK)

    def found(self, at: float) -> None:
        """DNS answered."""
        resolver = self.lasting.get(Cause.RESOLVER)
        if resolver is not None and at > resolver.dead_from:
            self.end(Cause.RESOLVER, at)

    def look_at_routes(self, now: float) -> None:
        """End a route outage if the kernel knows its ways again."""
        route = self.lasting.get(Cause.ROUTE)
        if route is None:
            return
        addresses = route.addresses
        is_back = all(has_any_route((one,)) for one in addresses) if addresses else has_any_route(())
        if is_back or now - self._missed_at > _MISSED_SECONDS:
            self.end(Cause.ROUTE, now)
