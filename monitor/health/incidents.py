"""Incidents: confirmed changes into degraded or down, until operational. Pure.

An incident that deepens (degraded to down) ends and the next one begins, unless both began with the same failed
observation, as every quick outage does: then the one incident changes its state. Unknown ends nothing: nobody has
seen the endpoint well since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from monitor.health.state import State, Transition

Change = Literal["opened", "changed", "closed"]


@dataclass(frozen=True, slots=True)
class Incident:
    """Stamps are UTC seconds; `ended_at` is None while it lasts. No two of an endpoint and location begin at once."""

    endpoint: str
    location: str
    state: State
    cause: str | None
    started_at: float
    ended_at: float | None = None
    detail: str | None = None  # the redacted message that came with the cause

    @property
    def key(self) -> tuple[str, str, float]:
        return (self.endpoint, self.location, self.started_at)


@dataclass(frozen=True, slots=True)
class IncidentEvent:
    """What to write: `incident` as it is now. `changed` = another state, cause or message, under the same key."""

    change: Change
    incident: Incident


def events_of(open_incident: Incident | None, transition: Transition) -> tuple[IncidentEvent, ...]:
    """What `transition` means, given the endpoint's incident that is still open, if any."""
    if transition.state is State.UNKNOWN:
        return ()
    if transition.state is State.OPERATIONAL:
        return () if open_incident is None else (_closed(open_incident, transition.since),)
    begun = Incident(
        transition.endpoint,
        transition.location,
        transition.state,
        transition.cause,
        transition.since,
        detail=transition.detail,
    )
    if open_incident is None:
        return (IncidentEvent("opened", begun),)
    if open_incident.state is transition.state or transition.since <= open_incident.started_at:
        changed = replace(begun, started_at=open_incident.started_at)
        if (changed.state, changed.cause) == (open_incident.state, open_incident.cause):
            return ()
        return (IncidentEvent("changed", changed),)
    return (_closed(open_incident, transition.since), IncidentEvent("opened", begun))


class IncidentLedger:
    """The open incidents. Every method says what is to be written, in order. Use from one task."""

    def __init__(self, still_open: Iterable[Incident] = ()) -> None:
        self._open: dict[tuple[str, str], Incident] = {}
        self.take_up(still_open)

    def take_up(self, still_open: Iterable[Incident]) -> tuple[IncidentEvent, ...]:
        """Go on with what a former process left open. Of several of one endpoint and location the newest lasts; the
        others ended when the next one began, at the latest."""
        events = []
        for incident in sorted(still_open, key=lambda one: one.started_at):
            place = (incident.endpoint, incident.location)
            if place in self._open:
                events.append(_closed(self._open[place], incident.started_at))
            self._open[place] = incident
        return tuple(events)

    @property
    def still_open(self) -> Mapping[tuple[str, str], Incident]:
        """(endpoint, location) -> incident."""
        return MappingProxyType(self._open)

    def apply(self, transition: Transition) -> tuple[IncidentEvent, ...]:
        """Also right for a standing that was found after a restart (`Board.standings`): nothing is opened twice."""
        key = (transition.endpoint, transition.location)
        events = events_of(self._open.get(key), transition)
        for event in events:
            if event.change == "closed":
                del self._open[key]
            else:
                self._open[key] = event.incident
        return events

    def close_unwatched(self, is_watched: Callable[[str, str], bool], at: float) -> tuple[IncidentEvent, ...]:
        """Close what is open of an endpoint and location that nobody watches any more."""
        gone = [place for place in self._open if not is_watched(*place)]
        return tuple(_closed(self._open.pop(place), at) for place in gone)


def _closed(incident: Incident, at: float) -> IncidentEvent:
    return IncidentEvent("closed", replace(incident, ended_at=max(at, incident.started_at)))
