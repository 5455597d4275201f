"""What goes into one probe and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.catalog.model import Endpoint
from monitor.observation import Observation


@dataclass(frozen=True, slots=True)
class Turn:
    """One slot of one endpoint whose probe is to be sent now. `recheck` 0 is the scheduled probe."""

    endpoint: Endpoint
    slot: int
    due_at: float  # UTC seconds
    recheck: int = 0
    kind: str = "chat"


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a probe's timeline: seconds from t0; negative before the connection was ready."""

    at_seconds: float
    label: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """A finished probe. `retry_after_seconds` is the provider's wish, already capped, for the key that was used."""

    turn: Turn
    observation: Observation
    retry_after_seconds: float | None = None
    timeline: tuple[Mark, ...] = ()
