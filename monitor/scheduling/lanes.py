"""Lanes: one kind of probe of one endpoint, with its own interval and phase. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from monitor.catalog.model import Endpoint
from monitor.slot import Cadence


class Lane(NamedTuple):
    id: str
    endpoint: Endpoint
    kind: str
    interval_seconds: float


@dataclass(slots=True)
class Watched:
    """A lane that is scheduled."""

    endpoint: Endpoint
    kind: str
    cadence: Cadence
    generation: int  # what was armed under another one is void
    shard: int
    last_began_at: float | None = None  # monotonic
    last_took_seconds: float = 0.0

    def is_as(self, endpoint: Endpoint) -> bool:
        return self.endpoint is endpoint or self.endpoint == endpoint


class WatchedLane(NamedTuple):
    """What others may know of it."""

    id: str
    endpoint: str
    kind: str
    cadence: Cadence
    shard: int


def lanes_of(endpoint: Endpoint) -> Iterator[Lane]:
    """The lane of the kind that decides, whose id is the endpoint's, and those of the others."""
    yield Lane(endpoint.id, endpoint, endpoint.kind, endpoint.interval_seconds)
    for each in endpoint.other_probes:
        yield Lane(endpoint.lane(each.kind), endpoint, each.kind, each.interval_seconds)
