"""Lanes: one kind of probe of one endpoint, with its own interval and phase. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from monitor.catalog.model import Endpoint


class Lane(NamedTuple):
    id: str
    endpoint: Endpoint
    kind: str
    interval_seconds: float


def lanes_of(endpoint: Endpoint) -> Iterator[Lane]:
    """The lane of the kind that decides, whose id is the endpoint's, and those of the others."""
    yield Lane(endpoint.id, endpoint, endpoint.kind, endpoint.interval_seconds)
    for each in endpoint.other_probes:
        yield Lane(endpoint.lane(each.kind), endpoint, each.kind, each.interval_seconds)
