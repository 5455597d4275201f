"""What goes into one probe and what comes out of it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from monitor.catalog.model import Endpoint
from monitor.observation import Observation


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One slot of one endpoint whose probe is to be sent now. `recheck` 0 is the scheduled probe."""

    endpoint: Endpoint
    slot: int
    due_at: float  # UTC seconds
    recheck: int = 0
    kind: str = "chat"
    is_recovered: bool = False  # it fell due while it was another monitor's, which died over it
    lane: str = ""  # what it is scheduled under: an endpoint's kinds come and go by themselves

    def __post_init__(self) -> None:
        # Kept, not made anew: it is asked for a dozen times on each probe's way.
        if not self.lane:
            msgspec.structs.force_setattr(self, "lane", self.endpoint.lane(self.kind))

    @property
    def decides(self) -> bool:
        """Whether it is of the kind that uptime and state are made of."""
        return self.kind == self.endpoint.kind


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A point of a probe's timeline: seconds from t0; negative before the connection was ready."""

    at_seconds: float
    label: str


class Journey(msgspec.Struct, frozen=True, gc=False):
    """How far a probe came on the network. Stamps are monotonic seconds; None = it did not get there."""

    host: str
    port: int
    begun_at: float
    ended_at: float
    resolved_at: float | None = None  # also None where the host is an address, or the connection was a pooled one
    connected_at: float | None = None  # ready for the request, TLS included
    heard_at: float | None = None  # when bytes last came
    is_reused: bool = False


class Watch(Protocol):
    """Follows one probe while it is under way."""

    def sent(self, host: str, port: int) -> None: ...

    def connected(self, at: float) -> None:
        """A fresh connection is ready, at monotonic seconds."""


class ProbeReport(msgspec.Struct, frozen=True, gc=False):
    """A finished probe. `retry_after_seconds` is the provider's wish, already capped, for the key that was used.
    `journey` is None where nothing was sent; `timeline` is empty unless it was asked for."""

    turn: Turn
    observation: Observation
    retry_after_seconds: float | None = None
    timeline: tuple[Mark, ...] = ()
    journey: Journey | None = None
