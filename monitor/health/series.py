"""What the board keeps of one series (an endpoint seen from a location) beside its windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from monitor.catalog.model import Endpoint
from monitor.health.machine import StateMachine
from monitor.health.state import Standing
from monitor.health.view import EndpointView, KindView, Vantage, WindowFigures
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.slot import Era

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Stamp:
    """When the last probe, and the last success, of a series began: UTC seconds, None if there was none."""

    endpoint: str
    location: str
    last_probe_at: float | None
    last_success_at: float | None


@dataclass(slots=True)
class Series:
    endpoint: str
    location: str
    machine: StateMachine
    eras: tuple[Era, ...] = ()  # oldest first
    last_probe_at: float | None = None
    last_success_at: float | None = None
    relevant_at: float = -NEVER  # monotonic: when the last countable or throttled outcome came
    probes: Counter[Outcome] = field(default_factory=Counter)  # of this process, rechecks included
    cost_usd: float = 0.0
    view: EndpointView | None = None
    is_shown: bool = False

    def stamp(self, last_probe_at: float | None, last_success_at: float | None) -> None:
        """Move the stamps on; what is older than what is known changes nothing."""
        if last_probe_at is not None and (self.last_probe_at is None or last_probe_at > self.last_probe_at):
            self.last_probe_at = last_probe_at
        if last_success_at is not None and (self.last_success_at is None or last_success_at > self.last_success_at):
            self.last_success_at = last_success_at

    def count(self, observation: Observation, *, decides: bool) -> None:
        """One of this process's own; those of kinds that decide nothing only cost."""
        if decides:
            self.probes[observation.outcome] += 1
        self.cost_usd += observation.cost_usd or 0.0

    def renew_view(
        self,
        endpoint: Endpoint,
        location: str,
        windows: Mapping[str, WindowFigures],
        interval_seconds: float,
        is_watched: bool,
        next_version: Callable[[], int],
        kinds: Mapping[str, KindView],
        vantage: Vantage = Vantage.SOUND,
    ) -> EndpointView:
        """What is to be shown from now on: the very view that was, if nothing has changed."""
        former = self.view
        # After a probe nobody need look for what is other than it was.
        known = former if former is not None and former.last_probe_at == self.last_probe_at else None
        standing = self.machine.standing if is_watched else Standing()
        view = EndpointView(
            endpoint=endpoint,
            location=location,
            state=standing.state,
            cause=standing.shown_cause,
            state_since=standing.since,
            usable=standing.usable,
            interval_seconds=interval_seconds,
            last_probe_at=self.last_probe_at,
            last_success_at=self.last_success_at,
            windows=windows,
            probes_total=dict(self.probes),
            cost_usd_total=self.cost_usd,
            unusable_cause=standing.unusable_cause,
            detail=standing.shown_detail,
            is_watched=is_watched,
            kinds=kinds,
            vantage=vantage,
            version=next_version() if known is None else known.version,
        )
        if known is not None:
            view = known if view == known else replace(view, version=next_version())
        self.view = view
        return view
